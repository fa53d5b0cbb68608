// Reading NF4 tensors, for the ops that take them as weights.
#pragma once
#include "../runtime/tensor.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// to[0..count) = elements first.. of x, row-major and flat; `first` is even. Exact in F32, rounded once to Bf16.
void nf4_read(const Tensor& x, int64_t first, int64_t count, float* to);
void nf4_read(const Tensor& x, int64_t first, int64_t count, Bf16* to);

}  // namespace vltune::cpu::VLTUNE_ISA
