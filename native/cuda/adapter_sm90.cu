// Both kernels read one activation once and have next to nothing to compute: what counts is that loads are on their way on every
// multiprocessor from its first moment to its last. One warp of a block copies tiles by TMA into a ring of stages; warpgroups multiply
// them, each 64 rows or columns. Blocks of a cluster share the sum, each with a fixed stretch of it; each is sent the others' parts of
// its own share and adds them in rank order: the same bits at each run.
#include "adapter_sm90.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "launch.cuh"
#include "sm90.cuh"
#include "vector.cuh"
#include "weight.h"

namespace vltune::cuda {
namespace {

constexpr int kGroupThreads = 128;  // a warpgroup
constexpr int kMostSplits = 4;      // a warp has 16 rows or columns of 64: the share of one block
constexpr int kTile = 64;           // of K, or of columns: 128 bytes of bf16, the swizzle's width
constexpr int kAlign = 1024;        // of the ring, as the swizzle wants it

// ---- down: result = scale * x F ----

constexpr int kDownRows = 64;
constexpr int kDownThreads = 2 * kGroupThreads + 32;  // those that multiply, those that round the factor, and the warp that copies
constexpr int kXBytes = kDownRows * 128;

// A stage: 64 x 64 of x; the factor's 64 of K as BF16 [ranks,64], swizzled; and as it comes, F32. Two blocks fit a multiprocessor: the
// next kernel's find room while this one ends.
template <int kRanks> struct DownRing {
  static constexpr int kFactor = kXBytes, kRaw = kFactor + kRanks * 128, kRawBytes = kRanks * kTile * 4;
  static constexpr int kStageBytes = kRaw + kRawBytes;
  static constexpr int kStages = kRanks == 16 ? 7 : kRanks == 32 ? 4 : 2;
  static constexpr int kLine = kRanks + 4;  // of a row's sums in the end
  static constexpr int kSums = kStages * kStageBytes, kSumBytes = kDownRows * kLine * 4;
  static constexpr int kBarriers = kSums + kSumBytes;
  static constexpr int kBytes = kAlign + kBarriers + kStages * 3 * 8;
  static_assert(kStageBytes % 1024 == 0);
};

struct DownMaps {
  CUtensorMap x, factor;
};
struct DownJob {
  int n, rank, padded_rank;
  int steps, splits;      // of 64 along K; blocks that share them
  float scale;
  float* result;          // or nullptr
  __nv_bfloat16* padded;  // or nullptr
  bool wide;              // rows of result are whole vectors
  Pad pads[kMostPads];
};

// ---- sums: sums += M^T F ----

constexpr int kSumGroups = 2;
constexpr int kSumColumns = 64 * kSumGroups, kSumRows = 64;
constexpr int kMultipliers = kSumGroups * kGroupThreads, kSumThreads = kMultipliers + 32;
constexpr int kMBytes = kSumRows * 128;  // of 64 columns

// A stage: rows of M, 64 columns after 64 columns, and of the factor, whose rows fill the width of their swizzle.
template <int kRanks> struct SumRing {
  static constexpr int kFactor = kSumGroups * kMBytes;
  static constexpr int kStageBytes = kFactor + kSumRows * kRanks * 2;
  static constexpr int kStages = kRanks == 16 ? 5 : kRanks == 32 ? 4 : 3;
  static constexpr int kSums = kStages * kStageBytes, kSumBytes = kSumColumns * kRanks * 4;
  static constexpr int kBarriers = kSums + kSumBytes;
  static constexpr int kBytes = kAlign + kBarriers + kStages * 2 * 8;
  static_assert(kStageBytes % 1024 == 0);
};

struct SumMaps {
  CUtensorMap m[kMostSums], factor[kMostSums];
};
struct SumPart {
  float* sums;
  int columns, rank;
  bool rank_first;
  int first_group;  // of kSumColumns
};
struct SumJob {
  SumPart parts[kMostSums];
  int count;
  int tiles, splits;  // of kSumRows; blocks that share them
};

#if VLTUNE_SM90A

using namespace sm90;

// To another block of the cluster, by cluster_address.
__device__ inline void put_peer(uint32_t shared, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(shared), "f"(v) : "memory");
}
__device__ inline void put_peer(uint32_t shared, float v, float w) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(shared), "f"(v), "f"(w) : "memory");
}

