// A block of C from BF16 factors, on CPUs with AMX tiles or AVX512_BF16: packing, and the loop over the micro-kernels of
// native/cpu/amx. Only in the AVX-512 build; elsewhere BF16 factors are widened and take the F32 path.
#pragma once
#include <cstdlib>

#include "blocking.h"
#include "finish.h"
#include "pack.h"
#if defined(__AVX512F__)
#include "../../runtime/cpu_features.h"
#include "../amx/bf16_tiles.h"
#endif

namespace vltune::cpu::VLTUNE_ISA {

#if defined(__AVX512F__)

// Without AMX, Intel's BF16 dot products run at a third of the F32 rate (60 against 180 GFLOP/s, Sapphire Rapids) and AMD's at
// twice; VLTUNE_ISA=avx512_bf16 asks for them anywhere, for tests.
inline int64_t bf16_tile_rows() {
  const CpuFeatures& cpu = cpu_features();
  if (cpu.amx_bf16) return amx::kAmxRows;
  const char* isa = std::getenv("VLTUNE_ISA");
  const bool dots = std::strncmp(cpu.model, "AMD", 3) == 0 || (isa && std::strcmp(isa, "avx512_bf16") == 0);
  return cpu.avx512_bf16 && dots ? amx::kDotRows : 0;
}

// While it lives, this thread may run BF16 tiles.
struct Bf16Session {
  explicit Bf16Session(bool wanted) : on(wanted && cpu_features().amx_bf16) {
    if (on) amx::amx_begin();
  }
  ~Bf16Session() {
    if (on) amx::amx_end();
  }
  const bool on;
};

inline const uint16_t* bf16_in_place(const Operand& m) {
  return m.dtype == DType::BF16 && !m.dropout ? static_cast<const uint16_t*>(m.data) : nullptr;
}

// dst[0..count) = row `row`, columns from `column` on, as BF16. count <= kReadAhead.
inline void read_row_bf16(uint16_t* dst, const Operand& m, int64_t row, int64_t column, int64_t count) {
  if (const uint16_t* stored = bf16_in_place(m)) {
    std::memcpy(dst, stored + row * m.ld + column, static_cast<size_t>(count) * 2);
    return;
  }
  float wide[kReadAhead];
  read_row(wide, m, row, column, count, true);
  int64_t i = 0;
  Bf16* out = reinterpret_cast<Bf16*>(dst);
  for (; i + kLanes <= count; i += kLanes) store(out + i, load(wide + i));
  if (i < count) store_n(out + i, load_n(wide + i, static_cast<int>(count - i)), static_cast<int>(count - i));
}

// dst[j] = (first[j], second[j]) for 32 columns.
inline void interleave(const uint16_t* first, const uint16_t* second, uint16_t* dst) {
  for (int h = 0; h < 2; ++h) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + 16 * h)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second + 16 * h)));
    _mm512_storeu_si512(dst + 32 * h, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}

// Rows p .. p+31 and columns c .. c+31 of a stored matrix in pairs of rows: dst[(r / 2) * 64 + j * 2 + r % 2]. What lies beyond
// `rows` and `columns` is zero.
inline void read_pairs(uint16_t* dst, const Operand& m, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const uint16_t* stored = bf16_in_place(m);
  alignas(64) uint16_t lines[2][32] = {};
  for (int64_t r = 0; r < 32; r += 2) {
    const uint16_t* line[2] = {lines[0], lines[1]};
    for (int64_t s = 0; s < 2; ++s) {
      if (r + s >= rows) std::memset(lines[s], 0, sizeof lines[s]);
      else if (stored && columns == 32) line[s] = stored + (row + r + s) * m.ld + column;
      else read_row_bf16(lines[s], m, row + r + s, column, columns);
    }
    interleave(line[0], line[1], dst + r * 32);
  }
}

