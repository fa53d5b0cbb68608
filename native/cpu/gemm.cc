#include "gemm/gemm.h"

#include <atomic>
#include <cstring>
#ifdef __linux__
#include <unistd.h>
#endif

#include "gemm/pack.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// ---- how a product is cut -------------------------------------------------------------------------------------------

constexpr int64_t kRun = 512;          // longest run of k between two visits to a tile of C
constexpr int64_t kStreamedRun = 64;   // the same where B is read in place: as many of its rows as the TLB holds pages
constexpr int64_t kFewRows = 8;        // m up to which a product is a set of dot products
constexpr int64_t kStreamedRows = 2 * kTileRows + 4;  // m up to which packing B costs more than it saves
constexpr int64_t kGroupPanels = 8;    // panels of A packed at a time
constexpr int64_t kFlopsPerTask = 1 << 20;  // less is not worth waking a thread for

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    int64_t b = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    b = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return b >= (256 << 10) && b <= (16 << 20) ? b : int64_t{1} << 20;
  }();
  return bytes;
}

constexpr int64_t kBlockRows = 768;    // rows of C that a packed block of B serves, at most

// A block of B takes three eighths of L2; the rest is for the rows of A that stream by and the tiles of C.
int64_t block_width(int64_t k) { return larger(2 * kTileColumns, l2_bytes() * 3 / 8 / 4 / k / kTileColumns * kTileColumns); }

int64_t longest_run(int64_t k, int64_t limit) { return k > 0 ? ceil_div(k, ceil_div(k, limit)) : 1; }

// Whether C itself cannot hold the sums: it is narrower, or a masked product is to be added to what it holds.
bool is_staged(const Gemm& g) { return g.c_dtype != DType::F32 || (g.extra_dropout && g.accumulate); }

struct Blocking {
  bool dots;        // by dot products (few rows)
  bool streamed;    // B in place
  bool staged;      // C is summed in scratch memory first
  int64_t run;      // longest run of k of the base product
  int64_t mb, nb;   // a task's block of C
  int64_t mt, nt;   // tasks
};

Blocking blocking(const Gemm& g, int threads) {
  Blocking w{};
  const int64_t k = g.base.k + g.extra.k;
  w.dots = g.m <= kFewRows && g.base.b.transposed && !g.base.a.transposed && (g.extra.k == 0 || (g.extra.b.transposed && !g.extra.a.transposed)) &&
           !g.extra_dropout;
  w.streamed = !w.dots && g.m <= kStreamedRows && !g.base.b.transposed && usable_in_place(g.base.b, g.bf16) && g.extra.k == 0;
  w.staged = is_staged(g);
  w.run = longest_run(g.base.k, w.streamed ? kStreamedRun : kRun);

  const int64_t width = block_width(w.run + g.extra.k);
  w.mt = ceil_div(g.m, kBlockRows);
  w.nt = ceil_div(g.n, width);
  const double flops = 2.0 * double(g.m) * double(g.n) * double(k);
  const int64_t wanted = larger(1, smaller(2 * threads, static_cast<int64_t>(flops / kFlopsPerTask)));
  while (w.mt * w.nt < wanted) {
    const int64_t mb = ceil_div(g.m, w.mt), nb = ceil_div(g.n, w.nt);
    const bool can_m = mb > 2 * kTileRows, can_n = nb > 2 * kTileColumns;
    if (!can_m && !can_n) break;
    if (can_m && (mb >= nb || !can_n)) w.mt *= 2;
    else w.nt *= 2;
  }
  w.mb = round_up(ceil_div(g.m, w.mt), kTileRows);
  w.nb = round_up(ceil_div(g.n, w.nt), kTileColumns);
  if (w.mb > g.m) w.mb = g.m;
  w.mt = ceil_div(g.m, w.mb);
  w.nt = ceil_div(g.n, w.nb);
  return w;
}

// A thread's scratch memory: a packed block of B, a group of panels of A, and the sums if they are staged.
struct Scratch {
  size_t b, a, sums;
  size_t bytes() const { return b + a + sums; }
};

