// attention_one on Hopper and after, for BF16 and heads of 128: a cluster of blocks for each key/value head. Each block takes a stretch of
// the cache, whose first keys are on their way before the queries are there; all norm and rotate the queries of the head's group, and the
// last one the new key. The cluster puts the stretches together through its shared memory, in their order.
#include "../../ops/decode.h"

#include <cmath>

#include "../../ops/attention.h"
#include "../../ops/decode_parts.h"
#include "../../ops/qk_norm_rope.h"
#include "chained.cuh"
#include "softmax.cuh"
#include "../sm90.cuh"
#include "../vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256;
[[maybe_unused]] constexpr int kWarps = kThreads / kWarp;
constexpr int kShortCluster = 8, kLongCluster = 16;          // blocks of a key/value head, for caches of up to so many rows and longer ones
constexpr int64_t kShortCache = 1024;
[[maybe_unused]] constexpr int kWays = kThreads / kLanes;    // keys at once
[[maybe_unused]] constexpr int kBatch = 4;                   // keys of a lane on the way at once

struct Job {
  const Bf16 *q, *k, *v;
  const void *q_norm, *k_norm;
  bool q_norm_is_bf16, k_norm_is_bf16;
  const float *cos, *sin;
  const int32_t* past;
  Bf16 *o, *k_cache, *v_cache;
  int64_t capacity;
  int kv_heads;
  float scale, eps;
  Fault* fault;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ inline void store_remote(float* at, uint32_t rank, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(sm90::cluster_address(sm90::shared_address(at), rank)), "f"(value) : "memory");
}

#endif

template <int kGroup, int kCluster> __global__ void __launch_bounds__(kThreads, 2) attention_kernel(const __grid_constant__ Job job) {
#if __CUDA_ARCH__ >= 900
  __shared__ alignas(16) float heads[kGroup + 1][kDim];  // the queries, and the new key
  __shared__ float shared_sums[kWarps][kGroup][kDim];
  __shared__ float2 shared_states[kWarps][kGroup];
  constexpr int kShare = kDim / kCluster;  // elements of each head that a block finishes
  __shared__ float parts[kCluster][kGroup][kShare], maxima[kCluster][kGroup], totals[kCluster][kGroup];  // from the blocks of the cluster
  let_next_start();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, part = threadIdx.x % kLanes, way = threadIdx.x / kLanes;
  const int kv_head = blockIdx.x / kCluster, rank = blockIdx.x % kCluster;
  const int past = *job.past;
  if (past < 0 || past >= job.capacity) {
    wait_for_previous();
    if (blockIdx.x == 0 && threadIdx.x == 0) report_fault(job.fault, FaultKind::CacheFull, 0, past, job.capacity - 1);
    return;
  }
  sm90::cluster_arrive();
  const int own = ((past + kCluster - 1) / kCluster + 7) / 8 * 8;
  const int begin = min(rank * own, past), end = min(begin + own, past);
  const int64_t stride = static_cast<int64_t>(job.kv_heads) * kDim;
  Bf16 *k_cache = job.k_cache + kv_head * kDim, *v_cache = job.v_cache + kv_head * kDim;

  Packed<Bf16, 8> keys[kBatch], values[kBatch];
  unsigned seen = 0;
  const auto fetch = [&](int first) {
    seen = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int key = first + b * kWays;
      keys[b].words[0] = values[b].words[0] = make_uint4(0, 0, 0, 0);
      if (key >= end) continue;
      seen |= 1u << b;
      keys[b].words[0] = __ldcg(reinterpret_cast<const uint4*>(k_cache + key * stride) + part);
      values[b].words[0] = __ldcg(reinterpret_cast<const uint4*>(v_cache + key * stride) + part);
    }
  };
  fetch(begin + way);
  for (int i = threadIdx.x; i < (end - begin - kWays * kBatch) * 4; i += kThreads) {  // lines of the keys after those
    const Bf16* row = (i & 2 ? v_cache : k_cache) + (begin + kWays * kBatch + i / 4) * stride + i % 2 * kHalf;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(row));
  }
  const bool is_query = warp < kGroup, is_new = warp == kGroup && rank == kCluster - 1;
  const void* norm = is_query ? job.q_norm : job.k_norm;
  Quad weight{};
  if (norm && (is_query || is_new)) weight = quad_of(norm, is_query ? job.q_norm_is_bf16 : job.k_norm_is_bf16, lane);

  wait_for_previous();
  if (is_query || is_new) {
    const float2 cos = __ldcg(reinterpret_cast<const float2*>(job.cos) + lane), sin = __ldcg(reinterpret_cast<const float2*>(job.sin) + lane);
    const uint32_t* head = reinterpret_cast<const uint32_t*>(is_query ? job.q + (kv_head * kGroup + warp) * kDim : job.k + kv_head * kDim);
    turn_head(__ldcg(head + lane), __ldcg(head + lane + kHalf / 2), norm != nullptr, weight, job.eps, cos, sin, lane, heads[warp]);
  }
  Packed<Bf16, 8> new_value[1];
  if (rank == kCluster - 1) new_value[0].words[0] = __ldcg(reinterpret_cast<const uint4*>(job.v + kv_head * kDim) + part);
  __syncthreads();

  float q[kGroup][8];
