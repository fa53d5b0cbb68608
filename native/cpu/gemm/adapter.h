// The products of a small layer with an adapter in one parallel region. Apart, each of them is short enough to be lost in its own
// start and end, and each packs its B once per task; here B is packed once for all threads, and the rows of the narrow product
// are used by the thread that has just made them.
#pragma once
#include <atomic>
#include <thread>

#include "../../runtime/pause.h"
#include "block_f32.h"

namespace vltune::cpu::VLTUNE_ISA {

// Work that threads take piece by piece. Whoever comes late finds nothing left: only pieces under way are ever waited for.
class Stage {
 public:
  explicit Stage(int64_t count) : count_(count) {}

  template <class Body>
  void run(Body&& body) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      body(i);
      done_.fetch_add(1, std::memory_order_release);
    }
  }
  // Returns when all pieces are done, by whichever thread.
  void wait() const {
    for (int spins = 0; done_.load(std::memory_order_acquire) < count_; ++spins) {
      if (spins < kSpins) pause_cpu();
      else std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpins = 1 << 10;
  const int64_t count_;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> done_{0};
};

constexpr int64_t kRowTasks = 6;  // tasks of rows for each thread

// Whether B is used where it lies: narrow enough that its rows share few cache sets, or of few rows.
inline bool is_read_in_place(const Product& p, int64_t columns) {
  return !p.b.transposed && usable_in_place(p.b, false) && (columns <= kTileColumns || p.k <= kTileColumns);
}

inline size_t packed_bytes(const Product& p, int64_t columns) {
  return p.k == 0 || is_read_in_place(p, columns) ? 0 : aligned(size_t(p.k * round_up(columns, kTileColumns)) * 4);
}

inline size_t adapter_workspace(const AdapterProducts& p) {
  return packed_bytes(p.down.base, p.down.n) + packed_bytes(p.main.base, p.main.n) + packed_bytes(p.main.extra, p.main.n);
}

// Whether all of it is F32, with rows of A in place and a B that one run over k and three eighths of L2 hold. A pure function of
// the shapes: a product's bits differ between this way and the others.
inline bool is_small(const AdapterProducts& p, const Machine& machine) {
  const auto whole_rows = [](const Product& q) { return !q.a.transposed && usable_in_place(q.a, false) && q.k <= kRun; };
  if (p.main.m == 0 || p.down.m == 0 || p.main.extra.k == 0 || p.main.bf16 || is_staged(p.main) || p.main.extra_dropout) return false;
  if (p.main.m <= kStreamedRows || p.down.accumulate) return false;
  if (!whole_rows(p.down.base) || !whole_rows(p.main.base) || !whole_rows(p.main.extra)) return false;
  if (p.main.base.k == 0 || p.down.base.k == 0 || p.main.n > width_f32(machine, p.main.base.k + p.main.extra.k)) return false;
  for (const Gemm& g : p.after)
    if (g.m > 0 && (way_of(g, machine) != Way::Streamed || !a_in_place(g.base.a, false) || is_staged(g))) return false;
  return true;
}

inline void run_adapter(const AdapterProducts& p, ThreadPool* pool, void* workspace) {
  struct Packed {
    const Product* product;
    int64_t columns;
    float* to;  // nullptr: in place
  } packed[3] = {{&p.down.base, p.down.n, nullptr}, {&p.main.base, p.main.n, nullptr}, {&p.main.extra, p.main.n, nullptr}};
  Part parts[3];
  const int64_t grain = column_grain(kTileColumns);
  int64_t pieces[3];
  char* free = static_cast<char*>(workspace);
  for (int s = 0; s < 3; ++s) {
    const Product& q = *packed[s].product;
    const size_t bytes = packed_bytes(q, packed[s].columns);
    if (bytes > 0) {
      packed[s].to = reinterpret_cast<float*>(free);
      free += bytes;
      parts[s] = {&q.a, 0, q.k, packed[s].to, kTileColumns, q.k * kTileColumns, true};
    } else {
      parts[s] = {&q.a, 0, q.k, static_cast<const float*>(q.b.data), q.b.ld, kTileColumns, true};
    }
    pieces[s] = bytes > 0 ? ceil_div(packed[s].columns, grain) : 0;
  }
  const int64_t rows = larger(1, round_up(ceil_div(p.main.m, kRowTasks * pool->size()), kTileRows));
  Blocking streamed{};
  streamed.way = Way::Streamed;
  Stage packing(pieces[0] + pieces[1] + pieces[2]), multiplying(ceil_div(p.main.m, rows));
  const int64_t first_columns = p.after[0].m > 0 ? ceil_div(p.after[0].n, kTileColumns) : 0;
  const int64_t second_columns = p.after[1].m > 0 ? ceil_div(p.after[1].n, kTileColumns) : 0;
  Stage following(first_columns + second_columns);
  pool->parallel([&](int, int) {
    packing.run([&](int64_t i) {
      int s = 0;
      while (i >= pieces[s]) i -= pieces[s++];
      const Product& q = *packed[s].product;
      const int64_t column = i * grain;
      pack_b_f32(packed[s].to + column * q.k, q.b, false, 0, q.k, column, smaller(grain, packed[s].columns - column));
    });
    packing.wait();
    multiplying.run([&](int64_t i) {
      const int64_t row = i * rows, count = smaller(rows, p.main.m - row);
      run_parts(p.down, parts, 1, {row, count, 0, p.down.n}, static_cast<float*>(p.down.c) + row * p.down.n, p.down.n, false, nullptr);
      float* c = static_cast<float*>(p.main.c) + row * p.main.n;
      run_parts(p.main, parts + 1, 2, {row, count, 0, p.main.n}, c, p.main.n, p.main.accumulate, nullptr);
      for (int64_t r = 0; r < count; ++r) finish_row(p.main, row + r, 0, p.main.n, c + r * p.main.n, false);
    });
    if (first_columns + second_columns == 0) return;
    multiplying.wait();
    following.run([&](int64_t i) {
      const Gemm& g = p.after[i < first_columns ? 0 : 1];
      const int64_t column = (i < first_columns ? i : i - first_columns) * kTileColumns;
      Blocking w = streamed;
      w.run = even_run(g.base.k, kStreamedRun);
      run_block_f32(g, w, {0, g.m, column, smaller(kTileColumns, g.n - column)}, nullptr, nullptr, nullptr);
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