Scratch scratch_of(const Gemm& g, const Blocking& w) {
  const int64_t k = w.run + g.extra.k;
  return {w.streamed ? 0 : aligned(size_t(k * w.nb) * 4),
          // Each of at most two parts has rows kLanes to 2 kLanes longer than its run, or a last panel that is not full.
          aligned(size_t(round_up(smaller(kGroupPanels * kTileRows, w.mb), kTileRows) * (k + 4 * kLanes)) * 4),
          w.staged ? aligned(size_t(w.mb * w.nb) * 4) : 0};
}

// ---- the end of an element ------------------------------------------------------------------------------------------

// Brings `count` finished sums of row `row` from column `column` on to C: bias, accumulation, rounding. `sums` is C itself if
// the product is not staged.
void finish_row(const Gemm& g, int64_t row, int64_t column, int64_t count, float* sums, bool staged) {
  if (!staged && !g.bias) return;
  const float* bias32 = g.bias && g.bias_dtype == DType::F32 ? static_cast<const float*>(g.bias) + column : nullptr;
  const Bf16* bias16 = g.bias && g.bias_dtype == DType::BF16 ? static_cast<const Bf16*>(g.bias) + column : nullptr;
  for (int64_t j = 0; j < count; j += kLanes) {
    const int lanes = static_cast<int>(smaller(kLanes, count - j));
    Vec v = load_n(sums + j, lanes);
    if (bias32) v = v + load_n(bias32 + j, lanes);
    if (bias16) v = v + load_n(bias16 + j, lanes);
    if (!staged || g.c_dtype == DType::F32) {
      float* c = static_cast<float*>(g.c) + row * g.n + column + j;
      if (staged && g.accumulate) v = v + load_n(c, lanes);
      store_n(c, v, lanes);
    } else {
      Bf16* c = static_cast<Bf16*>(g.c) + row * g.n + column + j;
      if (g.accumulate) v = v + load_n(c, lanes);
      store_n(c, v, lanes);
    }
  }
}

// ---- blocks of C ----------------------------------------------------------------------------------------------------

// A run of k of one of the two products, with B packed (or in place).
struct Part {
  const Operand* a;
  int64_t first, k;
  const float* b;
  int64_t b_row, b_panel;  // strides of a row of B and of a panel
  bool a_in_place;
};

struct Block {
  int64_t row, rows, column, columns;
};

