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
__device__ inline uint32_t receive(const Word* from, uint32_t turn) {
  Word word;
  do asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  while (static_cast<uint32_t>(word >> 32) != turn);
  return static_cast<uint32_t>(word);
}

// Two neighbours, the first at a multiple of 16 bytes. `look` asks for them once; `receive` asks until they are there.
struct Pair {
  Word words[2];
  __device__ void look(const Word* from) {
    asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(words[0]), "=l"(words[1]) : "l"(from) : "memory");
  }
  __device__ uint2 receive(const Word* from, uint32_t turn) {
    while (static_cast<uint32_t>(words[0] >> 32) != turn || static_cast<uint32_t>(words[1] >> 32) != turn) look(from);
    return make_uint2(static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[1]));
  }
};

#endif

}  // namespace vltune::cuda::exchange
