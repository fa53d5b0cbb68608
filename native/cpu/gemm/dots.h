// Products of few rows, as in generation: each column of C is a dot product with a row of the weight, read where it lies.
#pragma once
#include "../../runtime/thread_pool.h"
#include "blocking.h"
#include "finish.h"
#include "pack.h"

namespace vltune::cpu::VLTUNE_ISA {

template <int kRows>
void dot_rows(const float* x, int64_t x_ld, const float* w, int64_t k, Vec* acc) {
  for (int64_t p = 0; p < k; p += kLanes) {
    const int lanes = static_cast<int>(smaller(kLanes, k - p));
    const Vec v = lanes == kLanes ? load(w + p) : load_n(w + p, lanes);
    for (int i = 0; i < kRows; ++i) acc[i] = fma(lanes == kLanes ? load(x + i * x_ld + p) : load_n(x + i * x_ld + p, lanes), v, acc[i]);
  }
}

inline void dot_product(const Product& product, bool to_bf16, const float* x, int64_t x_ld, int64_t rows, int64_t column, Vec* acc) {
  alignas(64) float line[kReadAhead];
  for (int64_t p = 0; p < product.k; p += kReadAhead) {
    const int64_t count = smaller(kReadAhead, product.k - p);
    const float* w = line;
    if (usable_in_place(product.b, to_bf16)) w = static_cast<const float*>(product.b.data) + column * product.b.ld + p;
    else read_row(line, product.b, column, p, count, to_bf16);
    switch (rows) {
      case 1: dot_rows<1>(x + p, x_ld, w, count, acc); break;
      case 2: dot_rows<2>(x + p, x_ld, w, count, acc); break;
      case 3: dot_rows<3>(x + p, x_ld, w, count, acc); break;
      case 4: dot_rows<4>(x + p, x_ld, w, count, acc); break;
      case 5: dot_rows<5>(x + p, x_ld, w, count, acc); break;
      case 6: dot_rows<6>(x + p, x_ld, w, count, acc); break;
      case 7: dot_rows<7>(x + p, x_ld, w, count, acc); break;
      default: dot_rows<8>(x + p, x_ld, w, count, acc);
    }
  }
}

inline void run_dots(const Gemm& g, ThreadPool* pool, float* x) {
  // A's rows as floats, both products' side by side.
  const int64_t ld = g.base.k + g.extra.k;
  for (int64_t i = 0; i < g.m; ++i) {
    read_row(x + i * ld, g.base.a, i, 0, g.base.k, g.bf16);
    if (g.extra.k > 0) read_row(x + i * ld + g.base.k, g.extra.a, i, 0, g.extra.k, g.bf16);
  }
  const int64_t grain = larger(16, (1 << 16) / (larger(1, ld) * g.m));
  pool->parallel_for(g.n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      Vec acc[kFewRows];
      for (int64_t i = 0; i < g.m; ++i) acc[i] = zero();
      dot_product(g.base, g.bf16, x, ld, g.m, j, acc);
      if (g.extra.k > 0) dot_product(g.extra, g.bf16, x + g.base.k, ld, g.m, j, acc);
      for (int64_t i = 0; i < g.m; ++i) {
        float sum = reduce_add(acc[i]) * g.alpha;
        if (g.bias) sum += g.bias_dtype == DType::F32 ? static_cast<const float*>(g.bias)[j] : to_float(static_cast<const Bf16*>(g.bias)[j]);
        if (g.c_dtype == DType::F32) {
          float* c = static_cast<float*>(g.c) + i * g.n + j;
          *c = g.accumulate ? *c + sum : sum;
        } else {
          Bf16* c = static_cast<Bf16*>(g.c) + i * g.n + j;
          from_float(g.accumulate ? to_float(*c) + sum : sum, c);
        }
      }
    }
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