// C's block (+)= the sum over the parts.
void run_parts(const Gemm& g, const Part* parts, int count, const Block& block, float* c, int64_t ldc, bool add, float* a_buffer) {
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
      for (int s = 0; s < count; ++s)
        tile_kernel_for(rows, columns, by_rows[s])(parts[s].k, a[s] + i / panel * next[s], stride[s],
                                                   parts[s].b + j / kTileColumns * parts[s].b_panel, parts[s].b_row, c + (i0 + i) * ldc + j,
                                                   ldc, columns, g.alpha, add || s > 0);
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

const float* pack_b(float* dst, const Operand& b, bool to_bf16, int64_t first, int64_t k, const Block& block) {
  for (int64_t j = 0; j < block.columns; j += kTileColumns)
    pack_b_panel(dst + j * k, b, to_bf16, first, k, block.column + j, smaller(kTileColumns, block.columns - j));
  return dst;
}

bool a_in_place(const Operand& a, bool to_bf16) {
  return usable_in_place(a, to_bf16) && (!a.transposed || a.ld <= 4 * kTileColumns);
}

void run_block(const Gemm& g, const Blocking& w, const Block& block, float* b_buffer, float* a_buffer, float* staging) {
  float* c = w.staged ? staging : static_cast<float*>(g.c) + block.row * g.n + block.column;
  const int64_t ldc = w.staged ? block.columns : g.n;
  bool add = g.accumulate && !w.staged;
  const bool extra_first = g.extra.k > 0 && g.extra_dropout;
  Part extra{&g.extra.a, 0, g.extra.k, nullptr, kTileColumns, g.extra.k * kTileColumns, a_in_place(g.extra.a, g.bf16)};
  if (extra_first) {
    extra.b = pack_b(b_buffer, g.extra.b, g.bf16, 0, g.extra.k, block);
    run_parts(g, &extra, 1, block, c, ldc, add, a_buffer);
    for (int64_t i = 0; i < block.rows; ++i) dropout_row(*g.extra_dropout, block.row + i, block.column, block.columns, c + i * ldc);
    add = true;
  }
  for (int64_t first = 0; first < g.base.k; first += w.run) {
    const int64_t k = smaller(w.run, g.base.k - first);
    Part parts[2] = {{&g.base.a, first, k, nullptr, kTileColumns, k * kTileColumns, a_in_place(g.base.a, g.bf16)}, extra};
    int count = 1;
    if (w.streamed) {
      parts[0].b = static_cast<const float*>(g.base.b.data) + first * g.base.b.ld + block.column;
      parts[0].b_row = g.base.b.ld;
      parts[0].b_panel = kTileColumns;
    } else {
      parts[0].b = pack_b(b_buffer, g.base.b, g.bf16, first, k, block);
    }
    if (first + k == g.base.k && g.extra.k > 0 && !extra_first) {
      parts[1].b = pack_b(b_buffer + k * w.nb, g.extra.b, g.bf16, 0, g.extra.k, block);
      count = 2;
    }
    run_parts(g, parts, count, block, c, ldc, add, a_buffer);
    add = true;
  }
  for (int64_t i = 0; i < block.rows; ++i) finish_row(g, block.row + i, block.column, block.columns, c + i * ldc, w.staged);
}

// ---- few rows: dot products with the weight's rows as they lie ------------------------------------------------------

template <int kRows>
void dot_rows(const float* x, int64_t x_ld, const float* w, int64_t k, Vec* acc) {
  for (int64_t p = 0; p < k; p += kLanes) {
    const int lanes = static_cast<int>(smaller(kLanes, k - p));
    const Vec v = lanes == kLanes ? load(w + p) : load_n(w + p, lanes);
    for (int i = 0; i < kRows; ++i) acc[i] = fma(lanes == kLanes ? load(x + i * x_ld + p) : load_n(x + i * x_ld + p, lanes), v, acc[i]);
  }
}

void dot_product(const Product& product, bool to_bf16, const float* x, int64_t x_ld, int64_t rows, int64_t column, Vec* acc) {
  alignas(64) float line[kReadAhead];
  for (int64_t p = 0; p < product.k; p += kReadAhead) {
    const int64_t count = smaller(kReadAhead, product.k - p);
    const float* w = line;
    if (usable_in_place(product.b, to_bf16)) w = static_cast<const float*>(product.b.data) + column * product.b.ld + p;
    else read_row(line, product.b, column, p, count, to_bf16);
    switch (rows) {
      case 1: dot_rows<1>(x + p, x_ld, w, count, acc); break;
      case 2: dot_rows<2>(x + p, x_ld, w, count, acc); break;
      case 3: dot_rows<3>(x + p, x_ld, w, count, acc); break;
      case 4: dot_rows<4>(x + p, x_ld, w, count, acc); break;
      case 5: dot_rows<5>(x + p, x_ld, w, count, acc); break;
      case 6: dot_rows<6>(x + p, x_ld, w, count, acc); break;
      case 7: dot_rows<7>(x + p, x_ld, w, count, acc); break;
      default: dot_rows<8>(x + p, x_ld, w, count, acc);
    }
  }
}

void run_dots(const Gemm& g, ThreadPool* pool, float* x) {
  // A's rows as floats, both products' side by side.
  const int64_t ld = g.base.k + g.extra.k;
  for (int64_t i = 0; i < g.m; ++i) {
    read_row(x + i * ld, g.base.a, i, 0, g.base.k, g.bf16);
    if (g.extra.k > 0) read_row(x + i * ld + g.base.k, g.extra.a, i, 0, g.extra.k, g.bf16);
  }
  const int64_t grain = larger(16, kFlopsPerTask / 8 / (2 * larger(1, ld) * g.m));
  pool->parallel_for(g.n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      Vec acc[kFewRows];
      for (int64_t i = 0; i < g.m; ++i) acc[i] = zero();
      dot_product(g.base, g.bf16, x, ld, g.m, j, acc);
      if (g.extra.k > 0) dot_product(g.extra, g.bf16, x + g.base.k, ld, g.m, j, acc);
      for (int64_t i = 0; i < g.m; ++i) {
        float sum = reduce_add(acc[i]) * g.alpha;
        if (g.bias) sum += g.bias_dtype == DType::F32 ? static_cast<const float*>(g.bias)[j] : to_float(static_cast<const Bf16*>(g.bias)[j]);
        if (g.c_dtype == DType::F32) {
          float* c = static_cast<float*>(g.c) + i * g.n + j;
          *c = g.accumulate ? *c + sum : sum;
        } else {
          Bf16* c = static_cast<Bf16*>(g.c) + i * g.n + j;
          from_float(g.accumulate ? to_float(*c) + sum : sum, c);
        }
      }
    }
  });
}

