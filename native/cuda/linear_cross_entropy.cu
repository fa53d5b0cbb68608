#include "../ops/linear_cross_entropy.h"

#include <algorithm>

#include "../ops/linear_cross_entropy_checks.h"
#include "cluster.cuh"
#include "gemm/gemm.h"
#include "rows.cuh"
#include "scratch.h"
#include "vector.cuh"
#include "weight.h"

namespace vltune::cuda {
namespace {

constexpr int32_t kIgnored = -100;

// Rows of a chunk: row i is row rows[first + i] of x and targets, or first + i. Its logits lie `ld` apart; their gradient takes their
// place, and where it is narrower lies in the first part of each row.
struct Rows {
  const int32_t* rows;      // nullptr: all
  const int32_t* targets;
  const float* loss_scale;
  double* losses;           // of every row, in order
  void* logits;
  int64_t first, count, n, vocab, ld;
  bool trains;
  Fault* fault;
};

// The target of row i; kIgnored where there is none, or where it or its row is bad.
__device__ inline int32_t target_of(const Rows& r, int64_t i, bool reports) {
  int64_t t = r.first + i;
  if (r.rows) {
    const int32_t row = r.rows[t];
    if (row < 0 || row >= r.n) {
      if (reports) report_fault(r.fault, FaultKind::Row, t, row, r.n);
      return kIgnored;
    }
    t = row;
  }
  const int32_t target = r.targets[t];
  if (target == kIgnored || (target >= 0 && target < r.vocab)) return target;
  if (reports) report_fault(r.fault, FaultKind::Target, t, target, r.vocab);
  return kIgnored;
}

struct Pair {  // a maximum, and the sum of exponentials below it
  float highest;
  double total;
};

// ---- a row in the registers of a cluster's blocks: one reading -----------------------------------------------------------------

constexpr int kHeldThreads = 512;
constexpr int kHeldVectors = 10;  // of 16 bytes, a thread
constexpr int kMostBlocks = 8;    // of a cluster
template <class L> constexpr int64_t kHeld = int64_t{kHeldThreads} * kHeldVectors * kVector<L>;  // logits of a block

// Words stay packed until they are used: the compiler would rather keep them converted, and has no registers for that.
template <class L, int N> __device__ inline void keep_packed(Packed<L, N>& p) {
#pragma unroll
  for (int w = 0; w < p.kWords; ++w) asm volatile("" : "+r"(p.words[w].x), "+r"(p.words[w].y), "+r"(p.words[w].z), "+r"(p.words[w].w));
}

template <class L, class D> __global__ void __launch_bounds__(kHeldThreads, 2) finish_held(Rows r, int blocks) {
#if __CUDA_ARCH__ >= 900
  constexpr int N = kVector<L>, kWarps = kHeldThreads / kWarp;
  __shared__ float warp_highest[kWarps], block_highest;
  __shared__ double warp_total[kWarps], block_total;
  const int64_t row = blockIdx.x / blocks;
  const int rank = static_cast<int>(blockIdx.x % blocks), lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int32_t target = target_of(r, row, rank == 0 && threadIdx.x == 0);
  L* logits = static_cast<L*>(r.logits) + row * r.ld;
  // Blocks take equal shares, of whole vectors of every thread's.
  const int64_t share = ceil_div(ceil_div(r.vocab, blocks), N) * N;
  const int64_t begin = rank * share;
  const int end = static_cast<int>(max(int64_t{0}, min(r.vocab - begin, share)));
  const int at = target == kIgnored ? -1 : static_cast<int>(target - begin);
  Packed<L, N> held[kHeldVectors];
  float highest = -INFINITY;
  const float picked = rank == 0 && threadIdx.x == 0 && target != kIgnored ? to_float(logits[target]) : 0.0f;
  logits += begin;
#pragma unroll
  for (int v = 0; v < kHeldVectors; ++v) {
    const int j = (v * kHeldThreads + static_cast<int>(threadIdx.x)) * N;
    if (j + N <= end) {
      held[v] = load<N>(logits + j);
    } else {  // what lies behind the last logit counts as the least of all
      Lanes<N> x;
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = j + i < end ? to_float(logits[j + i]) : -INFINITY;
      held[v] = pack<L>(x);
    }
  }
#pragma unroll
  for (int v = 0; v < kHeldVectors; ++v) {
    keep_packed(held[v]);
    const Lanes<N> x = unpack(held[v]);
#pragma unroll
    for (int i = 0; i < N; ++i) highest = fmaxf(highest, x[i]);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
  if (lane == 0) warp_highest[warp] = highest;
  __syncthreads();
  if (warp == 0) {
    highest = warp_highest[lane % kWarps];
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
    if (lane == 0) block_highest = highest;
  }
  cluster_barrier();
  highest = -INFINITY;
  for (int b = 0; b < blocks; ++b) highest = fmaxf(highest, peer_float(&block_highest, b));
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kHeldVectors; ++v) {
    keep_packed(held[v]);
    Lanes<N> x = unpack(held[v]);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = __expf(x[i] - highest);
      sum += x[i];
    }
    if constexpr (sizeof(L) == 4) held[v] = pack<L>(x);
  }
  sum = warp_sum(sum);
  if (lane == 0) warp_total[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += warp_total[w];
    block_total = total;
  }
  cluster_barrier();
  double total = 0;
  for (int b = 0; b < blocks; ++b) total += peer_double(&block_total, b);
  if (rank == 0 && threadIdx.x == 0) r.losses[r.first + row] = target == kIgnored ? 0.0 : log(total) + highest - picked;
  cluster_barrier();  // no block leaves while others read what it shares
  if (!r.trains) return;
  const double scale = target == kIgnored ? 0.0 : *r.loss_scale;
  const float factor = static_cast<float>(scale / total);
  D* gradient = reinterpret_cast<D*>(logits - begin) + begin;
#pragma unroll
  for (int v = 0; v < kHeldVectors; ++v) {
    const int j = (v * kHeldThreads + static_cast<int>(threadIdx.x)) * N;
    if (j >= end) break;
    keep_packed(held[v]);
    Lanes<N> x = unpack(held[v]);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float e = sizeof(L) == 4 ? x[i] : __expf(x[i] - highest);
      x[i] = target == kIgnored ? 0.0f : e * factor;
    }
    store_lanes(gradient + j, x);  // what is written behind the last logit is padding
    if (at >= j && at < j + N) {
      float e = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) e = at == j + i ? x[i] : e;
      gradient[at] = from_float<D>(static_cast<float>(static_cast<double>(e) - scale));
    }
  }
