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

// dst[0..count) = row `row`, columns from `column` on, as BF16. count <= kLine.
inline void read_row_bf16(uint16_t* dst, const Operand& m, int64_t row, int64_t column, int64_t count) {
  if (const uint16_t* stored = bf16_in_place(m)) {
    std::memcpy(dst, stored + row * m.ld + column, static_cast<size_t>(count) * 2);
    return;
  }
  if (m.dtype == DType::NF4 && !m.dropout) {
    nf4_read(nf4_tensor(m), row * m.ld + column, count, reinterpret_cast<Bf16*>(dst));
    return;
  }
  float wide[kLine];
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

// Columns of B in panels of 32, each k (padded) long and in pairs.
inline void pack_b_bf16(uint16_t* dst, const Operand& b, int64_t first_k, int64_t k, int64_t column, int64_t columns) {
  const int64_t padded = round_up(k, kBf16Step);
  const uint16_t* stored = bf16_in_place(b);
  if (!b.transposed) {  // along the stored rows, for all panels at once
    alignas(64) uint16_t lines[2][kLine];
    for (int64_t j0 = 0; j0 < columns; j0 += kLine) {
      const int64_t count = smaller(kLine, columns - j0), whole = count / 32 * 32;
      for (int64_t p = 0; p < padded; p += 2) {
        const uint16_t* line[2];
        for (int64_t s = 0; s < 2; ++s) {
          line[s] = lines[s];
          if (p + s >= k) {
            std::memset(lines[s], 0, static_cast<size_t>(round_up(count, 32)) * 2);
          } else if (stored && whole == count) {
            line[s] = stored + (first_k + p + s) * b.ld + column + j0;
          } else {
            read_row_bf16(lines[s], b, first_k + p + s, column + j0, count);
            std::memset(lines[s] + count, 0, static_cast<size_t>(round_up(count, 32) - count) * 2);
          }
        }
        for (int64_t j = 0; j < count; j += 32) interleave(line[0] + j, line[1] + j, dst + (j0 + j) * padded + p * 32);
      }
    }
    return;
  }
  alignas(64) uint16_t rows[16][kReadAhead + 32];
  for (int64_t j0 = 0; j0 < round_up(columns, 32); j0 += 16) {
    const int64_t filled = smaller(16, larger(0, columns - j0));
    uint16_t* panel = dst + j0 / 32 * 32 * padded + j0 % 32 * 2;
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
      const bool more = src != &rows[0][0] && j0 + 32 <= columns;  // the next sixteen rows are as long
      for (int64_t p = 0; p < count; p += 32) {
        if (more)
          for (int64_t j = 16; j < 32; ++j) _mm_prefetch(reinterpret_cast<const char*>(src + j * ld + p), _MM_HINT_T0);
        transpose_words(src + p, ld * 2, panel + (p0 + p) * 32, 128);
      }
    }
  }
}

