// The F32 micro-kernel: a tile of C, at most kTileRows x kTileColumns, kept in registers over a run of k.
//   C[i][j] = alpha * sum_k A(i, k) * B(k, j)  (+ C[i][j])
// The sum may go on over a second run of k, from other factors: an adapter's product needs no second visit to C.
// B is read kTileColumns at a time from rows `bs` apart. A is read by broadcast, either from rows (element (i, k) at
// a[i * as + k]: the matrix as it is stored) or from columns (a[k * as + i]: a packed panel, or a narrow transposed matrix).
// Each element is one chain of fused multiply-adds in the order of k, so its bits depend neither on the tile it falls in nor
// on the thread that computes it.
#pragma once
#include "../simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// Accumulators that fit the register file, with room for a row of B and a broadcast.
#if defined(__AVX512F__)
constexpr int kTileRows = 14, kTileVectors = 2;  // of 32 registers
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVectors = 2;  // of 16
#elif defined(__ARM_NEON) && defined(__aarch64__)
constexpr int kTileRows = 8, kTileVectors = 3;  // of 32
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

struct TileRun {
  int64_t k;
  const float* a;
  int64_t as;
  const float* b;
  int64_t bs;
};

using TileKernel = void (*)(const TileRun* runs, int count, float* c, int64_t ldc, int columns, float alpha, bool add);

template <int kRows, int kVectors, bool kByRows>
void tile_kernel(const TileRun* runs, int count, float* c, int64_t ldc, int columns, float alpha, bool add) {
  Vec acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) acc[i][j] = zero();
  const int last = columns - (kVectors - 1) * kLanes;  // columns of the last vector
  // One pointer for three rows: the other two are base + as and base + 2 as, which x86 addresses for nothing.
  const float *a, *b, *base[(kRows + 2) / 3];
  int64_t as, bs;
  auto step = [&](const Vec (&row)[kVectors]) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec x = broadcast(kByRows ? base[i / 3][i % 3 * as] : a[i]);
      for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
    }
    if (kByRows) {
#pragma GCC unroll 8
      for (int g = 0; g < (kRows + 2) / 3; ++g) ++base[g];
    } else {
      a += as;
    }
    b += bs;
  };
  for (const TileRun* run = runs; run < runs + count; ++run) {
    a = run->a, as = run->as, b = run->b, bs = run->bs;
    if (kByRows)
      for (int g = 0; g < (kRows + 2) / 3; ++g) base[g] = a + 3 * g * as;
    if (last == kLanes) {
      for (int64_t p = 0; p < run->k; ++p) {
        Vec row[kVectors];
        for (int j = 0; j < kVectors; ++j) row[j] = load(b + j * kLanes);
        step(row);
      }
    } else {
      for (int64_t p = 0; p < run->k; ++p) {
        Vec row[kVectors];
        for (int j = 0; j + 1 < kVectors; ++j) row[j] = load(b + j * kLanes);
        row[kVectors - 1] = load_n(b + (kVectors - 1) * kLanes, last);
        step(row);
      }
    }
  }
  const Vec scale = broadcast(alpha);
  for (int i = 0; i < kRows; ++i) {
    float* out = c + i * ldc;
    for (int j = 0; j < kVectors; ++j) {
      Vec v = acc[i][j] * scale;
      if (j + 1 < kVectors || last == kLanes) {
        store(out + j * kLanes, add ? v + load(out + j * kLanes) : v);
      } else {
        store_n(out + j * kLanes, add ? v + load_n(out + j * kLanes, last) : v, last);
      }
    }
  }
}

template <int kVectors, bool kByRows>
inline TileKernel tile_kernel_of(int rows) {
  switch (rows) {
#define VLTUNE_ROWS(r) \
  case r: return tile_kernel<(r <= kTileRows ? r : 1), kVectors, kByRows>;
    VLTUNE_ROWS(1) VLTUNE_ROWS(2) VLTUNE_ROWS(3) VLTUNE_ROWS(4) VLTUNE_ROWS(5) VLTUNE_ROWS(6) VLTUNE_ROWS(7)
    VLTUNE_ROWS(8) VLTUNE_ROWS(9) VLTUNE_ROWS(10) VLTUNE_ROWS(11) VLTUNE_ROWS(12) VLTUNE_ROWS(13) VLTUNE_ROWS(14)
#undef VLTUNE_ROWS
  }
  return nullptr;
}

// The kernel for a tile of this size: as few vectors as hold its columns.
inline TileKernel tile_kernel_for(int rows, int columns, bool by_rows) {
  if (columns > 2 * kLanes) return by_rows ? tile_kernel_of<kTileVectors, true>(rows) : tile_kernel_of<kTileVectors, false>(rows);
  if (columns > kLanes) return by_rows ? tile_kernel_of<2, true>(rows) : tile_kernel_of<2, false>(rows);
  return by_rows ? tile_kernel_of<1, true>(rows) : tile_kernel_of<1, false>(rows);
}

}  // namespace vltune::cpu::VLTUNE_ISA