#endif
}

// ---- a row at a time by one block: two readings ----------------------------------------------------------------------------

constexpr int kReadThreads = 1024;

__device__ inline Pair joined(Pair a, Pair b) {
  if (b.total == 0) return a;
  if (a.total == 0) return b;
  const float highest = fmaxf(a.highest, b.highest);
  return {highest, a.total * __expf(a.highest - highest) + b.total * __expf(b.highest - highest)};
}

template <class L, class D> __global__ void __launch_bounds__(kReadThreads) finish_read(Rows r) {
  constexpr int N = kVector<L>, kWarps = kReadThreads / kWarp;
  __shared__ Pair pairs[kWarps];
  const int64_t row = blockIdx.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int32_t target = target_of(r, row, threadIdx.x == 0);
  L* logits = static_cast<L*>(r.logits) + row * r.ld;
  const float picked = target == kIgnored ? 0.0f : to_float(logits[target]);
  float highest = -INFINITY, sum = 0;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * N; j < r.vocab; j += kReadThreads * N) {
    const Lanes<N> x = load_lanes<N>(logits + j);
    float most = highest;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (j + i < r.vocab) most = fmaxf(most, x[i]);
    if (most > highest) sum *= __expf(highest - most);
    highest = most;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (j + i < r.vocab) sum += __expf(x[i] - highest);
  }
  Pair pair{highest, sum};
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    pair = joined(pair, {__shfl_xor_sync(kAllLanes, pair.highest, offset), __shfl_xor_sync(kAllLanes, pair.total, offset)});
  if (lane == 0) pairs[warp] = pair;
  __syncthreads();
  pair = pairs[0];
  for (int w = 1; w < kWarps; ++w) pair = joined(pair, pairs[w]);
  if (threadIdx.x == 0) r.losses[r.first + row] = target == kIgnored ? 0.0 : log(pair.total) + pair.highest - picked;
  if (!r.trains) return;
  const double scale = target == kIgnored ? 0.0 : *r.loss_scale;
  const float factor = static_cast<float>(scale / pair.total);
  D* gradient = reinterpret_cast<D*>(logits);
  // A stretch is read by all before any of it is written: narrower gradients lie over logits of this stretch and of those before.
  for (int64_t first = 0; first < r.vocab; first += kReadThreads * N) {
    const int64_t j = first + static_cast<int64_t>(threadIdx.x) * N;
    Lanes<N> x{};
    if (j < r.vocab) x = load_lanes<N>(logits + j);
    if (sizeof(L) != sizeof(D)) __syncthreads();
    if (j >= r.vocab) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float e = __expf(x[i] - pair.highest);
      x[i] = target == kIgnored ? 0.0f : j + i == target ? static_cast<float>(scale * (e / pair.total - 1.0)) : e * factor;
    }
    store_lanes(gradient + j, x);
  }
}

