// Reading NF4 weights on the device: a block's scale, a word's eight elements, and whole rows for products that want them plain.
#pragma once
#include <cstdint>

#include "../ops/code_tables.h"
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {

constexpr int kNf4Word = 8;  // elements in 32 bits of codes: element 2j is the upper half of byte j

// Rows first_row.. of weight [o,i], `rows` of them, as to[r * to_stride + c], F32, BF16 or F16: code * scale rounded once. Works on any
// shape and alignment; with i a multiple of 8 and to 16-byte aligned at every row, at the speed of memory.
void dequantize_rows(const OpCall& call, const Tensor& nf4_weight, int64_t first_row, int64_t rows, void* to, DType to_dtype,
                     int64_t to_stride);

#ifdef __CUDACC__

// What the codes of a block are multiplied by. Two roundings for double quantisation, as bitsandbytes has them.
__device__ inline float nf4_scale(const Nf4State& state, int64_t block) {
  if (state.absmax) return __ldg(state.absmax + block);
  const float nested = __ldg(state.nested_absmax + block / kNf4NestedBlock);
  return __fadd_rn(__fmul_rn(__ldg(kDynamicMapSigned + __ldg(state.absmax_u8 + block)), nested), state.offset);
}

// Bits of element k of a word, in the lower four; above them may be others.
__device__ inline uint32_t nf4_nibble(uint32_t word, int k) { return word >> (k / 2 * 8 + (k % 2 ? 0 : 4)); }

// The eight elements of a word, times its block's scale. Codes are looked up across the warp: all 32 lanes take part, and lane l
// brings code = kNf4Code[l % 16].
__device__ inline void nf4_decode(uint32_t word, float scale, float code, float (&to)[kNf4Word]) {
#pragma unroll
  for (int k = 0; k < kNf4Word; ++k) to[k] = __fmul_rn(__shfl_sync(0xffffffffu, code, static_cast<int>(nf4_nibble(word, k))), scale);
}
template <class T> __device__ inline void nf4_decode(uint32_t word, float scale, float code, uint32_t (&to)[kNf4Word / 2]) {
  float value[kNf4Word];
  nf4_decode(word, scale, code, value);
#pragma unroll
  for (int k = 0; k < kNf4Word / 2; ++k) to[k] = pack_pair<T>(value[2 * k], value[2 * k + 1]);
}

// A block's 16 values in BF16 or F16, for a thread that reads many elements of one block (16 or more pay for making it) and for branches
// that a warp does not take together: nothing but registers. Lower and upper bytes of the values are two tables for __byte_perm.
template <class T> struct Nf4Values {
  uint32_t lower[4], upper[4];

  __device__ explicit Nf4Values(float scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t a = pack_pair<T>(__fmul_rn(kNf4Code[4 * i], scale), __fmul_rn(kNf4Code[4 * i + 1], scale));
      const uint32_t b = pack_pair<T>(__fmul_rn(kNf4Code[4 * i + 2], scale), __fmul_rn(kNf4Code[4 * i + 3], scale));
      lower[i] = __byte_perm(a, b, 0x6420);
      upper[i] = __byte_perm(a, b, 0x7531);
    }
  }

  __device__ void decode(uint32_t word, uint32_t (&to)[kNf4Word / 2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t four = half ? word >> 16 : word;  // selectors, of which __byte_perm looks at the lower 16 bits
      const uint32_t index = four & 0x7777u;
      const uint32_t is_upper_half = __byte_perm(0x0000ff00u, 0, (four >> 3) & 0x1111u);
      const uint32_t low = select(is_upper_half, __byte_perm(lower[2], lower[3], index), __byte_perm(lower[0], lower[1], index));
      const uint32_t high = select(is_upper_half, __byte_perm(upper[2], upper[3], index), __byte_perm(upper[0], upper[1], index));
      to[2 * half] = __byte_perm(low, high, 0x4051);  // byte 1 of low and of high is the first element, byte 0 the second
      to[2 * half + 1] = __byte_perm(low, high, 0x6273);
    }
  }

 private:
  __device__ static uint32_t select(uint32_t mask, uint32_t a, uint32_t b) { return (a & mask) | (b & ~mask); }
};

#endif

}  // namespace vltune::cuda
