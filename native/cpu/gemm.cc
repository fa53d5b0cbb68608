#include "gemm/gemm.h"

#include <atomic>
#include <cstring>
#ifdef __linux__
#include <unistd.h>
#endif

#include "gemm/adapter.h"
#include "gemm/block_bf16.h"
#include "gemm/block_f32.h"
#include "gemm/dots.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

const Machine& machine() {
  static const Machine here = [] {
    int64_t l2 = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (l2 < (256 << 10) || l2 > (16 << 20)) l2 = 1 << 20;
    return Machine{l2, bf16_tile_rows()};
  }();
  return here;
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
  if (g.m == 0 || g.n == 0 || (g.base.k == 0 && g.extra.k == 0)) return 0;
  const Blocking w = blocking_of(g, threads, machine());
  return size_t(smaller(threads, w.mt * w.nt)) * w.thread_bytes();
}

size_t gemm_workspace_up_to(const Gemm& g, int threads) { return workspace_up_to(g, threads, machine()); }

void gemm(const Gemm& g, ThreadPool* pool, void* workspace) {
  if (g.m == 0 || g.n == 0) return;
  if (g.base.k == 0 && g.extra.k == 0) return run_empty(g);
  const int threads = pool->size();
  const Blocking w = blocking_of(g, threads, machine());
  if (w.way == Way::Dots) return run_dots(g, pool, static_cast<float*>(workspace));
  const int64_t tasks = w.mt * w.nt;
  std::atomic<int64_t> next{0};
  auto work = [&](int thread, int) {
    if (thread >= tasks) return;
    char* b = static_cast<char*>(workspace) + size_t(thread) * w.thread_bytes();
    char* a = b + w.b;
    float* sums = reinterpret_cast<float*>(a + w.a);
    const Bf16Session session(w.way == Way::Bf16Tiles);
    for (;;) {
      const int64_t t = next.fetch_add(1, std::memory_order_relaxed);
      if (t >= tasks) break;
      // Tasks of the same rows follow each other, so the rows of A are read while they are in a cache.
      const int64_t i = t / w.nt * w.mb, j = t % w.nt * w.nb;
      const Block block{i, smaller(w.mb, g.m - i), j, smaller(w.nb, g.n - j)};
      if (w.way == Way::Bf16Tiles) run_block_bf16(g, w, block, reinterpret_cast<uint16_t*>(b), reinterpret_cast<uint16_t*>(a), sums);
      else run_block_f32(g, w, block, reinterpret_cast<float*>(b), reinterpret_cast<float*>(a), sums);
    }
  };
  if (tasks == 1 || threads == 1) work(0, 1);
  else pool->parallel(work);
}

size_t gemm_workspace(const AdapterProducts& p, int threads) {
  if (is_small(p, machine())) return adapter_workspace(p);
  size_t bytes = 0;
  for (const Gemm* g : {&p.down, &p.main, &p.after[0], &p.after[1]}) {
    const size_t b = gemm_workspace(*g, threads);
    if (b > bytes) bytes = b;
  }
  return bytes;
}

void gemm(const AdapterProducts& p, ThreadPool* pool, void* workspace) {
  if (is_small(p, machine())) return run_adapter(p, pool, workspace);
  for (const Gemm* g : {&p.down, &p.main, &p.after[0], &p.after[1]}) gemm(*g, pool, workspace);
}

}  // namespace vltune::cpu::VLTUNE_ISA