// Factors on their way to BF16, four neighbours a thread; all blocks share them.
__device__ inline void pad(const Pad& p, int thread, int threads) {
  if (!p.to) return;
  const uint32_t quads = static_cast<uint32_t>(p.to_columns / 4), count = static_cast<uint32_t>(p.to_rows) * quads;
  const bool wide = p.from_columns % 4 == 0 && reinterpret_cast<uintptr_t>(p.from) % 16 == 0;
#pragma unroll 2
  for (uint32_t at = thread; at < count; at += threads) {
    const uint32_t row = at / quads, column = (at - row * quads) * 4;
    float4 v = {0, 0, 0, 0};
    if (row < p.from_rows) {
      const float* from = p.from + row * p.from_columns + column;
      if (wide) {
        if (column < p.from_columns) v = __ldg(reinterpret_cast<const float4*>(from));
      } else {
        if (column < p.from_columns) v.x = __ldg(from);
        if (column + 1 < p.from_columns) v.y = __ldg(from + 1);
        if (column + 2 < p.from_columns) v.z = __ldg(from + 2);
        if (column + 3 < p.from_columns) v.w = __ldg(from + 3);
      }
    }
    static_cast<uint2*>(p.to)[at] = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  }
}

// Eight neighbours along K of one rank, 16 bytes of the swizzled factor, from F32 [ranks,64] or [64,ranks].
template <int kRanks, bool kFactorKr> __device__ inline void round_factor(unsigned char* stage, int thread) {
  using Ring = DownRing<kRanks>;
  const float* raw = reinterpret_cast<const float*>(stage + Ring::kRaw);
#pragma unroll
  for (int i = thread; i < kRanks * 8; i += kGroupThreads) {
    const int rank = kFactorKr ? i % kRanks : i / 8, unit = kFactorKr ? i / kRanks : i % 8;
    float v[8];
    if constexpr (kFactorKr) {
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] = raw[(unit * 8 + e) * kRanks + rank];
    } else {
      *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(raw + rank * kTile + unit * 8);
      *reinterpret_cast<float4*>(v + 4) = *reinterpret_cast<const float4*>(raw + rank * kTile + unit * 8 + 4);
    }
    *reinterpret_cast<uint4*>(stage + Ring::kFactor + swizzle128(rank, unit)) =
        make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  }
}

// Four ranks of a row.
__device__ inline void put_down(const DownJob& job, int row, int rank, float4 v) {
  if (row >= job.n || rank >= job.padded_rank) return;
  v.x = rank < job.rank ? v.x * job.scale : 0.0f;
  v.y = rank + 1 < job.rank ? v.y * job.scale : 0.0f;
  v.z = rank + 2 < job.rank ? v.z * job.scale : 0.0f;
  v.w = rank + 3 < job.rank ? v.w * job.scale : 0.0f;
  if (job.padded) {
    const uint2 pairs = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    *reinterpret_cast<uint2*>(job.padded + static_cast<int64_t>(row) * job.padded_rank + rank) = pairs;
  }
  if (!job.result) return;
  float* to = job.result + static_cast<int64_t>(row) * job.rank + rank;
  if (job.wide) {
    if (rank < job.rank) *reinterpret_cast<float4*>(to) = v;
  } else {
    if (rank < job.rank) to[0] = v.x;
    if (rank + 1 < job.rank) to[1] = v.y;
    if (rank + 2 < job.rank) to[2] = v.z;
    if (rank + 3 < job.rank) to[3] = v.w;
  }
}

