// How a product is cut into tasks and runs: a pure function of its shape, the threads and the machine.
#pragma once
#include "arithmetic.h"
#include "gemm.h"
#include "kernel_f32.h"

namespace vltune::cpu::VLTUNE_ISA {

struct Block {
  int64_t row, rows, column, columns;
};

struct Machine {
  int64_t l2_bytes;
  int64_t bf16_rows;  // height of the BF16 micro-kernel's tile; 0: there is none
};

enum class Way {
  Dots,      // few rows: dot products with the weight's rows as they lie
  Streamed,  // F32 tiles with B in place: few rows of A, so packing B would cost more than it saves
  Tiles,     // F32 tiles
  Bf16Tiles,
};

struct Blocking {
  Way way;
  int64_t tile_rows;
  int64_t run;          // longest run of k of the base product between two visits to a tile of C
  int64_t mb, nb;       // a task's block of C
  int64_t mt, nt;       // tasks
  size_t b, a, sums;    // a thread's scratch bytes: a packed block of B, rows of A, sums that are not yet C's
  size_t thread_bytes() const { return b + a + sums; }
};

constexpr int64_t kRun = 512;
constexpr int64_t kStreamedRun = 64;  // as many rows of B as the TLB holds pages for
constexpr int64_t kBf16Run = 256;      // a panel of B, 16 KB, stays in L1 while A streams by
constexpr int64_t kBf16Step = 32;      // BF16 runs are padded to a multiple of this
constexpr int64_t kBf16Columns = 32;
constexpr int64_t kFewRows = 8;
constexpr int64_t kStreamedRows = 2 * kTileRows + 4;
constexpr int64_t kGroupPanels = 8;    // panels of A packed at a time
constexpr int64_t kBlockRows = 768;    // rows of C that a packed block of B serves, at most
constexpr int64_t kBf16BlockRows = 512;
constexpr double kTaskFlops = 1 << 20;      // less is not worth waking a thread for
constexpr double kBf16TaskFlops = 1 << 22;

// Runs and blocks end where blocks of NF4 do.
inline int64_t even_run(int64_t k, int64_t longest) { return smaller(k, k > 0 ? round_up(ceil_div(k, ceil_div(k, longest)), kNf4Block) : 0); }
inline int64_t column_grain(int64_t tile_columns) { return kNf4Block % tile_columns == 0 ? kNf4Block : tile_columns; }

// Whether C itself cannot hold the sums: it is narrower, or a masked product is to be added to what it holds.
inline bool is_staged(const Gemm& g) { return g.c_dtype != DType::F32 || (g.extra_dropout && g.accumulate); }

inline Way way_of(const Gemm& g, const Machine& machine) {
  const auto row_by_row = [](const Product& p) { return p.k == 0 || (p.b.transposed && !p.a.transposed); };
  if (g.m <= kFewRows && row_by_row(g.base) && row_by_row(g.extra) && !g.extra_dropout) return Way::Dots;
  if (g.bf16) return machine.bf16_rows > 0 ? Way::Bf16Tiles : Way::Tiles;
  return g.m <= kStreamedRows && g.extra.k == 0 && !g.base.b.transposed && usable_in_place(g.base.b, false) ? Way::Streamed : Way::Tiles;
}

inline int64_t block_width(int64_t bytes, int64_t bytes_of_column, int64_t tile_columns) {
  const int64_t grain = larger(2 * tile_columns, column_grain(tile_columns));
  return larger(1, bytes / bytes_of_column / grain) * grain;
}
// A block of B takes three eighths of L2; the rest is for the rows of A that stream by and the tiles of C.
inline int64_t width_f32(const Machine& machine, int64_t k) { return block_width(machine.l2_bytes * 3 / 8, k * 4, kTileColumns); }
// Here the sums of a block wait in L2 from run to run, beside its part of B.
inline int64_t width_bf16(const Machine& machine, int64_t k, int64_t rows) {
  return block_width(machine.l2_bytes * 5 / 8, k * 2 + smaller(rows, kBf16BlockRows) * 4, kBf16Columns);
}

// Floats from a row of x to the next among dot products: no power of two, so that rows do not share a cache set.
inline int64_t dots_row(const Gemm& g) { return round_up(g.base.k + g.extra.k, kLanes) + kLanes; }

inline Blocking blocking_of(const Gemm& g, int threads, const Machine& machine) {
  Blocking w{};
  w.way = way_of(g, machine);
  const int64_t k = g.base.k + g.extra.k;
  if (w.way == Way::Dots) {
    w.mb = g.m, w.nb = g.n, w.mt = w.nt = 1;
    w.a = aligned(size_t(g.m * dots_row(g)) * 4);
    return w;
  }
  const bool narrow = w.way == Way::Bf16Tiles;
  const int64_t columns = narrow ? kBf16Columns : kTileColumns;
  w.tile_rows = narrow ? machine.bf16_rows : kTileRows;
  w.run = even_run(g.base.k, narrow ? kBf16Run : w.way == Way::Streamed ? kStreamedRun : kRun);
  if (narrow) w.run = round_up(w.run, kBf16Step);
  const int64_t extra = narrow ? round_up(g.extra.k, kBf16Step) : g.extra.k;
  const int64_t column_bytes = (w.run + extra) * (narrow ? 2 : 4);

  const int64_t width = narrow ? width_bf16(machine, w.run + extra, g.m) : width_f32(machine, w.run + extra);
  w.mt = ceil_div(g.m, narrow ? kBf16BlockRows : kBlockRows);
  w.nt = ceil_div(g.n, width);
  const double flops = 2.0 * double(g.m) * double(g.n) * double(k), least = narrow ? kBf16TaskFlops : kTaskFlops;
  const int64_t wanted = larger(1, smaller(narrow ? threads : 2 * threads, static_cast<int64_t>(flops / least)));
  while (w.mt * w.nt < wanted) {
    const int64_t mb = ceil_div(g.m, w.mt), nb = ceil_div(g.n, w.nt);
    const bool can_m = mb > 2 * w.tile_rows, can_n = nb > 2 * columns;
    if (!can_m && !can_n) break;
    if (can_m && (mb >= nb || !can_n)) w.mt *= 2;
    else w.nt *= 2;
  }
  w.mb = smaller(g.m, round_up(ceil_div(g.m, w.mt), w.tile_rows));
  w.nb = smaller(round_up(g.n, columns), round_up(ceil_div(g.n, w.nt), column_grain(columns)));
  w.mt = ceil_div(g.m, w.mb);
  w.nt = ceil_div(g.n, w.nb);

  const int64_t tiles_down = ceil_div(w.mb, w.tile_rows), group = smaller(kGroupPanels, tiles_down) * w.tile_rows;
  w.b = w.way == Way::Streamed ? 0 : aligned(size_t(column_bytes * w.nb));
  if (narrow) {
    w.a = aligned(size_t(round_up(w.mb, w.tile_rows) * (w.run + extra)) * 2);
    const bool several = g.base.k > w.run || (g.base.k > 0 && g.extra.k > 0 && g.extra_dropout);
    w.sums = several ? size_t(tiles_down * (w.nb / columns)) * 32 * 32 * 4 : 0;
  } else {
    w.a = aligned(size_t(group * (w.run + extra + 4 * kLanes)) * 4);
    w.sums = is_staged(g) ? aligned(size_t(w.mb * w.nb) * 4) : 0;
  }
  return w;
}

// Enough scratch for g and for the same product of fewer rows; where C is F32 and nothing is masked, of shorter k too.
inline size_t workspace_up_to(const Gemm& g, int threads, const Machine& machine) {
  const int64_t columns = larger(kTileColumns, kBf16Columns), extra = g.extra.k + kBf16Step;
  const int64_t rows = smaller(g.m, kBlockRows) + 32, run = smaller(g.base.k, kRun) + extra + 4 * kLanes;
  // A block of B is at least two tiles or an NF4 block wide, whatever L2 holds.
  const size_t b = size_t(larger(machine.l2_bytes * 5 / 8, run * 4 * larger(2 * columns, kNf4Block)));
  const size_t a = size_t(larger(smaller(rows, (kGroupPanels + 1) * kTileRows) * 4, rows * 2) * run);
  // Sums are kept where C is staged, and over several runs of BF16, of which the shortest is half the longest.
  const int64_t widest = larger(width_f32(machine, larger(1, even_run(g.base.k, kRun))), width_bf16(machine, kBf16Run / 2, g.m));
  const size_t sums = size_t(rows * smaller(round_up(g.n, columns), widest)) * 4;
  const size_t tiles = aligned(b) + aligned(a) + aligned(sums), dots = aligned(size_t(kFewRows * dots_row(g)) * 4);
  return tiles * size_t(threads) > dots ? tiles * size_t(threads) : dots;
}

}  // namespace vltune::cpu::VLTUNE_ISA
