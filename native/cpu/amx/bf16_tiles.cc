#include "bf16_tiles.h"

#include <immintrin.h>

#include <cstring>

namespace vltune::cpu::amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Eight tiles of 16 rows of 64 bytes. In static memory: GCC 12's intrinsic tells the compiler of its first eight bytes only.
const TileConfig kConfig = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Eight rows of a panel of sixteen, from row `row` on.
void dot_rows(const Run* runs, int count, int row, const float* sums, float* out) {
  constexpr int kRows = 8;
  __m512 acc[kRows][2];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 2; ++j) acc[i][j] = sums ? _mm512_loadu_ps(sums + (row + i) * kColumns + 16 * j) : _mm512_setzero_ps();
  for (int r = 0; r < count; ++r) {
    const int64_t ld = runs[r].a_row;
    const uint16_t* a = runs[r].a + row * ld;
    const uint16_t* b = runs[r].b;
    for (int64_t step = 0; step < runs[r].steps; ++step) {
      for (int pair = 0; pair < 16; ++pair) {
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 32);
        for (int i = 0; i < kRows; ++i) {
          int32_t both;
          std::memcpy(&both, a + i * ld + pair * 2, 4);
          const __m512bh x = (__m512bh)_mm512_set1_epi32(both);
          acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
          acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
        }
        b += 64;
      }
      a += runs[r].a_step;
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 2; ++j) _mm512_storeu_ps(out + (row + i) * kColumns + 16 * j, acc[i][j]);
}

}  // namespace

void amx_begin() { _tile_loadconfig(&kConfig); }

void amx_end() { _tile_release(); }

// Four tiles of C (0 to 3), two of A (4, 5), two of B (6, 7).
void amx_tile(const Run* runs, int count, const float* sums, float* out) {
  if (sums) {
    _tile_loadd(0, sums, 128);
    _tile_loadd(1, sums + 16, 128);
    _tile_loadd(2, sums + 16 * kColumns, 128);
    _tile_loadd(3, sums + 16 * kColumns + 16, 128);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int r = 0; r < count; ++r) {
    const int64_t row_bytes = runs[r].a_row * 2, next = runs[r].a_step;
    const uint16_t* a = runs[r].a;
    const uint16_t* below = a + 16 * runs[r].a_row;
    const uint16_t* b = runs[r].b;
    for (int64_t step = 0; step < runs[r].steps; ++step) {
      _tile_loadd(6, b, 128);
      _tile_loadd(4, a, row_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + 32, 128);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, below, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      a += next;
      below += next;
      b += 16 * 64;
    }
  }
  _tile_stored(0, out, 128);
  _tile_stored(1, out + 16, 128);
  _tile_stored(2, out + 16 * kColumns, 128);
  _tile_stored(3, out + 16 * kColumns + 16, 128);
}

void dot_tile(const Run* runs, int count, const float* sums, float* out) {
  dot_rows(runs, count, 0, sums, out);
  dot_rows(runs, count, 8, sums, out);
}

void store_bf16(const float* in, int rows, int columns, uint16_t* c, int64_t c_ld) {
  const __mmask32 mask = columns >= 32 ? 0xffffffffu : (1u << columns) - 1;
  for (int i = 0; i < rows; ++i) {
    const __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(in + i * kColumns + 16), _mm512_loadu_ps(in + i * kColumns));
    _mm512_mask_storeu_epi16(c + i * c_ld, mask, (__m512i)v);
  }
}

}  // namespace vltune::cpu::amx