#pragma unroll
  for (int r = 0; r < kGroup; ++r)
#pragma unroll
    for (int e = 0; e < 8; ++e) q[r][e] = heads[r][part * 8 + e] * (job.scale * kLog2E);
  Running<kGroup> running;
  running.start();
  for (int first = begin;;) {
    running.take(q, keys, values, seen);
    first += kWays * kBatch;
    if (first >= end) break;
    fetch(first + way);
  }
  if (rank == kCluster - 1 && warp == 0) {  // the new key, by the first half of a warp
    Lanes<8> key;
#pragma unroll
    for (int e = 0; e < 8; ++e) key[e] = heads[kGroup][part * 8 + e];
    const Packed<Bf16, 8> new_key[1] = {pack<Bf16>(key)};
    running.take(q, new_key, new_value, way == 0);
    if (way == 0) {
      store(k_cache + past * stride + part * 8, new_key[0]);
      store(v_cache + past * stride + part * 8, new_value[0]);
    }
  }

  // The two keys of a warp, the warps, the blocks.
#pragma unroll
  for (int r = 0; r < kGroup; ++r) {
    const float now = fmaxf(running.most[r], __shfl_xor_sync(kAllLanes, running.most[r], kLanes));
    const float shrink = now == -INFINITY ? 0.0f : exp2f(running.most[r] - now);
    running.sum[r] *= shrink;
    running.sum[r] += __shfl_xor_sync(kAllLanes, running.sum[r], kLanes);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      running.o[r][e] *= shrink;
      running.o[r][e] += __shfl_xor_sync(kAllLanes, running.o[r][e], kLanes);
    }
    if (lane < kLanes) {
#pragma unroll
      for (int e = 0; e < 8; ++e) shared_sums[warp][r][part * 8 + e] = running.o[r][e];
      if (lane == 0) shared_states[warp][r] = make_float2(now, running.sum[r]);
    }
  }
  __syncthreads();
  sm90::cluster_wait();  // for all blocks' start, so that their memory can be written
  for (int i = threadIdx.x; i < kGroup * kDim; i += kThreads) {
    const int r = i / kDim, d = i % kDim;
    float most = shared_states[0][r].x, total = 0, value = 0;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, shared_states[w][r].x);
    const float base = most == -INFINITY ? 0.0f : most;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float shrink = exp2f(shared_states[w][r].x - base);
      total = fmaf(shrink, shared_states[w][r].y, total);
      value = fmaf(shrink, shared_sums[w][r][d], value);
    }
    store_remote(&parts[rank][r][d % kShare], d / kShare, value);
    if (d < kCluster) {
      store_remote(&maxima[rank][r], d, most);
      store_remote(&totals[rank][r], d, total);
    }
  }
  sm90::cluster_sync();
  if (threadIdx.x < kGroup * kShare) {
    const int r = threadIdx.x / kShare, d = threadIdx.x % kShare;
    float most = -INFINITY, total = 0, value = 0;
#pragma unroll
    for (int c = 0; c < kCluster; ++c) most = fmaxf(most, maxima[c][r]);
#pragma unroll
    for (int c = 0; c < kCluster; ++c) {
      const float shrink = exp2f(maxima[c][r] - most);
      total = fmaf(shrink, totals[c][r], total);
      value = fmaf(shrink, parts[c][r][d], value);
    }
    job.o[(kv_head * kGroup + r) * kDim + rank * kShare + d] = from_float<Bf16>(value / total);
  }
#endif
}

// ------------------------------------------------------------------------------------------------------------------------------------

struct Ops {
  static constexpr OpRun qk_norm_rope = cuda::qk_norm_rope, attention_cached = cuda::attention_cached;
  static constexpr OpWorkspace attention_cached_workspace = cuda::attention_cached_workspace;
};

