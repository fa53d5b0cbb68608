// Packing of operands into the order in which the F32 micro-kernel reads them.
#pragma once
#include "kernel_f32.h"
#include "operand.h"

namespace vltune::cpu::VLTUNE_ISA {

#if defined(__AVX512F__)
// A square of 16 x 16 words of 32 bits, turned; strides in bytes.
inline void transpose_words(const void* src, int64_t src_bytes, void* dst, int64_t dst_bytes) {
  for (int g = 0; g < 4; ++g) {  // columns 4g .. 4g+3: rows 4 apart share a register, then 4x4 transposes within its lanes
    __m512 v[4];
    for (int j = 0; j < 4; ++j) {
      const char* p = static_cast<const char*>(src) + j * src_bytes + 16 * g;
      const auto quarter = [&](int q) { return _mm_loadu_ps(reinterpret_cast<const float*>(p + 4 * q * src_bytes)); };
      v[j] = _mm512_castps128_ps512(quarter(0));
      v[j] = _mm512_insertf32x4(v[j], quarter(1), 1);
      v[j] = _mm512_insertf32x4(v[j], quarter(2), 2);
      v[j] = _mm512_insertf32x4(v[j], quarter(3), 3);
    }
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1])), b = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3])), d = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
    char* out = static_cast<char*>(dst) + 4 * g * dst_bytes;
    _mm512_storeu_ps(out, _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)));
    _mm512_storeu_ps(out + dst_bytes, _mm512_castpd_ps(_mm512_unpackhi_pd(a, c)));
    _mm512_storeu_ps(out + 2 * dst_bytes, _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)));
    _mm512_storeu_ps(out + 3 * dst_bytes, _mm512_castpd_ps(_mm512_unpackhi_pd(b, d)));
  }
}
#endif

// dst[c * dst_ld + r] = src[r * src_ld + c] for r, c in 0..kLanes-1.
inline void transpose_square(const float* src, int64_t src_ld, float* dst, int64_t dst_ld) {
#if defined(__AVX512F__)
  transpose_words(src, src_ld * 4, dst, dst_ld * 4);
#elif defined(__AVX2__)
  for (int g = 0; g < 2; ++g) {
    __m256 v[4];
    for (int j = 0; j < 4; ++j) {
      const float* p = src + j * src_ld + 4 * g;
      v[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * src_ld), 1);
    }
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1])), b = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3])), d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    float* out = dst + 4 * g * dst_ld;
    _mm256_storeu_ps(out, _mm256_castpd_ps(_mm256_unpacklo_pd(a, c)));
    _mm256_storeu_ps(out + dst_ld, _mm256_castpd_ps(_mm256_unpackhi_pd(a, c)));
    _mm256_storeu_ps(out + 2 * dst_ld, _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)));
    _mm256_storeu_ps(out + 3 * dst_ld, _mm256_castpd_ps(_mm256_unpackhi_pd(b, d)));
  }
#else
  for (int r = 0; r < kLanes; ++r)
    for (int c = 0; c < kLanes; ++c) dst[c * dst_ld + r] = src[r * src_ld + c];
#endif
}

constexpr int64_t kReadAhead = 256;  // elements of a row converted at a time where sixteen rows must stay in L1
constexpr int64_t kLine = 1024;      // and where it is one or two

