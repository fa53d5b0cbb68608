// Values from one block of a running kernel to others, without a barrier: a word of 64 bits is a value of 32 bits and the turn in which it
// was sent. A reader looks again until it sees the turn that it waits for. A word is written and read as a whole, so nothing else need
// be ordered. All blocks must run at the same time, and a place must not be written again before all who want its value have read it.
#pragma once
#include <cstdint>

namespace vltune::cuda::exchange {

using Word = uint64_t;  // zero before the first turn, which is 1

#ifdef __CUDACC__

__device__ inline void send(Word* to, uint32_t value, uint32_t turn) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(static_cast<Word>(turn) << 32 | value) : "memory");
}
__device__ inline bool is_of(Word word, uint32_t turn) { return static_cast<uint32_t>(word >> 32) == turn; }

// What a thread waits for: up to kCount places, each of one word or of two neighbours (the first at a multiple of 16 bytes). `look` asks for
// all of them once and does not wait, so that other work can be done meanwhile; `receive` asks again for what is not there.
template <int kCount, int kWords> struct Wanted {
  Word words[kCount][kWords];

  // Place j is from + j * stride, for j < count.
  __device__ void look(const Word* from, int stride, int count) {
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      if (j < count) ask(j, from + j * stride);
  }
  __device__ void receive(const Word* from, int stride, int count, uint32_t turn) {
    for (bool all = false; !all;) {
      all = true;
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        if (j >= count || (is_of(words[j][0], turn) && is_of(words[j][kWords - 1], turn))) continue;
        ask(j, from + j * stride);
        all = false;
      }
    }
  }
  __device__ uint32_t value(int j, int i = 0) const { return static_cast<uint32_t>(words[j][i]); }

 private:
  __device__ void ask(int j, const Word* from) {
    if constexpr (kWords == 2) asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(words[j][0]), "=l"(words[j][1]) : "l"(from) : "memory");
    else asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(words[j][0]) : "l"(from) : "memory");
  }
};

#endif

}  // namespace vltune::cuda::exchange