// False if there is no kernel for these operands, or if something is wrong with them, which the parts will say.
bool plan(const OpCall& call, Job* job, int* group) {
  const Tensor &q = input(call, 0), &k = input(call, 1), &v = input(call, 2), &q_norm = input(call, 3), &k_norm = input(call, 4);
  const Tensor &cos = input(call, 5), &sin = input(call, 6), &past = input(call, 7);
  const Tensor &o = output(call, 0), &k_cache = output(call, 1), &v_cache = output(call, 2);
  const Attrs& attrs = *call.attrs;
  const double heads = attrs.number("heads", 0), kv_heads = attrs.number("kv_heads", 0), scale = attrs.number("scale", 0);
  if (device().capability() < 90 || attrs.number("head_dim", 0) != kDim || !(scale > 0 && scale < 3e38)) return false;
  if (!(kv_heads >= 1 && kv_heads <= 1024) || !(heads == kv_heads || heads == 2 * kv_heads || heads == 4 * kv_heads)) return false;
  const int64_t queries = static_cast<int64_t>(heads) * kDim, width = static_cast<int64_t>(kv_heads) * kDim;
  if (queries != heads * kDim || width != kv_heads * kDim) return false;
  const auto is = [](const Tensor& t, DType dtype, int64_t rows, int64_t columns) {
    return t.rank == 2 && t.dtype == dtype && t.shape[0] == rows && t.shape[1] == columns;
  };
  const auto is_norm = [](const Tensor& t) { return !t.present() || (t.rank == 1 && t.shape[0] == kDim && (t.dtype == DType::BF16 || t.dtype == DType::F32)); };
  if (!is(q, DType::BF16, 1, queries) || !is(k, DType::BF16, 1, width) || !is(v, DType::BF16, 1, width) || !is(o, DType::BF16, 1, queries)) return false;
  if (k_cache.rank != 2 || !is(k_cache, DType::BF16, k_cache.shape[0], width) || !is(v_cache, DType::BF16, k_cache.shape[0], width)) return false;
  if (!is(cos, DType::F32, 1, kHalf) || !is(sin, DType::F32, 1, kHalf) || !is_norm(q_norm) || !is_norm(k_norm)) return false;
  if (past.rank != 1 || past.dtype != DType::I32 || past.shape[0] != 1 || k_cache.shape[0] > INT32_MAX / 8) return false;
  if (!all_aligned(kVectorBytes, q.data, k.data, v.data, q_norm.data, k_norm.data, cos.data, sin.data, k_cache.data, v_cache.data)) return false;
  *job = {q.as<Bf16>(), k.as<Bf16>(), v.as<Bf16>(), q_norm.data, k_norm.data, q_norm.dtype == DType::BF16, k_norm.dtype == DType::BF16,
          cos.as<float>(), sin.as<float>(), past.as<int32_t>(), o.as<Bf16>(), k_cache.as<Bf16>(), v_cache.as<Bf16>(), k_cache.shape[0],
          static_cast<int>(kv_heads), static_cast<float>(scale), static_cast<float>(attrs.number("eps", 1e-6)), call.fault};
  *group = static_cast<int>(heads / kv_heads);
  return true;
}

template <int kCluster> auto kernel_for(int group) {
  return group == 1 ? attention_kernel<1, kCluster> : group == 2 ? attention_kernel<2, kCluster> : attention_kernel<4, kCluster>;
}

// More than 8 blocks to a cluster are not for every device.
bool takes_long_clusters() {
  static const bool takes = [] {
    for (const int group : {1, 2, 4})
      if (cudaFuncSetAttribute(kernel_for<kLongCluster>(group), cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess) return cudaGetLastError(), false;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = kLongCluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kLongCluster);
    config.blockDim = dim3(kThreads);
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    const bool fits = cudaOccupancyMaxActiveClusters(&clusters, kernel_for<kLongCluster>(4), &config) == cudaSuccess && clusters > 0;
    cudaGetLastError();
    return fits;
  }();
  return takes;
}

}  // namespace

size_t attention_one_workspace(const OpCall& call) { return parts::attention<Ops>(call, false); }

void attention_one(const OpCall& call) {
  Job job;
  int group = 0;
  if (!plan(call, &job, &group)) {
    parts::attention<Ops>(call, true);
    return;
  }
  if (job.capacity > kShortCache && takes_long_clusters())
    launch_chained(call, kernel_for<kLongCluster>(group), job, static_cast<int64_t>(job.kv_heads) * kLongCluster, kThreads, 0, kLongCluster);
  else
    launch_chained(call, kernel_for<kShortCluster>(group), job, static_cast<int64_t>(job.kv_heads) * kShortCluster, kThreads, 0, kShortCluster);
}

}  // namespace vltune::cuda
