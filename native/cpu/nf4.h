// Reading NF4 tensors, for the ops that take them as weights.
#pragma once
#include "../ops/code_tables.h"
#include "../runtime/tensor.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// What the codes of a block are multiplied by. Two roundings for double quantisation, as bitsandbytes has them.
inline float nf4_scale(const Nf4State& state, int64_t block) {
  if (state.absmax) return state.absmax[block];
  return kDynamicMapSigned[state.absmax_u8[block]] * state.nested_absmax[block / kNf4NestedBlock] + state.offset;
}

// to[0..count) = elements first.. of x, row-major and flat. Exact in F32, rounded once to Bf16.
void nf4_read(const Tensor& x, int64_t first, int64_t count, float* to);
void nf4_read(const Tensor& x, int64_t first, int64_t count, Bf16* to);

}  // namespace vltune::cpu::VLTUNE_ISA