// Rows of A in panels of `panel` rows, each as amx::Run has it. The last panel is filled up with zeros.
inline void pack_a_bf16(uint16_t* dst, int64_t panel, const Operand& a, int64_t row, int64_t rows, int64_t first_k, int64_t k) {
  const int64_t steps = ceil_div(k, kBf16Step), panel_size = steps * panel * 32;
  const auto line_of = [&](int64_t i, int64_t step) { return dst + i / panel * panel_size + (step * panel + i % panel) * 32; };
  alignas(64) uint16_t pairs[32 * 32];
  if (a.transposed) {
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t i = 0; i < round_up(rows, panel); i += 16) {
        if (i % 32 == 0 || panel == 16) {
          const int64_t there = larger(0, smaller(32, rows - i));
          read_pairs(pairs, a, first_k + step * 32, smaller(32, k - step * 32), row + i, there);
        }
        transpose_words(pairs + (panel == 16 ? 0 : i % 32) * 2, 128, line_of(i, step), 64);
      }
    return;
  }
  const uint16_t* stored = bf16_in_place(a);
  const int64_t whole = k / 32;
  alignas(64) uint16_t line[kReadAhead];
  for (int64_t i = 0; i < round_up(rows, panel); ++i) {
    if (i >= rows) {
      for (int64_t step = 0; step < steps; ++step) std::memset(line_of(i, step), 0, 64);
    } else if (stored) {
      const uint16_t* src = stored + (row + i) * a.ld + first_k;
      for (int64_t step = 0; step < whole; ++step) _mm512_storeu_si512(line_of(i, step), _mm512_loadu_si512(src + step * 32));
      if (whole < steps) {
        const __mmask32 mask = (1u << (k - whole * 32)) - 1;
        _mm512_storeu_si512(line_of(i, whole), _mm512_maskz_loadu_epi16(mask, src + whole * 32));
      }
    } else {
      for (int64_t p = 0; p < k; p += kReadAhead) {
        const int64_t count = smaller(kReadAhead, k - p);
        read_row_bf16(line, a, row + i, first_k + p, count);
        std::memset(line + count, 0, static_cast<size_t>(round_up(count, 32) - count) * 2);
        for (int64_t q = 0; q < count; q += 32) _mm512_storeu_si512(line_of(i, (p + q) / 32), _mm512_load_si512(line + q));
      }
    }
  }
}

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
  const auto tile = w.tile_rows == amx::kAmxRows ? amx::amx_tile : amx::dot_tile;
  alignas(64) float complete[32 * 32];
  for (int64_t r = 0; r < runs; ++r) {
    const bool masked = masked_first && r == 0, last = r == runs - 1;
    amx::Run parts[2];
    int64_t panel[2];  // from a panel of A to the next
    int count = 0;
    uint16_t *b = b_buffer, *a = a_buffer;
    const auto take = [&](const Product& product, int64_t first, int64_t k) {
      const int64_t steps = ceil_div(k, kBf16Step);
      pack_b_bf16(b, product.b, first, k, block.column, block.columns);
      const Operand& m = product.a;
      const uint16_t* stored = bf16_in_place(m);
      // Rows a multiple of 4 KB apart share cache sets and are copied, unless they are read but once.
      if (stored && !m.transposed && k % kBf16Step == 0 && block.rows % w.tile_rows == 0 && (m.ld % 2048 != 0 || block.columns <= 64)) {
        parts[count] = {stored + block.row * m.ld + first, m.ld, 32, b, steps};
        panel[count++] = w.tile_rows * m.ld;
      } else {
        pack_a_bf16(a, w.tile_rows, m, block.row, block.rows, first, k);
        parts[count] = {a, 32, w.tile_rows * 32, b, steps};
        panel[count++] = w.tile_rows * steps * 32;
        a += round_up(block.rows, w.tile_rows) * steps * 32;
      }
      b += round_up(block.columns, kBf16Columns) * steps * 32;
    };
    const int64_t first = (r - (masked_first ? 1 : 0)) * w.run;
    if (!masked && base_runs > 0) take(g.base, first, smaller(w.run, g.base.k - first));
    if (masked || (last && g.extra.k > 0 && !masked_first)) take(g.extra, 0, g.extra.k);

    // A panel of B stays in L1 while the rows of A stream by.
    for (int64_t j = 0; j < block.columns; j += kBf16Columns) {
      const int64_t columns = smaller(kBf16Columns, block.columns - j);
      for (int64_t i = 0; i < block.rows; i += w.tile_rows) {
        const int64_t rows = smaller(w.tile_rows, block.rows - i);
        amx::Run here[2];
        for (int s = 0; s < count; ++s) {
          here[s] = parts[s];
          here[s].a += i / w.tile_rows * panel[s];
          here[s].b += j * parts[s].steps * 32;
        }
        float* kept = sums + (j / kBf16Columns * ceil_div(w.mb, w.tile_rows) + i / w.tile_rows) * 32 * 32;
        float* out = last ? complete : kept;
        tile(here, count, r > 0 ? kept : nullptr, out);
        if (masked)
          for (int64_t q = 0; q < rows; ++q) dropout_row(*g.extra_dropout, block.row + i + q, block.column + j, columns, out + q * kBf16Columns);
        if (last) finish_tile(g, block.row + i, rows, block.column + j, columns, out);
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
