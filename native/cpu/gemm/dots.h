// Products of few rows, as in generation: each column of C is a dot product with a row of the weight, read once where it lies.
#pragma once
#include "../../runtime/thread_pool.h"
#include "blocking.h"
#include "finish.h"
#include "pack.h"

namespace vltune::cpu::VLTUNE_ISA {

// kColumns rows of the weight at a time keep enough additions in flight when there is but one row of x.
template <class T, int kRows, int kColumns>
void dot_stored(const T* w, int64_t w_ld, const float* x, int64_t x_ld, int64_t k, Vec (*sums)[kColumns]) {
  Vec acc[kRows][kColumns];  // copies, which stay in registers
  std::memcpy(acc, sums, sizeof acc);
  int64_t p = 0;
  for (; p + kLanes <= k; p += kLanes)
    for (int c = 0; c < kColumns; ++c) {
      const Vec v = load(w + c * w_ld + p);
      for (int i = 0; i < kRows; ++i) acc[i][c] = fma(load(x + i * x_ld + p), v, acc[i][c]);
    }
  if (p < k) {
    const int count = static_cast<int>(k - p);
    for (int c = 0; c < kColumns; ++c) {
      const Vec v = load_n(w + c * w_ld + p, count);
      for (int i = 0; i < kRows; ++i) acc[i][c] = fma(load_n(x + i * x_ld + p, count), v, acc[i][c]);
    }
  }
  std::memcpy(sums, acc, sizeof acc);
}

#if defined(__AVX512F__)
// Rows of NF4 that start with a block. A register of 16 bytes gives the even elements by their high nibbles and the odd ones by
// their low nibbles; x lies in that order (split_even_odd).
inline bool by_nibbles(const Operand& m) { return m.dtype == DType::NF4 && m.ld % kNf4Block == 0; }

template <int kRows, int kColumns>
void dot_nf4(const Operand& m, int64_t row, bool to_bf16, const float* x, int64_t x_ld, Vec (*sums)[kColumns]) {
  Vec acc[kRows][kColumns];
  std::memcpy(acc, sums, sizeof acc);
  const int64_t blocks = m.ld / kNf4Block;
  const uint8_t* codes = static_cast<const uint8_t*>(m.data) + row * m.ld / 2;
  const Vec code = load(kNf4Code);
  for (int64_t b = 0; b < blocks; ++b)
    for (int c = 0; c < kColumns; ++c) {
      Vec values = code * broadcast(nf4_scale(m.nf4, (row + c) * blocks + b));
      if (to_bf16) {  // to nearest even; there is no NaN to take care of
        const __m512i bits = _mm512_castps_si512(values.v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        values.v = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(-65536)));
      }
      for (int half = 0; half < 2; ++half) {
        const uint8_t* bytes = codes + c * m.ld / 2 + b * (kNf4Block / 2) + half * 16;
        const __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
        const Vec even = {_mm512_permutexvar_ps(_mm512_srli_epi32(low, 4), values.v)}, odd = {_mm512_permutexvar_ps(low, values.v)};
        const float* at = x + b * kNf4Block + half * 32;
        for (int i = 0; i < kRows; ++i) {
          acc[i][c] = fma(load(at + i * x_ld), even, acc[i][c]);
          acc[i][c] = fma(load(at + i * x_ld + 16), odd, acc[i][c]);
        }
      }
    }
  std::memcpy(sums, acc, sizeof acc);
}

// Each 32 elements: the even ones, then the odd ones.
inline void split_even_odd(float* x, int64_t count) {
  for (int64_t p = 0; p < count; p += 32) {
    float turned[32];
    for (int j = 0; j < 32; ++j) turned[j / 2 + j % 2 * 16] = x[p + j];
    std::memcpy(x + p, turned, sizeof turned);
  }
}
#else
inline bool by_nibbles(const Operand&) { return false; }
template <int kRows, int kColumns> void dot_nf4(const Operand&, int64_t, bool, const float*, int64_t, Vec (*)[kColumns]) {}
inline void split_even_odd(float*, int64_t) {}
#endif

template <int kRows, int kColumns>
void dot_product(const Product& product, bool to_bf16, const float* x, int64_t x_ld, int64_t column, Vec (*acc)[kColumns]) {
  const Operand& m = product.b;
  const int64_t first = column * m.ld;
  if (m.dtype == DType::F32 && !to_bf16) {
    dot_stored<float, kRows>(static_cast<const float*>(m.data) + first, m.ld, x, x_ld, product.k, acc);
  } else if (m.dtype == DType::BF16) {
    dot_stored<Bf16, kRows>(static_cast<const Bf16*>(m.data) + first, m.ld, x, x_ld, product.k, acc);
  } else if (by_nibbles(m)) {
    dot_nf4<kRows>(m, column, to_bf16, x, x_ld, acc);
  } else {
    alignas(64) float lines[kColumns][kReadAhead];
    for (int64_t p = 0; p < product.k; p += kReadAhead) {
      const int64_t count = smaller(kReadAhead, product.k - p);
      for (int c = 0; c < kColumns; ++c) read_row(lines[c], m, column + c, p, count, to_bf16);
      dot_stored<float, kRows>(lines[0], kReadAhead, x + p, x_ld, count, acc);
    }
  }
}

// Columns begin .. end-1 of C; x holds the rows of both products' A, side by side.
template <int kRows, int kColumns>
void dot_columns(const Gemm& g, const float* x, int64_t begin, int64_t end) {
  const int64_t ld = dots_row(g);
  int64_t j = begin;
  for (; j + kColumns <= end; j += kColumns) {
    Vec acc[kRows][kColumns];
    for (int i = 0; i < kRows; ++i)
      for (int c = 0; c < kColumns; ++c) acc[i][c] = zero();
    dot_product<kRows>(g.base, g.bf16, x, ld, j, acc);
    if (g.extra.k > 0) dot_product<kRows>(g.extra, g.bf16, x + g.base.k, ld, j, acc);
    for (int i = 0; i < kRows; ++i) {
      float sums[kColumns];
      for (int c = 0; c < kColumns; ++c) sums[c] = reduce_add(acc[i][c]) * g.alpha;
      finish_row(g, i, j, kColumns, sums, true);
    }
  }
  if constexpr (kColumns > 1) dot_columns<kRows, 1>(g, x, j, end);
}

inline void run_dots(const Gemm& g, ThreadPool* pool, float* x) {
  const int64_t ld = dots_row(g);
  for (int64_t i = 0; i < g.m; ++i) {
    read_row(x + i * ld, g.base.a, i, 0, g.base.k, g.bf16);
    if (by_nibbles(g.base.b)) split_even_odd(x + i * ld, g.base.k);
    if (g.extra.k > 0) read_row(x + i * ld + g.base.k, g.extra.a, i, 0, g.extra.k, g.bf16);
  }
  const int64_t grain = round_up(larger(16, (1 << 17) / (larger(1, ld) * g.m)), 4);
  pool->parallel_for(g.n, grain, [&](int64_t begin, int64_t end) {
    switch (g.m) {
      case 1: return dot_columns<1, 4>(g, x, begin, end);
      case 2: return dot_columns<2, 4>(g, x, begin, end);
      case 3: return dot_columns<3, 4>(g, x, begin, end);
      case 4: return dot_columns<4, 4>(g, x, begin, end);
      case 5: return dot_columns<5, 2>(g, x, begin, end);
      case 6: return dot_columns<6, 2>(g, x, begin, end);
      case 7: return dot_columns<7, 2>(g, x, begin, end);
      default: return dot_columns<8, 2>(g, x, begin, end);
    }
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