// ---- rows back to their places, and the sum ------------------------------------------------------------------------------------

constexpr int kScatterThreads = 256;
template <int N, class T>
__global__ void __launch_bounds__(kScatterThreads) scatter(const T* from, const int32_t* rows, int64_t n, int64_t d, T* to) {
  const int32_t row = rows[blockIdx.x];
  if (row < 0 || row >= n) return;  // reported with its target
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * N; j < d; j += kScatterThreads * N)
    store(to + row * d + j, load<N>(from + blockIdx.x * d + j));
}

// loss += loss_scale * sum: stretches of rows in ascending order, then the stretches.
constexpr int kLossThreads = 256;
__global__ void __launch_bounds__(kLossThreads) add_losses(const double* losses, int64_t count, const float* loss_scale, float* loss) {
  __shared__ double sums[kLossThreads];
  const int64_t stretch = ceil_div(count, kLossThreads);
  const int64_t end = min(count, (threadIdx.x + 1) * stretch);
  double sum = 0;
  for (int64_t i = threadIdx.x * stretch; i < end; ++i) sum += losses[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (int i = 0; i < kLossThreads; ++i) sum += sums[i];
  *loss += static_cast<float>(*loss_scale * sum);
}

// ---------------------------------------------------------------------------------------------------------------------

// Logits of a chunk: enough rows for products at full rate, small beside a model.
constexpr int64_t kChunkBytes = int64_t{160} << 20;
constexpr int64_t kRowStep = 128;    // rows of a chunk are a multiple, where there are as many
constexpr int64_t kLeastRows = 32;

constexpr DType kLogitsOfBf16 = DType::BF16;

struct Call : LinearCrossEntropy {
  int64_t ld, count, chunk;
  DType dtype, logits;
};

Call read_call(const OpCall& call) {
  Call c{check_linear_cross_entropy(call), 0, 0, 0, DType::F32, DType::F32};
  c.dtype = c.x.dtype;
  c.logits = c.dtype == DType::BF16 ? kLogitsOfBf16 : c.dtype;
  c.ld = ceil_div(c.vocab, 8) * 8;
  c.count = c.rows.present() ? c.rows.shape[0] : c.n;
  int64_t rows = call.attrs->integer("chunk_rows", 0);
  if (rows <= 0) {
    rows = kChunkBytes / std::max<int64_t>(1, static_cast<int64_t>(dtype_bytes(c.logits, c.ld)));
    rows = rows >= kRowStep ? rows / kRowStep * kRowStep : std::max(rows, kLeastRows);
  }
  c.chunk = std::min(rows, c.count);
  return c;
}

struct Pieces {
  void *weight, *x, *dx, *losses, *logits;
  size_t bytes;
};
Pieces pieces_of(const Call& c, void* start) {
  Scratch scratch(start);
  Pieces s;
  s.weight = scratch.take(weight_workspace(c.weight, c.dtype));
  s.x = scratch.take(c.rows.present() ? dtype_bytes(c.dtype, c.chunk * c.d) : 0);
  s.dx = scratch.take(c.rows.present() && c.dx.present() ? dtype_bytes(c.dtype, c.chunk * c.d) : 0);
  s.losses = scratch.take(static_cast<size_t>(c.count) * 8);
  s.logits = scratch.take(dtype_bytes(c.logits, c.chunk * c.ld));
  s.bytes = scratch.used();
  return s;
}

template <class L, class D> void launch_finish(const OpCall& call, const Rows& r) {
  int blocks = 1;
  while (blocks <= kMostBlocks && ceil_div(ceil_div(r.vocab, blocks), kVector<L>) * kVector<L> > kHeld<L>) blocks *= 2;
  if (device().capability() >= 90 && blocks <= kMostBlocks) {
    LaunchConfig launch(stream_of(call), dim3(static_cast<unsigned>(r.count * blocks)), kHeldThreads, 0);
    launch.in_clusters(dim3(static_cast<unsigned>(blocks)));
    VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, finish_held<L, D>, r, blocks));
  } else {
    finish_read<L, D><<<static_cast<unsigned>(r.count), kReadThreads, 0, stream_of(call)>>>(r);
  }
  check_launch(call);
}