// One panel of B: k (padded) x 32 columns in pairs.
inline void pack_b_panel_bf16(uint16_t* dst, const Operand& b, int64_t first_k, int64_t k, int64_t column, int64_t columns) {
  if (!b.transposed) {
    for (int64_t p = 0; p < k; p += 32) read_pairs(dst + p * 32, b, first_k + p, smaller(32, k - p), column, columns);
    return;
  }
  const uint16_t* stored = bf16_in_place(b);
  const int64_t padded = round_up(k, kBf16Step);
  alignas(64) uint16_t rows[16][kReadAhead + 32];
  for (int64_t j0 = 0; j0 < 32; j0 += 16) {
    const int64_t filled = smaller(16, larger(0, columns - j0));
    for (int64_t p0 = 0; p0 < padded; p0 += kReadAhead) {
      const int64_t count = smaller(kReadAhead, padded - p0), there = smaller(count, larger(0, k - p0));
      const uint16_t* src = &rows[0][0];
      int64_t ld = kReadAhead + 32;
      if (stored && filled == 16 && there == count) {
        src = stored + (column + j0) * b.ld + first_k + p0;
        ld = b.ld;
      } else {
        for (int64_t j = 0; j < 16; ++j) {
          if (j < filled) read_row_bf16(rows[j], b, column + j0 + j, first_k + p0, there);
          std::memset(rows[j] + (j < filled ? there : 0), 0, static_cast<size_t>(j < filled ? count - there : count) * 2);
        }
      }
      for (int64_t p = 0; p < count; p += 32) transpose_words(src + p, ld * 2, dst + (p0 + p) * 32 + j0 * 2, 128);
    }
  }
}

// Rows of A, `rows` of them, as BF16 rows of `padded` elements.
inline void pack_a_panel_bf16(uint16_t* dst, int64_t ld, const Operand& a, int64_t row, int64_t rows, int64_t first_k, int64_t k) {
  const int64_t padded = round_up(k, kBf16Step);
  if (!a.transposed) {
    for (int64_t i = 0; i < rows; ++i) {
      uint16_t* out = dst + i * ld;
      for (int64_t p = 0; p < k; p += kReadAhead) read_row_bf16(out + p, a, row + i, first_k + p, smaller(kReadAhead, k - p));
      std::memset(out + k, 0, static_cast<size_t>(padded - k) * 2);
    }
    return;
  }
  alignas(64) uint16_t pairs[32 * 32];
  for (int64_t p = 0; p < k; p += 32)
    for (int64_t i = 0; i < rows; i += 32) {
      read_pairs(pairs, a, first_k + p, smaller(32, k - p), row + i, smaller(32, rows - i));
      for (int64_t h = 0; h < smaller(32, rows - i); h += 16) transpose_words(pairs + h * 2, 128, dst + (i + h) * ld + p, ld * 2);
    }
}

// A run of k of one of the two products.
struct Bf16Part {
  const Operand* a;
  int64_t first, k;
  const uint16_t* b;
  bool in_place;       // A's rows can be read where they lie, if a whole tile of them is there
};

// sums, 32 columns of a tile that starts at (row, column) of C, are complete.
inline void finish_tile(const Gemm& g, int64_t row, int64_t rows, int64_t column, int64_t columns, float* sums) {
  if (g.c_dtype == DType::BF16 && !g.bias && !g.accumulate && g.alpha == 1) {
    amx::store_bf16(sums, static_cast<int>(rows), static_cast<int>(columns), static_cast<uint16_t*>(g.c) + row * g.n + column, g.n);
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    float* line = sums + i * kBf16Columns;
    if (g.alpha != 1)
      for (int64_t j = 0; j < kBf16Columns; j += kLanes) store(line + j, load(line + j) * broadcast(g.alpha));
    finish_row(g, row + i, column, columns, line, true);
  }
}

