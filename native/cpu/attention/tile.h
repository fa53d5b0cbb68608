// The small dense products that attention is made of, on tiles that stay in the first two caches.
//
// A tile of scores is kept transposed: [keys][queries], with the queries in the vector lanes. Then the running maximum
// and sum of the softmax are lane by lane, and its scores serve as the left factor of every product that follows, along
// either axis.
//
//   scores   S^T [key][query]   = K  [key][h]     * Q^T [h][query]      left factor: rows apart kRowStride, terms 1
//   output   O   [query][h]    += P  [query][key] * V   [key][h]        left factor: rows 1 apart, terms kTileStride
//   dV, dK       [key][h]      += P^T[key][query] * dO  [query][h]      left factor: rows apart kTileStride, terms 1
//
// The strides of the left factor are constants, so that all its addresses are one register and a displacement.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "../../ops/attention.h"
#include "../simd.h"

namespace vltune::cpu::VLTUNE_ISA::attn {

constexpr int kQueries = 64;  // of a tile
constexpr int kKeys = 96;
// An odd number of cache lines, so that successive rows fall into different sets of the cache.
constexpr int kRowStride = kMaxHeadDim + 16;
constexpr int kTileStride = kQueries + 16;

// The register tile: kTileRows x 2 vectors of sums, and what its factors need, fit the vector registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#elif defined(__ARM_NEON) && defined(__aarch64__)
constexpr int kTileRows = 12;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif

inline int vectors(int elements) { return (elements + kLanes - 1) / kLanes; }
inline int padded(int elements) { return vectors(elements) * kLanes; }

enum class Start { kZero, kAdd, kScale };  // of a sum: at 0, at c, or at row_scale[row] * c

// c[Rows][Vectors * kLanes] = start + a[Rows][terms] * b[terms][Vectors * kLanes]
template <int Rows, int Vectors, int RowStep, int TermStep>
void register_tile(int terms, const float* a, const float* b, int64_t b_stride, float* c, int64_t c_stride, Start start,
                   const float* row_scale) {
  Vec sum[Rows][Vectors];
  if (start == Start::kZero) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[r][v] = zero();
  } else if (start == Start::kAdd) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[r][v] = load(c + r * c_stride + v * kLanes);
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec scale = broadcast(row_scale[r]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[r][v] = scale * load(c + r * c_stride + v * kLanes);
    }
  }
  for (int t = 0; t < terms; ++t) {
    Vec right[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec left = broadcast(a[r * RowStep]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[r][v] = fma(left, right[v], sum[r][v]);
    }
    a += TermStep;
    b += b_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) store(c + r * c_stride + v * kLanes, sum[r][v]);
}

using RegisterTile = void (*)(int, const float*, const float*, int64_t, float*, int64_t, Start, const float*);

template <int RowStep, int TermStep, int Vectors, int... RowsMinusOne>
constexpr std::array<RegisterTile, kTileRows> register_tiles(std::integer_sequence<int, RowsMinusOne...>) {
  return {register_tile<RowsMinusOne + 1, Vectors, RowStep, TermStep>...};
}

struct Range {
  int begin, end;
};

// c[rows][lanes] = start + a * b, where the group of rows that begins at r sums only the terms terms(r, r_end) and
// computes only the vectors of lanes lanes(r, r_end).
template <int RowStep, int TermStep, class Terms, class Lanes>
void product(int rows, const float* a, const float* b, int64_t b_stride, float* c, int64_t c_stride, Start start,
             const float* row_scale, Terms&& terms, Lanes&& lanes) {
  static constexpr auto kOne = register_tiles<RowStep, TermStep, 1>(std::make_integer_sequence<int, kTileRows>{});
  static constexpr auto kTwo = register_tiles<RowStep, TermStep, 2>(std::make_integer_sequence<int, kTileRows>{});
  const Range all = lanes(0, rows);
  // Vectors outside: one column of b, a cache's worth, meets all rows before the next one is read.
  for (int v = all.begin; v < all.end; v += 2) {
    for (int r = 0; r < rows; r += kTileRows) {
      const int count = std::min(kTileRows, rows - r);
      const Range own = lanes(r, r + count), term = terms(r, r + count);
      if (v + 2 <= own.begin || v >= own.end) continue;
      const auto& tile = v + 1 < all.end ? kTwo : kOne;
      tile[static_cast<size_t>(count - 1)](
          term.end - term.begin, a + r * RowStep + term.begin * TermStep, b + term.begin * b_stride + v * kLanes,
          b_stride, c + r * c_stride + v * kLanes, c_stride, start, row_scale ? row_scale + r : nullptr);
    }
  }
}

// ---- bringing rows of the operands into tiles -----------------------------------------------------------------------

// to[r][d] = from[r][d], in F32, with zeros up to a whole vector.
template <class D>
void copy_rows(int rows, int h, const D* from, int64_t from_stride, float* to, int64_t to_stride) {
  const int whole = h / kLanes * kLanes;
  for (int r = 0; r < rows; ++r, from += from_stride, to += to_stride) {
    for (int d = 0; d < whole; d += kLanes) store(to + d, load(from + d));
    if (whole < h) store(to + whole, load_n(from + whole, h - whole));
  }
}