// An MN-major operand [k, kRanks] whose rows are as wide as their swizzle: 32, 64 or 128 bytes. The next 16 of K are 32 * kRanks bytes on.
template <int kRanks> __device__ inline uint64_t descriptor_ranks(uint32_t shared) {
  constexpr uint64_t kLayout = kRanks == 16 ? 3 : kRanks == 32 ? 2 : 1;
  constexpr uint32_t kBlock = kSumRows * kRanks * 2, kEightRows = kRanks * 16;
  return descriptor_field(shared) | (descriptor_field(kBlock) << 16) | (descriptor_field(kEightRows) << 32) | (kLayout << 62);
}

#endif  // VLTUNE_SM90A

template <int kRanks, bool kFactorKr>
__global__ void __launch_bounds__(kDownThreads) down_sm90(const __grid_constant__ DownMaps maps, const __grid_constant__ DownJob job) {
#if VLTUNE_SM90A
  using Ring = DownRing<kRanks>;
  constexpr int kStages = Ring::kStages, kQuads = kRanks / 4;
  extern __shared__ uint8_t shared[];
  const uint32_t ring = (shared_address(shared) + kAlign - 1) & ~(kAlign - 1u);
  unsigned char* ring_at = shared + (ring - shared_address(shared));
  const uint32_t full = ring + Ring::kBarriers, rounded = full + 8 * kStages, empty = rounded + 8 * kStages;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = __shfl_sync(0xffffffff, thread / 32, 0);
  const int splits = job.splits, split = static_cast<int>(blockIdx.x) % splits, row0 = static_cast<int>(blockIdx.x) / splits * kDownRows;
  const int begin = job.steps * split / splits, steps = job.steps * (split + 1) / splits - begin;
  const int rows = kDownRows / splits;  // this block's share
  if (thread == 0) {
    prefetch_tensor_map(&maps.x);
    prefetch_tensor_map(&maps.factor);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(full + 8 * stage, 1);
      barrier_init(rounded + 8 * stage, kGroupThreads / 32 * kWarpArrivals);
      barrier_init(empty + 8 * stage, kGroupThreads / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();
  cluster_arrive_relaxed();
  wait_for_previous();
  let_next_start();
  float sums[kRanks / 2] = {};
  if (warp == 2 * kGroupThreads / 32) {
    if (lane == 0) {
      int stage = 0, phase = 1;
#pragma unroll 1
      for (int step = begin; step < begin + steps; ++step) {
        const int k = step * kTile;
        const uint32_t at = ring + stage * Ring::kStageBytes, ready = full + 8 * stage;
        barrier_wait(empty + 8 * stage, phase);
        barrier_arrive_expect(ready, kXBytes + Ring::kRawBytes);
        tma_load(at + Ring::kRaw, &maps.factor, ready, kFactorKr ? 0 : k, kFactorKr ? k : 0);
        tma_load(at, &maps.x, ready, k, row0);
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
    }
    __syncwarp();
  } else if (warp >= kGroupThreads / 32) {
    int stage = 0, phase = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      barrier_wait(full + 8 * stage, phase);
      round_factor<kRanks, kFactorKr>(ring_at + stage * Ring::kStageBytes, thread - kGroupThreads);
      fence_async();
      __syncwarp();
      if (arrives_for_warp(lane)) barrier_arrive(rounded + 8 * stage);
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
  } else {
    for (const Pad& p : job.pads)
      pad(p, static_cast<int>(blockIdx.x) * kGroupThreads + thread, static_cast<int>(gridDim.x) * kGroupThreads);
    const uint64_t a_at = descriptor_k_major(ring), b_at = descriptor_k_major(ring + Ring::kFactor);
    int stage = 0, phase = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const uint64_t offset = static_cast<uint64_t>(stage * (Ring::kStageBytes >> 4));
      barrier_wait(full + 8 * stage, phase);
      barrier_wait(rounded + 8 * stage, phase);
      wgmma_pin(sums);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < 4; ++j) wgmma<kRanks, 0, 0>(sums, a_at + offset + j * kNextK16, b_at + offset + j * kNextK16, 1);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_pin(sums);
      if (lane == 0) barrier_arrive(empty + 8 * stage);
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
  }
  cluster_wait();
  if (warp < kGroupThreads / 32) {
    // A warp's 16 rows are one block's share, or of it.
    const int owner = warp * 16 / rows, row = split * rows + warp * 16 % rows + lane / 4;
    const uint32_t to = cluster_address(ring + Ring::kSums + (row * Ring::kLine + 2 * (lane % 4)) * 4, owner);
#pragma unroll
    for (int j = 0; j < kRanks / 8; ++j) {
      put_peer(to + 8 * j * 4, sums[4 * j], sums[4 * j + 1]);
      put_peer(to + (8 * Ring::kLine + 8 * j) * 4, sums[4 * j + 2], sums[4 * j + 3]);
    }
  }
  cluster_sync();  // the last that a block does with the others' memory lies before it
  const float* parts = reinterpret_cast<const float*>(ring_at + Ring::kSums);
  for (int at = thread; at < rows * kQuads; at += kDownThreads) {
    const int row = at / kQuads, rank = at % kQuads * 4;
    float4 sum = *reinterpret_cast<const float4*>(parts + row * Ring::kLine + rank);
    for (int from = 1; from < splits; ++from) {
      const float4 part = *reinterpret_cast<const float4*>(parts + (from * rows + row) * Ring::kLine + rank);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    put_down(job, row0 + split * rows + row, rank, sum);
  }
#endif
}

template <int kRanks>
__global__ void __launch_bounds__(kSumThreads) sums_sm90(const __grid_constant__ SumMaps maps, const __grid_constant__ SumJob job) {
#if VLTUNE_SM90A
  using Ring = SumRing<kRanks>;
  constexpr int kStages = Ring::kStages;
  extern __shared__ uint8_t shared[];
  const uint32_t ring = (shared_address(shared) + kAlign - 1) & ~(kAlign - 1u);
  unsigned char* ring_at = shared + (ring - shared_address(shared));
  const uint32_t full = ring + Ring::kBarriers, empty = full + 8 * kStages;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = __shfl_sync(0xffffffff, thread / 32, 0);
  const int splits = job.splits, split = static_cast<int>(blockIdx.x) % splits, group_of_columns = static_cast<int>(blockIdx.x) / splits;
  const int begin = job.tiles * split / splits, steps = job.tiles * (split + 1) / splits - begin;
  const int own_columns = kSumColumns / splits, share = own_columns * kRanks;
  int index = 0;
  while (index + 1 < job.count && group_of_columns >= job.parts[index + 1].first_group) ++index;
  const SumPart& p = job.parts[index];
  const int column0 = (group_of_columns - p.first_group) * kSumColumns;
  if (thread == 0) {
    prefetch_tensor_map(&maps.m[index]);
    prefetch_tensor_map(&maps.factor[index]);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(full + 8 * stage, 1);
      barrier_init(empty + 8 * stage, kMultipliers / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();
  cluster_arrive_relaxed();
  wait_for_previous();
  let_next_start();
  // Where element `at` of this block's share goes; nullptr: nowhere.
  const auto place = [&](int at) -> float* {
    const int column = column0 + split * own_columns + (p.rank_first ? at % own_columns : at / kRanks);
    const int rank = p.rank_first ? at / own_columns : at % kRanks;
    if (column >= p.columns || rank >= p.rank) return nullptr;
    return p.sums + (p.rank_first ? static_cast<int64_t>(rank) * p.columns + column : static_cast<int64_t>(column) * p.rank + rank);
  };
  float sums[kRanks / 2] = {};
  if (warp == kSumThreads / 32 - 1) {
    if (lane == 0) {
      const CUtensorMap *m = &maps.m[index], *factor = &maps.factor[index];
      int stage = 0, phase = 1;
#pragma unroll 1
      for (int step = begin; step < begin + steps; ++step) {
        const uint32_t at = ring + stage * Ring::kStageBytes, ready = full + 8 * stage;
        barrier_wait(empty + 8 * stage, phase);
        barrier_arrive_expect(ready, Ring::kStageBytes);
        tma_load(at + Ring::kFactor, factor, ready, 0, step * kSumRows);
        for (int group = 0; group < kSumGroups; ++group) tma_load(at + group * kMBytes, m, ready, column0 + group * kTile, step * kSumRows);
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
    }
    __syncwarp();
  } else {
    for (int at = thread; at < share; at += kMultipliers)
      if (const float* to = place(at)) asm volatile("prefetch.global.L2 [%0];" ::"l"(to));
    const uint64_t a_at = descriptor_mn_major(ring + warp / 4 * kMBytes, kMBytes), b_at = descriptor_ranks<kRanks>(ring + Ring::kFactor);
    int stage = 0, phase = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const uint64_t offset = static_cast<uint64_t>(stage * (Ring::kStageBytes >> 4));
      barrier_wait(full + 8 * stage, phase);
      wgmma_pin(sums);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < kSumRows / 16; ++j)
        wgmma<kRanks, 1, 1>(sums, a_at + offset + j * kNextK16Mn, b_at + offset + j * (2 * kRanks), 1);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_pin(sums);
      if (lane == 0) barrier_arrive(empty + 8 * stage);
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
  }
  cluster_wait();
  if (warp < kMultipliers / 32) {
    const int owner = warp * 16 / own_columns;  // of the warp's 16 columns
    const uint32_t to = cluster_address(ring + Ring::kSums + split * share * 4, owner);
#pragma unroll
    for (int i = 0; i < kRanks / 2; ++i) {
      const int column = warp * 16 % own_columns + lane / 4 + i % 4 / 2 * 8, rank = i / 4 * 8 + 2 * (lane % 4) + i % 2;
      put_peer(to + (p.rank_first ? rank * own_columns + column : column * kRanks + rank) * 4, sums[i]);
    }
  }
  cluster_sync();  // the last that a block does with the others' memory lies before it
  const float* parts = reinterpret_cast<const float*>(ring_at + Ring::kSums);
  for (int at = thread; at < share; at += kSumThreads) {
    float* to = place(at);
    if (!to) continue;
    float sum = parts[at];
    for (int from = 1; from < splits; ++from) sum += parts[from * share + at];
    *to += sum;
  }
#endif
}

// ---------------------------------------------------------------------------------------------------------------------

// In clusters of `splits`, and started while the previous kernel ends.
template <class Maps, class Job>
void launch(const OpCall& call, void (*kernel)(Maps, Job), int64_t groups, int threads, int shared, const Maps& maps, const Job& job) {
  VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  LaunchConfig launch(stream_of(call), dim3(static_cast<unsigned>(groups * job.splits)), threads, static_cast<size_t>(shared));
  launch.overlapping();
  launch.in_clusters(dim3(static_cast<unsigned>(job.splits)));
  VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, kernel, maps, job));
  check_launch(call);
}

constexpr int64_t kMost = int64_t{1} << 30;

// Blocks that share a sum of `steps` tiles, for all multiprocessors to have work. Clusters of two find their places best.
int splits_of(int64_t groups, int64_t steps) {
  int splits = 1;
  while (splits < kMostSplits && groups * splits * 2 <= device().multiprocessors && splits * 2 <= steps) splits *= 2;
  return splits;
}

bool suits(DType dtype, int64_t n) {
  return dtype == DType::BF16 && n > 0 && n <= kMost && device().sm90a() && sm90::tensor_map_encoder() != nullptr;
}
int ranks_of(int64_t rank) { return rank <= 16 ? 16 : rank <= 32 ? 32 : 64; }

template <int kRanks> void launch_down(const OpCall& call, bool kr, int64_t groups, const DownMaps& maps, const DownJob& job) {
  launch(call, kr ? down_sm90<kRanks, true> : down_sm90<kRanks, false>, groups, kDownThreads, DownRing<kRanks>::kBytes, maps, job);
}
template <int kRanks> void launch_sums(const OpCall& call, int64_t groups, const SumMaps& maps, const SumJob& job) {
  launch(call, sums_sm90<kRanks>, groups, kSumThreads, SumRing<kRanks>::kBytes, maps, job);
}

}  // namespace

bool adapter_down_sm90(const OpCall& call, const Down& d, int splits) {
  if (!suits(d.dtype, d.n) || d.rank < 1 || d.rank > 64 || d.k < 8 || d.k > kMost || d.k % 8 != 0 || d.dropout.key) return false;
  for (const Pad& p : d.pads)
    if (p.to && (p.to_columns % 4 != 0 || p.to_rows * p.to_columns > kMost || !all_aligned(8, p.to))) return false;
  const uint32_t ranks = static_cast<uint32_t>(ranks_of(d.rank));
  DownMaps maps;
  if (!all_aligned(8, d.padded) || !sm90::encode_matrix(&maps.x, DType::BF16, d.x, d.n, d.k, d.k, kDownRows, kTile)) return false;
  const bool kr = d.factor_is_kr;
  if (!sm90::encode_matrix(&maps.factor, DType::F32, d.factor, kr ? d.k : d.rank, kr ? d.rank : d.k, kr ? d.rank : d.k, kr ? kTile : ranks,
                           kr ? ranks : kTile, CU_TENSOR_MAP_SWIZZLE_NONE))
    return false;
  if (d.weight) weight_as(call, *d.weight, d.dtype, d.plain);
  DownJob job{};
  const int64_t groups = ceil_div(d.n, int64_t{kDownRows});
  job.n = static_cast<int>(d.n);
  job.rank = static_cast<int>(d.rank);
  job.padded_rank = static_cast<int>(padded_rank(d.rank));
  job.steps = static_cast<int>(ceil_div(d.k, int64_t{kTile}));
  job.splits = splits ? splits : splits_of(groups, job.steps);
  job.scale = d.scale;
  job.result = d.result;
  job.padded = static_cast<__nv_bfloat16*>(d.padded);
  job.wide = d.rank % 4 == 0 && all_aligned(16, d.result);
  std::copy(std::begin(d.pads), std::end(d.pads), job.pads);
  if (ranks == 16) launch_down<16>(call, kr, groups, maps, job);
  else if (ranks == 32) launch_down<32>(call, kr, groups, maps, job);
  else launch_down<64>(call, kr, groups, maps, job);
  return true;
}

bool adapter_sums_sm90(const OpCall& call, DType dtype, int64_t n, const Sum* sums, int count, int splits) {
  if (!suits(dtype, n)) return false;
  SumMaps maps{};
  SumJob job{};
  int64_t groups = 0, widest = 0;
  for (int i = 0; i < count; ++i) widest = std::max(widest, sums[i].ld);
  const int ranks = ranks_of(widest);
  const auto swizzle = ranks == 16 ? CU_TENSOR_MAP_SWIZZLE_32B : ranks == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
  for (int i = 0; i < count; ++i) {
    const Sum& s = sums[i];
    if (s.columns == 0 || s.rank == 0) continue;
    if (!s.factor || s.dropout.key || s.ld > 64 || s.columns > kMost || s.columns % 8 != 0) return false;
    CUtensorMap *m = &maps.m[job.count], *factor = &maps.factor[job.count];
    if (!sm90::encode_matrix(m, DType::BF16, s.m, n, s.columns, s.columns, kSumRows, kTile)) return false;
    if (!sm90::encode_matrix(factor, DType::BF16, s.factor, n, s.ld, s.ld, kSumRows, static_cast<uint32_t>(ranks), swizzle)) return false;
    job.parts[job.count++] = {s.sums, static_cast<int>(s.columns), static_cast<int>(s.rank), s.rank_first, static_cast<int>(groups)};
    groups += ceil_div(s.columns, int64_t{kSumColumns});
  }
  if (job.count == 0) return false;
  job.tiles = static_cast<int>(ceil_div(n, int64_t{kSumRows}));
  job.splits = splits ? splits : splits_of(groups, job.tiles);
  if (ranks == 16) launch_sums<16>(call, groups, maps, job);
  else if (ranks == 32) launch_sums<32>(call, groups, maps, job);
  else launch_sums<64>(call, groups, maps, job);
  return true;
}

}  // namespace vltune::cuda