// Columns of B in panels of kTileColumns, each k rows long; columns beyond are zero.
inline void pack_b_f32(float* dst, const Operand& b, bool to_bf16, int64_t first_k, int64_t k, int64_t column, int64_t columns) {
  const bool in_place = usable_in_place(b, to_bf16);
  if (!b.transposed) {  // along the stored rows, for all panels at once
    alignas(64) float line[kLine];
    for (int64_t j0 = 0; j0 < columns; j0 += kLine / kTileColumns * kTileColumns) {
      const int64_t count = columns - j0 < kLine / kTileColumns * kTileColumns ? columns - j0 : kLine / kTileColumns * kTileColumns;
      for (int64_t p = 0; p < k; ++p) {
        const float* src = line;
        if (in_place) src = static_cast<const float*>(b.data) + (first_k + p) * b.ld + column + j0;
        else read_row(line, b, first_k + p, column + j0, count, to_bf16);
        float* out = dst + j0 * k + p * kTileColumns;
        int64_t j = 0;
        for (; j + kTileColumns <= count; j += kTileColumns, out += k * kTileColumns)
          for (int v = 0; v < kTileVectors; ++v) store(out + v * kLanes, load(src + j + v * kLanes));
        if (j < count) {
          std::memcpy(out, src + j, static_cast<size_t>(count - j) * 4);
          std::memset(out + count - j, 0, static_cast<size_t>(kTileColumns - (count - j)) * 4);
        }
      }
    }
    return;
  }
  alignas(64) float rows[kLanes][kReadAhead + kLanes];
  for (int64_t j0 = 0; j0 < columns; j0 += kTileColumns)
    for (int64_t part = 0; part < kTileColumns; part += kLanes) {
      const int64_t left = columns - j0 - part, filled = left < 0 ? 0 : left < kLanes ? left : kLanes;
      for (int64_t p0 = 0; p0 < k; p0 += kReadAhead) {
        const int64_t count = k - p0 < kReadAhead ? k - p0 : kReadAhead;
        float* out = dst + j0 * k + p0 * kTileColumns + part;
        const float* src = &rows[0][0];
        int64_t src_ld = kReadAhead + kLanes;
        if (in_place && filled == kLanes) {
          src = static_cast<const float*>(b.data) + (column + j0 + part) * b.ld + first_k + p0;
          src_ld = b.ld;
        } else {
          for (int64_t j = 0; j < filled; ++j) read_row(rows[j], b, column + j0 + part + j, first_k + p0, count, to_bf16);
          for (int64_t j = filled; j < kLanes; ++j) std::memset(rows[j], 0, static_cast<size_t>(count) * 4);
        }
        int64_t p = 0;
        for (; p + kLanes <= count; p += kLanes) transpose_square(src + p, src_ld, out + p * kTileColumns, kTileColumns);
        for (; p < count; ++p)
          for (int j = 0; j < kLanes; ++j) out[p * kTileColumns + j] = src[j * src_ld + p];
      }
    }
}

// Rows of A that are stored as rows, converted: dst[i * dst_ld + p].
inline void pack_a_rows(float* dst, int64_t dst_ld, const Operand& a, bool to_bf16, int64_t row, int64_t rows, int64_t first_k, int64_t k) {
  for (int64_t i = 0; i < rows; ++i) read_row(dst + i * dst_ld, a, row + i, first_k, k, to_bf16);
}

// Rows of A that are stored as columns, in panels of `panel` rows: panel q at dst + q * panel * k, element (i, p) of it at [p * panel + i].
inline void pack_a_columns(float* dst, int64_t panel, const Operand& a, bool to_bf16, int64_t row, int64_t rows, int64_t first_k, int64_t k) {
  float line[8 * kTileRows + kLanes];
  for (int64_t p = 0; p < k; ++p) {
    const float* src = line;
    if (usable_in_place(a, to_bf16)) src = static_cast<const float*>(a.data) + (first_k + p) * a.ld + row;
    else read_row(line, a, first_k + p, row, rows, to_bf16);
    float* out = dst + p * panel;
    int64_t i = 0;
    for (; i + panel <= rows; i += panel, out += panel * k)
      for (int64_t q = 0; q < panel; q += kLanes) {
        const int count = static_cast<int>(panel - q < kLanes ? panel - q : kLanes);
        store_n(out + q, load_n(src + i + q, count), count);
      }
    for (int64_t q = 0; i + q < rows; ++q) out[q] = src[i + q];
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