// C without any product: 0, the bias, or itself.
void run_empty(const Gemm& g) {
  if (g.accumulate && !g.bias) return;
  alignas(64) float zeros[kTileColumns];
  for (int64_t i = 0; i < g.m; ++i)
    for (int64_t j = 0; j < g.n; j += kTileColumns) {
      std::memset(zeros, 0, sizeof zeros);
      finish_row(g, i, j, smaller(kTileColumns, g.n - j), zeros, true);
    }
}

}  // namespace

size_t gemm_workspace(const Gemm& g, int threads) {
  if (g.m == 0 || g.n == 0) return 0;
  const Blocking w = blocking(g, threads);
  if (w.dots) return aligned(size_t(g.m * (g.base.k + g.extra.k)) * 4);
  return size_t(smaller(threads, w.mt * w.nt)) * scratch_of(g, w).bytes();
}

size_t gemm_workspace_up_to(const Gemm& g, int threads) {
  const int64_t k = g.base.k + g.extra.k, run = longest_run(g.base.k, kRun) + g.extra.k;
  Blocking w{};
  w.run = smaller(g.base.k, kRun);
  w.mb = smaller(g.m, round_up(kBlockRows, kTileRows));
  w.nb = smaller(round_up(g.n, kTileColumns), block_width(run));
  w.staged = is_staged(g);
  Scratch scratch = scratch_of(g, w);
  const size_t widest = aligned(size_t(larger(l2_bytes() * 3 / 8, (kRun + g.extra.k) * 2 * kTileColumns * 4)));
  if (scratch.b < widest) scratch.b = widest;
  const size_t dots = aligned(size_t(kFewRows * k) * 4);
  return scratch.bytes() * size_t(threads) > dots ? scratch.bytes() * size_t(threads) : dots;
}

void gemm(const Gemm& g, ThreadPool* pool, void* workspace) {
  if (g.m == 0 || g.n == 0) return;
  if (g.base.k == 0 && g.extra.k == 0) return run_empty(g);
  const int threads = pool->size();
  const Blocking w = blocking(g, threads);
  if (w.dots) return run_dots(g, pool, static_cast<float*>(workspace));
  const int64_t tasks = w.mt * w.nt;
  const Scratch sizes = scratch_of(g, w);
  std::atomic<int64_t> next{0};
  auto work = [&](int thread, int) {
    if (thread >= tasks) return;
    char* scratch = static_cast<char*>(workspace) + size_t(thread) * sizes.bytes();
    float* b_buffer = reinterpret_cast<float*>(scratch);
    float* a_buffer = reinterpret_cast<float*>(scratch + sizes.b);
    float* staging = reinterpret_cast<float*>(scratch + sizes.b + sizes.a);
    for (;;) {
      const int64_t t = next.fetch_add(1, std::memory_order_relaxed);
      if (t >= tasks) break;
      // Tasks of the same rows follow each other, so the rows of A are read while they are in a cache.
      const int64_t i = t / w.nt, j = t % w.nt;
      Block block{i * w.mb, smaller(w.mb, g.m - i * w.mb), j * w.nb, smaller(w.nb, g.n - j * w.nb)};
      run_block(g, w, block, b_buffer, a_buffer, staging);
    }
  };
  if (tasks == 1 || threads == 1) work(0, 1);
  else pool->parallel(work);
}

}  // namespace vltune::cpu::VLTUNE_ISA