inline void run_block_bf16(const Gemm& g, const Blocking& w, const Block& block, uint16_t* b_buffer, uint16_t* a_buffer, float* sums) {
  const bool masked_first = g.extra.k > 0 && g.extra_dropout;
  const int64_t base_runs = w.run > 0 ? ceil_div(g.base.k, w.run) : 0;
  const int64_t runs = larger(1, base_runs) + (masked_first && base_runs > 0 ? 1 : 0);
  const bool amx_tiles = w.tile_rows == amx::kAmxRows;
  for (int64_t r = 0; r < runs; ++r) {
    const bool masked = masked_first && r == 0, last = r == runs - 1;
    const int64_t first = (r - (masked_first ? 1 : 0)) * w.run;
    Bf16Part parts[2];
    int count = 0;
    uint16_t* free = b_buffer;
    const auto take = [&](const Product& product, int64_t from, int64_t k) {
      const int64_t padded = round_up(k, kBf16Step);
      for (int64_t j = 0; j < block.columns; j += kBf16Columns)
        pack_b_panel_bf16(free + j * padded, product.b, from, k, block.column + j, smaller(kBf16Columns, block.columns - j));
      parts[count++] = {&product.a, from, k, free, bf16_in_place(product.a) && !product.a.transposed && k == padded};
      free += round_up(block.columns, kBf16Columns) * padded;
    };
    if (!masked && base_runs > 0) take(g.base, first, smaller(w.run, g.base.k - first));
    if (masked || (last && g.extra.k > 0 && !masked_first)) take(g.extra, 0, g.extra.k);

    for (int64_t i0 = 0; i0 < block.rows; i0 += kGroupPanels * w.tile_rows) {
      const int64_t group = smaller(kGroupPanels * w.tile_rows, block.rows - i0);
      uint16_t* packed[2];
      int64_t packed_ld[2];
      uint16_t* space = a_buffer;
      for (int s = 0; s < count; ++s) {
        packed[s] = space;
        packed_ld[s] = round_up(parts[s].k, kBf16Step) + kBf16Step;
        if (!parts[s].in_place) pack_a_panel_bf16(space, packed_ld[s], *parts[s].a, block.row + i0, group, parts[s].first, parts[s].k);
        space += (group + 32) * packed_ld[s];
      }
      for (int64_t i = i0; i < i0 + group; i += w.tile_rows) {
        const int64_t rows = smaller(w.tile_rows, block.rows - i);
        amx::Run tile_runs[2];
        for (int s = 0; s < count; ++s) {
          const Bf16Part& part = parts[s];
          const bool in_place = part.in_place && (rows == w.tile_rows || !amx_tiles);
          uint16_t* here = packed[s] + (i - i0) * packed_ld[s];
          if (part.in_place && !in_place) pack_a_panel_bf16(here, packed_ld[s], *part.a, block.row + i, rows, part.first, part.k);
          tile_runs[s].a = in_place ? bf16_in_place(*part.a) + (block.row + i) * part.a->ld + part.first : here;
          tile_runs[s].a_ld = in_place ? part.a->ld : packed_ld[s];
          tile_runs[s].k = round_up(part.k, kBf16Step);
        }
        for (int64_t j = 0; j < block.columns; j += kBf16Columns) {
          for (int s = 0; s < count; ++s) tile_runs[s].b = parts[s].b + j * tile_runs[s].k;
          float* out = sums;
          if (runs > 1) out += (i / w.tile_rows * (w.nb / kBf16Columns) + j / kBf16Columns) * 32 * 32;
          if (amx_tiles) amx::amx_tile(tile_runs, count, out, r > 0);
          else amx::dot_tile(tile_runs, count, static_cast<int>(rows), out, r > 0);
          const int64_t columns = smaller(kBf16Columns, block.columns - j);
          if (masked)
            for (int64_t q = 0; q < rows; ++q) dropout_row(*g.extra_dropout, block.row + i + q, block.column + j, columns, out + q * kBf16Columns);
          if (last) finish_tile(g, block.row + i, rows, block.column + j, columns, out);
        }
      }
    }
  }
}

#else

inline int64_t bf16_tile_rows() { return 0; }
struct Bf16Session {
  explicit Bf16Session(bool) {}
};
inline void run_block_bf16(const Gemm&, const Blocking&, const Block&, uint16_t*, uint16_t*, float*) {}

#endif

}  // namespace vltune::cpu::VLTUNE_ISA