template <class D>
void store_rows(int rows, int h, const float* from, int64_t from_stride, D* to, int64_t to_stride) {
  const int whole = h / kLanes * kLanes;
  for (int r = 0; r < rows; ++r, from += from_stride, to += to_stride) {
    for (int d = 0; d < whole; d += kLanes) store(to + d, load(from + d));
    if (whole < h) store_n(to + whole, load(from + whole), h - whole);
  }
}

#if defined(__AVX512F__)
// to[d][r] = from[r][d] for 16 rows and 16 d.
inline void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  // Quarters of rows r, r+4, r+8, r+12 are put beside each other while they are loaded; then each 128-bit lane is a 4 x
  // 4 transposition, the same for all lanes.
  for (int d = 0; d < 16; d += 4) {
    __m512 q[4];
    for (int i = 0; i < 4; ++i) {
      const float* p = from + i * from_stride + d;
      __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(p));
      x = _mm512_mask_broadcast_f32x4(x, 0x00f0, _mm_loadu_ps(p + 4 * from_stride));
      x = _mm512_mask_broadcast_f32x4(x, 0x0f00, _mm_loadu_ps(p + 8 * from_stride));
      q[i] = _mm512_mask_broadcast_f32x4(x, 0xf000, _mm_loadu_ps(p + 12 * from_stride));
    }
    const __m512 a = _mm512_unpacklo_ps(q[0], q[1]), b = _mm512_unpackhi_ps(q[0], q[1]);
    const __m512 c = _mm512_unpacklo_ps(q[2], q[3]), e = _mm512_unpackhi_ps(q[2], q[3]);
    const __m512 out[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xee), _mm512_shuffle_ps(b, e, 0x44),
                           _mm512_shuffle_ps(b, e, 0xee)};
    // A column now holds rows 0,4,8,12 lane by lane as (0 1 2 3), (4 5 6 7), ...: already in order.
    for (int i = 0; i < 4; ++i) _mm512_storeu_ps(to + (d + i) * to_stride, out[i]);
  }
}
constexpr int kSquare = 16;
#elif defined(__AVX2__)
inline void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int d = 0; d < 8; d += 4) {
    __m256 q[4];
    for (int i = 0; i < 4; ++i) {
      const float* p = from + i * from_stride + d;
      q[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * from_stride), 1);
    }
    const __m256 a = _mm256_unpacklo_ps(q[0], q[1]), b = _mm256_unpackhi_ps(q[0], q[1]);
    const __m256 c = _mm256_unpacklo_ps(q[2], q[3]), e = _mm256_unpackhi_ps(q[2], q[3]);
    _mm256_storeu_ps(to + (d + 0) * to_stride, _mm256_shuffle_ps(a, c, 0x44));
    _mm256_storeu_ps(to + (d + 1) * to_stride, _mm256_shuffle_ps(a, c, 0xee));
    _mm256_storeu_ps(to + (d + 2) * to_stride, _mm256_shuffle_ps(b, e, 0x44));
    _mm256_storeu_ps(to + (d + 3) * to_stride, _mm256_shuffle_ps(b, e, 0xee));
  }
}
constexpr int kSquare = 8;
#else
inline void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int d = 0; d < 4; ++d)
    for (int r = 0; r < 4; ++r) to[d * to_stride + r] = from[r * from_stride + d];
}
constexpr int kSquare = 4;
#endif

// to[d][r] = from[r][d] for r < rows and d < h; to[d][r] = 0 for r from there up to a whole vector.
inline void transpose_rows(int rows, int h, const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const int whole_rows = rows / kSquare * kSquare, whole_h = h / kSquare * kSquare;
  for (int r = 0; r < whole_rows; r += kSquare) {
    for (int d = 0; d < whole_h; d += kSquare)
      transpose_square(from + r * from_stride + d, from_stride, to + d * to_stride + r, to_stride);
    for (int d = whole_h; d < h; ++d)
      for (int i = r; i < r + kSquare; ++i) to[d * to_stride + i] = from[i * from_stride + d];
  }
  for (int d = 0; d < h && whole_rows < rows; ++d) {
    for (int r = whole_rows; r < rows; ++r) to[d * to_stride + r] = from[r * from_stride + d];
    for (int r = rows; r < padded(rows); ++r) to[d * to_stride + r] = 0;
  }
}

// Rows of F32 are transposed where they lie; rows of BF16 go through `wide` [rows][kRowStride] first.
inline void transpose_operand(int rows, int h, const float* from, int64_t stride, float* to, float*) {
  transpose_rows(rows, h, from, stride, to, kTileStride);
}
inline void transpose_operand(int rows, int h, const Bf16* from, int64_t stride, float* to, float* wide) {
  copy_rows(rows, h, from, stride, wide, kRowStride);
  transpose_rows(rows, h, wide, kRowStride, to, kTileStride);
}

}  // namespace vltune::cpu::VLTUNE_ISA::attn
