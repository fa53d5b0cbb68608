// The last step of an element of C, the same for every way of computing its sum.
#pragma once
#include "arithmetic.h"
#include "gemm.h"

namespace vltune::cpu::VLTUNE_ISA {

// Brings `count` finished sums of row `row` from column `column` on to C: bias, accumulation, rounding. `sums` is C itself if
// the product is not staged.
inline void finish_row(const Gemm& g, int64_t row, int64_t column, int64_t count, float* sums, bool staged) {
  if (!staged && !g.bias) return;
  const float* bias32 = g.bias && g.bias_dtype == DType::F32 ? static_cast<const float*>(g.bias) + column : nullptr;
  const Bf16* bias16 = g.bias && g.bias_dtype == DType::BF16 ? static_cast<const Bf16*>(g.bias) + column : nullptr;
  for (int64_t j = 0; j < count; j += kLanes) {
    const int lanes = static_cast<int>(smaller(kLanes, count - j));
    Vec v = load_n(sums + j, lanes);
    if (bias32) v = v + load_n(bias32 + j, lanes);
    if (bias16) v = v + load_n(bias16 + j, lanes);
    if (!staged || g.c_dtype == DType::F32) {
      float* c = static_cast<float*>(g.c) + row * g.n + column + j;
      if (staged && g.accumulate) v = v + load_n(c, lanes);
      store_n(c, v, lanes);
    } else {
      Bf16* c = static_cast<Bf16*>(g.c) + row * g.n + column + j;
      if (g.accumulate) v = v + load_n(c, lanes);
      store_n(c, v, lanes);
    }
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
