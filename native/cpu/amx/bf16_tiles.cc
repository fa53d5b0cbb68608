#include "bf16_tiles.h"

#include <immintrin.h>

namespace vltune::cpu::amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Eight tiles of 16 rows of 64 bytes. In static memory: GCC 12's intrinsic tells the compiler of its first eight bytes only.
const TileConfig kConfig = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

template <int kRows>
void dot_rows(const Run* runs, int count, float* out, bool add) {
  __m512 acc[kRows][2];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 2; ++j) acc[i][j] = add ? _mm512_loadu_ps(out + i * kColumns + 16 * j) : _mm512_setzero_ps();
  for (int r = 0; r < count; ++r) {
    const uint16_t* a[(kRows + 2) / 3];
    for (int g = 0; g < (kRows + 2) / 3; ++g) a[g] = runs[r].a + 3 * g * runs[r].a_ld;
    const int64_t ld = runs[r].a_ld;
    const uint16_t* b = runs[r].b;
    for (int64_t k = 0; k < runs[r].k; k += 2) {
      const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 32);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const __m512bh x = (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(a[i / 3] + i % 3 * ld));
        acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
        acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
      }
#pragma GCC unroll 8
      for (int g = 0; g < (kRows + 2) / 3; ++g) a[g] += 2;
      b += 64;
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 2; ++j) _mm512_storeu_ps(out + i * kColumns + 16 * j, acc[i][j]);
}

}  // namespace

void amx_begin() { _tile_loadconfig(&kConfig); }

void amx_end() { _tile_release(); }

// Four tiles of C (0 to 3), two of A (4, 5), two of B (6, 7).
void amx_tile(const Run* runs, int count, float* out, bool add) {
  if (add) {
    _tile_loadd(0, out, 128);
    _tile_loadd(1, out + 16, 128);
    _tile_loadd(2, out + 16 * kColumns, 128);
    _tile_loadd(3, out + 16 * kColumns + 16, 128);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int r = 0; r < count; ++r) {
    const uint16_t* a = runs[r].a;
    const uint16_t* below = a + 16 * runs[r].a_ld;
    const uint16_t* b = runs[r].b;
    const int64_t stride = runs[r].a_ld * 2;
    for (int64_t k = 0; k < runs[r].k; k += 32) {
      _tile_loadd(6, b, 128);
      _tile_loadd(4, a, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + 32, 128);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, below, stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      a += 32;
      below += 32;
      b += 16 * 64;
    }
  }
  _tile_stored(0, out, 128);
  _tile_stored(1, out + 16, 128);
  _tile_stored(2, out + 16 * kColumns, 128);
  _tile_stored(3, out + 16 * kColumns + 16, 128);
}

void dot_tile(const Run* runs, int count, int rows, float* out, bool add) {
  switch (rows) {
    case 1: return dot_rows<1>(runs, count, out, add);
    case 2: return dot_rows<2>(runs, count, out, add);
    case 3: return dot_rows<3>(runs, count, out, add);
    case 4: return dot_rows<4>(runs, count, out, add);
    case 5: return dot_rows<5>(runs, count, out, add);
    case 6: return dot_rows<6>(runs, count, out, add);
    case 7: return dot_rows<7>(runs, count, out, add);
    case 8: return dot_rows<8>(runs, count, out, add);
    case 9: return dot_rows<9>(runs, count, out, add);
    case 10: return dot_rows<10>(runs, count, out, add);
    case 11: return dot_rows<11>(runs, count, out, add);
    case 12: return dot_rows<12>(runs, count, out, add);
    case 13: return dot_rows<13>(runs, count, out, add);
    default: return dot_rows<14>(runs, count, out, add);
  }
}

void store_bf16(const float* in, int rows, int columns, uint16_t* c, int64_t c_ld) {
  const __mmask32 mask = columns >= 32 ? 0xffffffffu : (1u << columns) - 1;
  for (int i = 0; i < rows; ++i) {
    const __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(in + i * kColumns + 16), _mm512_loadu_ps(in + i * kColumns));
    _mm512_mask_storeu_epi16(c + i * c_ld, mask, (__m512i)v);
  }
}

}  // namespace vltune::cpu::amx
