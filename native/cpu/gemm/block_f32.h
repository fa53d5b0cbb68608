// A block of C by F32 tiles.
#pragma once
#include "blocking.h"
#include "finish.h"
#include "pack.h"

namespace vltune::cpu::VLTUNE_ISA {

// A run of k of one of the two products, with B packed (or in place).
struct Part {
  const Operand* a;
  int64_t first, k;
  const float* b;
  int64_t b_row, b_panel;  // strides of a row of B and of a panel
  bool a_in_place;
};

// C's block (+)= the sum over the parts.
inline void run_parts(const Gemm& g, const Part* parts, int count, const Block& block, float* c, int64_t ldc, bool add, float* a_buffer) {
  const int64_t panels = ceil_div(block.rows, kTileRows);
  const int64_t panel = ceil_div(block.rows, panels);  // equal heights: a panel of 2 rows would run at a seventh of the speed
  for (int64_t i0 = 0; i0 < block.rows; i0 += kGroupPanels * panel) {
    const int64_t group = smaller(kGroupPanels * panel, block.rows - i0);
    const float* a[2] = {};
    int64_t stride[2] = {}, next[2] = {};
    bool by_rows[2] = {};
    float* free = a_buffer;
    for (int s = 0; s < count; ++s) {
      const Part& part = parts[s];
      const Operand& m = *part.a;
      by_rows[s] = !m.transposed;
      const int64_t row = block.row + i0;
      if (part.a_in_place) {
        a[s] = static_cast<const float*>(m.data) + (m.transposed ? part.first * m.ld + row : row * m.ld + part.first);
        stride[s] = m.ld;
        next[s] = m.transposed ? panel : panel * m.ld;
      } else if (m.transposed) {
        pack_a_columns(free, panel, m, g.bf16, row, group, part.first, part.k);
        a[s] = free;
        stride[s] = panel;
        next[s] = panel * part.k;
        free += round_up(group, panel) * part.k;
      } else {
        stride[s] = round_up(part.k, kLanes) + kLanes;  // no power of two: rows must not share a cache set
        pack_a_rows(free, stride[s], m, g.bf16, row, group, part.first, part.k);
        a[s] = free;
        next[s] = panel * stride[s];
        free += group * stride[s];
      }
    }
    auto tile = [&](int64_t i, int64_t j) {
      const int rows = static_cast<int>(smaller(panel, group - i)), columns = static_cast<int>(smaller(kTileColumns, block.columns - j));
      TileRun runs[2];
      for (int s = 0; s < count; ++s)
        runs[s] = {parts[s].k, a[s] + i / panel * next[s], stride[s], parts[s].b + j / kTileColumns * parts[s].b_panel, parts[s].b_row};
      float* out = c + (i0 + i) * ldc + j;
      if (count == 2 && by_rows[0] == by_rows[1]) {
        tile_kernel_for(rows, columns, by_rows[0])(runs, 2, out, ldc, columns, g.alpha, add);
      } else {
        for (int s = 0; s < count; ++s)
          tile_kernel_for(rows, columns, by_rows[s])(runs + s, 1, out, ldc, columns, g.alpha, add || s > 0);
      }
    };
    if (group <= 2 * panel) {  // few rows: B streams past once
      for (int64_t j = 0; j < block.columns; j += kTileColumns)
        for (int64_t i = 0; i < group; i += panel) tile(i, j);
    } else {
      for (int64_t i = 0; i < group; i += panel)
        for (int64_t j = 0; j < block.columns; j += kTileColumns) tile(i, j);
    }
  }
}

inline bool a_in_place(const Operand& a, bool to_bf16) {
  return usable_in_place(a, to_bf16) && (!a.transposed || a.ld <= 4 * kTileColumns);
}

inline void run_block_f32(const Gemm& g, const Blocking& w, const Block& block, float* b_buffer, float* a_buffer, float* staging) {
  const bool staged = is_staged(g);
  float* c = staged ? staging : static_cast<float*>(g.c) + block.row * g.n + block.column;
  const int64_t ldc = staged ? block.columns : g.n;
  bool add = g.accumulate && !staged;
  const bool extra_first = g.extra.k > 0 && g.extra_dropout;
  Part extra{&g.extra.a, 0, g.extra.k, nullptr, kTileColumns, g.extra.k * kTileColumns, a_in_place(g.extra.a, g.bf16)};
  if (extra_first) {
    pack_b_f32(b_buffer, g.extra.b, g.bf16, 0, g.extra.k, block.column, block.columns);
    extra.b = b_buffer;
    run_parts(g, &extra, 1, block, c, ldc, add, a_buffer);
    for (int64_t i = 0; i < block.rows; ++i) dropout_row(*g.extra_dropout, block.row + i, block.column, block.columns, c + i * ldc);
    add = true;
  }
  for (int64_t first = 0; first < g.base.k; first += w.run) {
    const int64_t k = smaller(w.run, g.base.k - first);
    Part parts[2] = {{&g.base.a, first, k, nullptr, kTileColumns, k * kTileColumns, a_in_place(g.base.a, g.bf16)}, extra};
    int count = 1;
    if (w.way == Way::Streamed) {
      parts[0].b = static_cast<const float*>(g.base.b.data) + first * g.base.b.ld + block.column;
      parts[0].b_row = g.base.b.ld;
      parts[0].b_panel = kTileColumns;
    } else {
      pack_b_f32(b_buffer, g.base.b, g.bf16, first, k, block.column, block.columns);
      parts[0].b = b_buffer;
    }
    if (first + k == g.base.k && g.extra.k > 0 && !extra_first) {
      float* after = b_buffer + k * w.nb;
      pack_b_f32(after, g.extra.b, g.bf16, 0, g.extra.k, block.column, block.columns);
      parts[1].b = after;
      count = 2;
    }
    run_parts(g, parts, count, block, c, ldc, add, a_buffer);
    add = true;
  }
  for (int64_t i = 0; i < block.rows; ++i) finish_row(g, block.row + i, block.column, block.columns, c + i * ldc, staged);
}

}  // namespace vltune::cpu::VLTUNE_ISA