template <class T>
void launch_scatter(const OpCall& call, const void* from, const int32_t* rows, int64_t count, int64_t n, int64_t d, T* to) {
  const T* source = static_cast<const T*>(from);
  if (d % kVector<T> == 0 && all_aligned(kVectorBytes, from, to))
    scatter<kVector<T>><<<static_cast<unsigned>(count), kScatterThreads, 0, stream_of(call)>>>(source, rows, n, d, to);
  else
    scatter<1><<<static_cast<unsigned>(count), kScatterThreads, 0, stream_of(call)>>>(source, rows, n, d, to);
  check_launch(call);
}

}  // namespace

size_t linear_cross_entropy_workspace(const OpCall& call) { return pieces_of(read_call(call), nullptr).bytes; }

void linear_cross_entropy(const OpCall& call) {
  const Call c = read_call(call);
  const Pieces s = pieces_of(c, call.workspace);
  check_workspace(call, s.bytes);
  auto* losses = static_cast<double*>(s.losses);
  void* logits = s.logits;
  const bool gathers = c.rows.present();
  const int64_t row_bytes = static_cast<int64_t>(dtype_bytes(c.dtype, c.d));
  if (gathers && c.dx.present() && c.n * c.d > 0)
    VLTUNE_CUDA(cudaMemsetAsync(c.dx.data, 0, static_cast<size_t>(c.n * row_bytes), stream_of(call)));
  if (c.count == 0) return;
  const void* weight = weight_as(call, c.weight, c.dtype, s.weight);
  OpCall quiet = call;  // a bad row is reported with its target, by its place in the whole list
  quiet.fault = nullptr;
  const int64_t gradient_ld = c.dtype == c.logits ? c.ld : 2 * c.ld;
  for (int64_t first = 0; first < c.count; first += c.chunk) {
    const int64_t count = std::min(c.chunk, c.count - first);
    const int32_t* rows = gathers ? c.rows.as<int32_t>() + first : nullptr;
    const void* x = gathers ? s.x : c.x.as<char>() + first * row_bytes;
    void* dx = !c.dx.present() ? nullptr : gathers ? s.dx : c.dx.as<char>() + first * row_bytes;
    with_activation(c.dtype, [&](auto tag) {
      using T = decltype(tag);
      if (gathers) launch_gather_rows(quiet, c.x.as<T>(), rows, static_cast<T*>(s.x), count, c.n, c.d, FaultKind::Row);
    });
    Gemm forward{count, c.vocab, c.d, c.dtype, x, c.d, weight, c.d, true};
    forward.c = logits;
    forward.ldc = c.ld;
    forward.c_dtype = c.logits;
    gemm(call, forward);
    const Rows part{gathers ? c.rows.as<int32_t>() : nullptr, c.targets.as<int32_t>(), c.loss_scale.as<float>(), losses, logits, first,
                    count, c.n, c.vocab, c.ld, c.trains, call.fault};
    if (c.logits != c.dtype) launch_finish<float, Bf16>(call, part);
    else with_activation(c.dtype, [&](auto tag) { launch_finish<decltype(tag), decltype(tag)>(call, part); });
    if (dx) {
      Gemm backward{count, c.d, c.vocab, c.dtype, logits, gradient_ld, weight, c.d, false};
      backward.c = dx;
      backward.ldc = c.d;
      backward.c_dtype = c.dtype;
      gemm(call, backward);
      if (gathers)
        with_activation(c.dtype, [&](auto tag) { launch_scatter(call, dx, rows, count, c.n, c.d, c.dx.as<decltype(tag)>()); });
    }
    if (c.dweight.present()) {
      Gemm back{c.vocab, c.d, count, c.dtype, logits, gradient_ld, x, c.d, false};
      back.a_is_km = true;
      back.c = c.dweight.data;
      back.ldc = c.d;
      back.c_dtype = DType::F32;
      back.accumulate = true;
      gemm(call, back);
    }
  }
  add_losses<<<1, kLossThreads, 0, stream_of(call)>>>(losses, c.count, c.loss_scale.as<float>(), c.loss.as<float>());
  check_launch(call);
}

}  // namespace vltune::cuda
