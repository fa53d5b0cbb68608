// The dense product of gemm.h on Hopper: BF16 factors, wgmma with F32 sums, operands by TMA.
// A block computes 128 x kN of C with three warpgroups: one warp of the first copies operand tiles into a ring of stages, the other two
// each multiply 64 rows and write them through shared memory, while the copies of the next tile go on. Blocks stay for many tiles. Two
// blocks that are neighbours along M form a cluster, and each fetches half of the B tile for both. The second run along K is a few more
// steps of the same ring with other tensor maps. Where there are fewer tiles than multiprocessors, blocks of a cluster share a tile along
// K, each a fixed range, and add up through each other's shared memory in rank order: the same bits at each run.
#include "gemm_sm90.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "../sm90.cuh"

namespace vltune::cuda {
namespace {

constexpr int kM = 128, kK = 64;                  // rows of a block's tile; K of a stage: 128 bytes of bf16, the swizzle's width
constexpr int kConsumers = 2, kThreads = 128 * (kConsumers + 1);
constexpr int kABytes = kM * kK * 2;
constexpr int kRowBytes = 128;                    // of C in shared memory: 64 bf16 or 32 floats
constexpr int kBufferBytes = 16 * kRowBytes;      // a warp's 16 rows
constexpr int kBuffers = 2;                       // a warp fills one while TMA reads the other
constexpr int kBufferBytesAll = 4 * kConsumers * kBuffers * kBufferBytes;
constexpr int kMaxCluster = 8;

__host__ __device__ constexpr int b_bytes(int n) { return n * kK * 2; }
__host__ __device__ constexpr int stage_bytes(int n) { return kABytes + b_bytes(n); }
__host__ __device__ constexpr int stages(int n) { return 196608 / stage_bytes(n); }
// 1024 to align the ring, as the swizzle wants it.
__host__ __device__ constexpr int shared_bytes(int n) { return 1024 + stages(n) * stage_bytes(n) + kBufferBytesAll + 16 * stages(n); }

struct Maps {
  CUtensorMap a, b, a2, b2, c;
};

struct Job {
  int m, n;
  int steps1, steps;          // k-steps of the first run; of both
  int last1, last2;           // multiples of 16 along K in the last step of each run, 1 to 4
  int pair, splits;
  int tiles_m, tiles_n, group;  // tiles_m counts clusters: `pair` tiles each
  int turn;
  int64_t ldc;
  uint64_t hint_a, hint_b;
  const void* bias;
  const void* c;              // for BF16 that accumulates: read, added in F32
  bool bias_bf16, accumulate;
};

#if VLTUNE_SM90A

using namespace sm90;

constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;
constexpr int kPartColumns = 16;  // of a tile, that go from block to block in one piece when K is shared

struct Tile {
  int m, n;  // in clusters, in tiles
};

__device__ inline Tile tile_at(const Job& job, int index) {
  const int of_group = job.group * job.tiles_n;
  const int first = index / of_group * job.group;
  const int rows = min(job.group, job.tiles_m - first);
  const int within = index % of_group;
  return {first + within % rows, within / rows};
}

struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  template <int Stages>
  __device__ void next() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <int kN, bool AMn, bool BMn>
__device__ inline void produce(const Maps& maps, const Job& job, uint32_t ring_at, uint32_t full, uint32_t empty, int cluster, int clusters, int mi,
                               int ks) {
  constexpr int kStages = stages(kN);
  const uint16_t mask = static_cast<uint16_t>(((1 << job.pair) - 1) << (ks * job.pair));
  const int share = kN / job.pair;  // columns of B that this block fetches
  const int begin = static_cast<int>(static_cast<int64_t>(job.steps) * ks / job.splits);
  const int end = static_cast<int>(static_cast<int64_t>(job.steps) * (ks + 1) / job.splits);
  Ring ring;
  for (int index = cluster; index < job.tiles_m * job.tiles_n; index += clusters) {
    const Tile tile = tile_at(job, index);
    const int row = (tile.m * job.pair + mi) * kM, column = tile.n * kN + mi * share;
#pragma unroll 1
    for (int step = begin; step < end; ++step) {
      const bool second = step >= job.steps1;
      const int k = (second ? step - job.steps1 : step) * kK;
      const CUtensorMap* map_a = second ? &maps.a2 : &maps.a;
      const CUtensorMap* map_b = second ? &maps.b2 : &maps.b;
      const uint32_t at = ring_at + ring.stage * stage_bytes(kN), ready = full + 8 * ring.stage;
      barrier_wait(empty + 8 * ring.stage, ring.phase ^ 1);
      barrier_arrive_expect(ready, stage_bytes(kN));
      if constexpr (AMn) {
        for (int block = 0; block < kM / 64; ++block) tma_load(at + block * (64 * kRowBytes), map_a, ready, row + 64 * block, k, job.hint_a);
      } else {
        tma_load(at, map_a, ready, k, row, job.hint_a);
      }
      if constexpr (BMn) {
        for (int block = 0; block < share / 64; ++block) {
          const uint32_t to = at + kABytes + (mi * (share / 64) + block) * (64 * kRowBytes);
          if (job.pair > 1) tma_load_multicast(to, map_b, ready, column + 64 * block, k, mask, job.hint_b);
          else tma_load(to, map_b, ready, column + 64 * block, k, job.hint_b);
        }
      } else {
        const uint32_t to = at + kABytes + mi * share * kRowBytes;
        if (job.pair > 1) tma_load_multicast(to, map_b, ready, k, column, mask, job.hint_b);
        else tma_load(to, map_b, ready, k, column, job.hint_b);
      }
      ring.next<kStages>();
    }
  }
  // This block stays until the whole cluster is done with its stages: their releases are writes to its shared memory.
#pragma unroll 1
  for (int stage = 0; stage < kStages; ++stage) {
    barrier_wait(empty + 8 * ring.stage, ring.phase ^ 1);
    ring.next<kStages>();
  }
}

// Blocks of the cluster that computed parts of the same tile along K exchange them: each adds up some columns.
template <int kN>
__device__ inline void share_sums(float (&sums)[kN / 2], const Job& job, uint32_t ring_at, int owners, int mi, int ks, int thread) {
  constexpr int kParts = kN / kPartColumns;
  const int own_parts = kParts / owners;
  cluster_sync();  // every block has read its stages: they are free for sums
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int owner = part / own_parts;
    if (owner != ks) {
      const int source = ks < owner ? ks : ks - 1;
      const uint32_t to = cluster_address(ring_at + (((source * own_parts + part % own_parts) * 2) * 256 + thread) * 16, owner * job.pair + mi);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* d = &sums[part * 8 + half * 4];
        asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + half * 4096), "f"(d[0]), "f"(d[1]), "f"(d[2]), "f"(d[3]) : "memory");
      }
    }
  }
  cluster_sync();
  if (ks >= owners) return;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (part / own_parts == ks) {
      for (int source = 0; source < job.splits - 1; ++source) {
        const uint32_t from = ring_at + (((source * own_parts + part % own_parts) * 2) * 256 + thread) * 16;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float d[4];
          asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(from + half * 4096));
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[part * 8 + half * 4 + e] += d[e];
        }
      }
    }
  }
}

__device__ inline float bias_at(const Job& job, int column) {
  return job.bias_bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(job.bias)[column]) : static_cast<const float*>(job.bias)[column];
}

// Old values of C for 64 columns from `column`, in the accumulators' layout: rows `row` and `row` + 8.
__device__ inline void load_old(uint32_t (&old)[16], const Job& job, int row, int column) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 8 * half, c = column + 8 * j;
      old[2 * j + half] = r < job.m && c < job.n ? *reinterpret_cast<const uint32_t*>(static_cast<const __nv_bfloat16*>(job.c) + r * job.ldc + c) : 0;
    }
  }
}

// A warp's 16 rows from registers to C, 128 bytes of columns at a time, through its own buffers.
template <int kN, class C>
__device__ inline void write_out(float (&sums)[kN / 2], const Maps& maps, const Job& job, uint32_t buffers, int row, int column, int first, int last,
                                 int lane, int& buffer) {
  constexpr bool kFloat = sizeof(C) == 4;
  constexpr int kChunk = kRowBytes / static_cast<int>(sizeof(C)), kRegisters = kChunk / 2;
  if (row >= job.m) return;
  uint32_t old[2][16];
  const bool add_old = !kFloat && job.accumulate;
  const int old_row = row + lane / 4, old_column = column + 2 * (lane % 4);
#pragma unroll
  for (int chunk = 0; chunk < kN / kChunk; ++chunk) {
    if (chunk < first || chunk >= last || column + chunk * kChunk >= job.n) continue;
    float* d = &sums[chunk * kRegisters];
    if (!kFloat && add_old && chunk == first) load_old(old[chunk & 1], job, old_row, old_column + chunk * kChunk);
    if (!kFloat && add_old && chunk + 1 < last) load_old(old[(chunk + 1) & 1], job, old_row, old_column + (chunk + 1) * kChunk);
    if (job.bias != nullptr) {
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) {
        const int c = column + chunk * kChunk + 8 * j + 2 * (lane % 4);
        const float bias0 = c < job.n ? bias_at(job, c) : 0, bias1 = c < job.n ? bias_at(job, c + 1) : 0;
        d[4 * j] += bias0, d[4 * j + 1] += bias1, d[4 * j + 2] += bias0, d[4 * j + 3] += bias1;
      }
    }
    const uint32_t at = buffers + buffer * kBufferBytes;
    if (lane == 0) tma_wait_read<kBuffers - 1>();
    __syncwarp();
    if constexpr (kFloat) {
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t to = at + swizzle128(lane / 4 + 8 * half, 2 * j + (lane % 4) / 2) + 8 * (lane % 2);
          asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(d[4 * j + 2 * half]), "f"(d[4 * j + 2 * half + 1]) : "memory");
        }
      }
    } else {
      if (add_old) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          const uint32_t pair = old[chunk & 1][i];
          d[2 * i] += __uint_as_float(pair << 16);
          d[2 * i + 1] += __uint_as_float(pair & 0xffff0000u);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t to = at + swizzle128(lane % 16, 2 * j + lane / 16);
        store_matrices(to, pack_bf16(d[8 * j], d[8 * j + 1]), pack_bf16(d[8 * j + 2], d[8 * j + 3]), pack_bf16(d[8 * j + 4], d[8 * j + 5]),
                       pack_bf16(d[8 * j + 6], d[8 * j + 7]));
      }
    }
    fence_async();
    __syncwarp();
    if (lane == 0) {
      if (kFloat && job.accumulate) tma_reduce_add(&maps.c, at, column + chunk * kChunk, row);
      else tma_store(&maps.c, at, column + chunk * kChunk, row);
      tma_commit();
    }
    buffer = (buffer + 1) % kBuffers;
  }
}

template <int kN, bool AMn, bool BMn, class C>
__device__ inline void consume(const Maps& maps, const Job& job, uint32_t ring_at, uint32_t buffers, uint32_t full, uint32_t empty, int cluster,
                               int clusters, int mi, int ks, int consumer, int thread) {
  constexpr int kStages = stages(kN);
  constexpr uint64_t kNextA = AMn ? kNextK16Mn : kNextK16, kNextB = BMn ? kNextK16Mn : kNextK16;
  constexpr int kChunks = kN * static_cast<int>(sizeof(C)) / kRowBytes;
  const int lane = thread % 32, warp = thread / 32;
  const int begin = static_cast<int>(static_cast<int64_t>(job.steps) * ks / job.splits);
  const int end = static_cast<int>(static_cast<int64_t>(job.steps) * (ks + 1) / job.splits);
  const int owners = min(job.splits, kChunks);
  const uint32_t a_shared = ring_at + consumer * 64 * kRowBytes;  // 64 rows of m, or a block of 64 columns of m
  const uint64_t a_at = AMn ? descriptor_mn_major(a_shared, 64 * kRowBytes) : descriptor_k_major(a_shared);
  const uint64_t b_at = BMn ? descriptor_mn_major(ring_at + kABytes, 64 * kRowBytes) : descriptor_k_major(ring_at + kABytes);
  const uint32_t own_buffers = buffers + warp * (kBuffers * kBufferBytes);
  float sums[kN / 2];
  Ring ring;
  int buffer = 0;
  // The consumers take turns of a few steps: wgmmas of two warpgroups that interleave run a tenth slower. While one writes its tile
  // out, the other has its last turn or its first.
  const int own_turn = 1 + consumer, other_turn = 2 - consumer;
  if (consumer == 1) named_barrier_arrive(other_turn, 256);
  for (int index = cluster; index < job.tiles_m * job.tiles_n; index += clusters) {
    const Tile tile = tile_at(job, index);
    int of_turn = 0, held = -1;  // held: the stage that wgmmas in flight read
#pragma unroll 1
    for (int step = begin; step < end; ++step) {
      const int count = step == job.steps1 - 1 ? job.last1 : step == job.steps - 1 ? job.last2 : 4;
      // The shuffle tells the compiler that the descriptors are the same in all lanes.
      const uint32_t offset = static_cast<uint32_t>(__shfl_sync(0xffffffff, ring.stage, 0)) * (stage_bytes(kN) >> 4);
      const uint64_t a = a_at + offset, b = b_at + offset;
      barrier_wait(full + 8 * ring.stage, ring.phase);
      if (of_turn == 0) named_barrier_sync(own_turn, 256);
      if (count == 4) {
        wgmma_fence();
        wgmma<kN, AMn, BMn>(sums, a, b, step > begin);
        wgmma<kN, AMn, BMn>(sums, a + kNextA, b + kNextB, 1);
        wgmma<kN, AMn, BMn>(sums, a + 2 * kNextA, b + 2 * kNextB, 1);
        wgmma<kN, AMn, BMn>(sums, a + 3 * kNextA, b + 3 * kNextB, 1);
        wgmma_commit();
      } else {
#pragma unroll 1
        for (int j = 0; j < count; ++j) {
          wgmma_fence();
          wgmma<kN, AMn, BMn>(sums, a + j * kNextA, b + j * kNextB, step > begin || j > 0);
          wgmma_commit();
        }
      }
      const bool turn_ends = ++of_turn == job.turn || step == end - 1;
      if (turn_ends) named_barrier_arrive(other_turn, 256);
      wgmma_wait<1>();
      if (turn_ends) {
        wgmma_wait<0>();
        if (lane < job.pair) barrier_arrive_cluster(empty + 8 * ring.stage, ks * job.pair + lane);
        of_turn = 0;
      }
      if (held >= 0 && lane < job.pair) barrier_arrive_cluster(empty + 8 * held, ks * job.pair + lane);
      held = turn_ends ? -1 : ring.stage;
      ring.next<kStages>();
    }
    wgmma_wait<0>();
    wgmma_pin(sums);
    int first = 0, last = kChunks;
    if (job.splits > 1) {
      share_sums<kN>(sums, job, ring_at, owners, mi, ks, thread);
      first = ks * (kChunks / owners);
      last = ks < owners ? first + kChunks / owners : first;
    }
    const int row = (tile.m * job.pair + mi) * kM + warp * 16;
    write_out<kN, C>(sums, maps, job, own_buffers, row, tile.n * kN, first, last, lane, buffer);
  }
  if (consumer == 0) named_barrier_sync(own_turn, 256);  // the other's last word
  if (lane == 0) tma_wait_read<0>();
}

#endif  // VLTUNE_SM90A

template <int kN, bool AMn, bool BMn, class C>
__global__ void __launch_bounds__(kThreads, 1) product_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Job job) {
#if VLTUNE_SM90A
  constexpr int kStages = stages(kN);
  extern __shared__ uint8_t shared[];
  const uint32_t ring_at = (shared_address(shared) + 1023) & ~1023u;
  const uint32_t buffers = ring_at + kStages * stage_bytes(kN);
  const uint32_t full = buffers + kBufferBytesAll, empty = full + 8 * kStages;
  const int thread = static_cast<int>(threadIdx.x), group = __shfl_sync(0xffffffff, thread / 128, 0);
  const int blocks = job.pair * job.splits;
  const int rank = static_cast<int>(blockIdx.x) % blocks, mi = rank % job.pair, ks = rank / job.pair;
  const int cluster = static_cast<int>(blockIdx.x) / blocks, clusters = static_cast<int>(gridDim.x) / blocks;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(full + 8 * stage, 1);
      barrier_init(empty + 8 * stage, 4 * kConsumers * job.pair);
    }
    barrier_init_fence();
    prefetch_tensor_map(&maps.a);
    prefetch_tensor_map(&maps.b);
    prefetch_tensor_map(&maps.c);
  }
  if (blocks > 1) {
    cluster_arrive_relaxed();
    cluster_wait();
  } else {
    __syncthreads();
  }
  if (group == 0) {
    registers_shrink<kProducerRegisters>();
    if (thread == 0) produce<kN, AMn, BMn>(maps, job, ring_at, full, empty, cluster, clusters, mi, ks);
    __syncwarp();
    if (job.splits > 1) {  // as in share_sums
      cluster_sync();
      cluster_sync();
    }
  } else {
    registers_grow<kConsumerRegisters>();
    consume<kN, AMn, BMn, C>(maps, job, ring_at, buffers, full, empty, cluster, clusters, mi, ks, group - 1, thread - 128);
  }
#endif
}

// ---------------------------------------------------------------------------------------------------------------------------------------

template <int kN, bool AMn, bool BMn, class C>
bool launch(const OpCall& call, const Maps& maps, Job job, const Sm90Plan& plan) {
  const auto kernel = product_sm90<kN, AMn, BMn, C>;
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(plan.pair * plan.splits);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes(kN);
  config.stream = stream_of(call);
  // How many clusters of this size run at once.
  static int resident[kMaxCluster + 1] = {};
  const int blocks = plan.pair * plan.splits;
  if (resident[blocks] == 0) {
    VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes(kN)));
    int count = 0;
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    VLTUNE_CUDA(cudaOccupancyMaxActiveClusters(&count, kernel, &config));
    resident[blocks] = std::max(count, 1);
  }
  const int tiles = job.tiles_m * job.tiles_n;
  // A shared tile ends with the block: its stages are where sums are exchanged.
  const int clusters = plan.splits > 1 ? tiles : std::min(tiles, resident[blocks]);
  config.gridDim = dim3(static_cast<unsigned>(clusters * blocks));
  VLTUNE_CUDA(cudaLaunchKernelEx(&config, kernel, maps, job));
  check_launch(call);
  return true;
}

template <bool AMn, bool BMn, class C>
bool launch_width(const OpCall& call, const Maps& maps, const Job& job, const Sm90Plan& plan) {
  return plan.tile_n == 256 ? launch<256, AMn, BMn, C>(call, maps, job, plan) : launch<128, AMn, BMn, C>(call, maps, job, plan);
}

template <class C>
bool launch_form(const OpCall& call, const Maps& maps, const Job& job, const Sm90Plan& plan, bool a_is_km, bool b_is_nk) {
  if (a_is_km) return launch_width<true, true, C>(call, maps, job, plan);
  return b_is_nk ? launch_width<false, false, C>(call, maps, job, plan) : launch_width<false, true, C>(call, maps, job, plan);
}

// What was measured on an H200, in microseconds: a k-step of a tile, a tile's start and end, the exchange of sums within a cluster.
constexpr double kStep256 = 0.66, kStep128 = 0.38, kTileEnds = 1.0, kExchange256 = 3.5, kExchange128 = 1.5;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Sm90Plan sm90_plan(int64_t m, int64_t n, int64_t k, int multiprocessors) {
  const int64_t steps = ceil_div(k, kK);
  Sm90Plan best;
  double least = 0;
  for (const int tile_n : {256, 128}) {
    for (const int splits : {1, 2, 4}) {
      if (splits > 1 && steps < 4 * splits) continue;
      Sm90Plan plan;
      plan.tile_n = tile_n;
      plan.splits = splits;
      plan.pair = splits == 1 && m > kM ? 2 : 1;
      // Clusters of more than two leave some multiprocessors idle: those of a GPC are not a multiple.
      const int64_t resident = splits > 2 ? multiprocessors * 7 / 8 : multiprocessors;
      const int64_t blocks = ceil_div(m, kM * plan.pair) * plan.pair * ceil_div(n, tile_n) * splits;
      const double step = tile_n == 256 ? kStep256 : kStep128, exchange = splits == 1 ? 0 : tile_n == 256 ? kExchange256 : kExchange128;
      const double time = static_cast<double>(ceil_div(blocks, resident)) * (static_cast<double>(ceil_div(steps, splits)) * step + kTileEnds + exchange);
      if (least == 0 || time < least) {
        least = time;
        best = plan;
      }
    }
  }
  return best;
}

bool gemm_sm90_with(const OpCall& call, const Gemm& g, const Sm90Plan& plan) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (g.dtype != DType::BF16 || g.m < 1 || g.n < 8 || g.k < 8 || g.n % 8 != 0 || g.m > kMost || g.n > kMost || g.k > kMost || g.k2 > kMost) return false;
  if (g.a_is_km && g.b_is_nk) return false;  // no such product in vltune
  Maps maps;
  const uint32_t share = static_cast<uint32_t>(plan.tile_n / plan.pair);
  const auto encode_a = [&](CUtensorMap* map, const void* a, int64_t ld, int64_t k) {
    return g.a_is_km ? sm90::encode_matrix(map, DType::BF16, a, k, g.m, ld, kK, 64) : sm90::encode_matrix(map, DType::BF16, a, g.m, k, ld, kM, kK);
  };
  const auto encode_b = [&](CUtensorMap* map, const void* b, int64_t ld, int64_t k) {
    return g.b_is_nk ? sm90::encode_matrix(map, DType::BF16, b, g.n, k, ld, share, kK) : sm90::encode_matrix(map, DType::BF16, b, k, g.n, ld, kK, 64);
  };
  if (!encode_a(&maps.a, g.a, g.lda, g.k) || !encode_b(&maps.b, g.b, g.ldb, g.k)) return false;
  if (g.k2 > 0) {
    if (!encode_a(&maps.a2, g.a2, g.lda2, g.k2) || !encode_b(&maps.b2, g.b2, g.ldb2, g.k2)) return false;
  } else {
    maps.a2 = maps.a;
    maps.b2 = maps.b;
  }
  const bool f32 = g.c_dtype == DType::F32;
  if (!sm90::encode_matrix(&maps.c, g.c_dtype, g.c, g.m, g.n, g.ldc, 16, static_cast<uint32_t>(kRowBytes / (f32 ? 4 : 2)))) return false;
  Job job = {};
  job.m = static_cast<int>(g.m);
  job.n = static_cast<int>(g.n);
  const auto last = [](int64_t k) { return static_cast<int>(ceil_div((k - 1) % kK + 1, 16)); };
  job.steps1 = static_cast<int>(ceil_div(g.k, kK));
  job.steps = job.steps1 + static_cast<int>(ceil_div(g.k2, kK));
  job.last1 = last(g.k);
  job.last2 = g.k2 > 0 ? last(g.k2) : job.last1;
  job.pair = plan.pair;
  job.splits = plan.splits;
  job.tiles_m = static_cast<int>(ceil_div(g.m, kM * plan.pair));
  job.tiles_n = static_cast<int>(ceil_div(g.n, plan.tile_n));
  job.group = plan.group;
  job.turn = std::clamp(plan.turn, 1, stages(256));  // a longer one would wait for stages that the other consumer holds
  job.ldc = g.ldc;
  job.hint_a = plan.stream_b ? sm90::kEvictLast : sm90::kEvictNormal;
  job.hint_b = plan.stream_b ? sm90::kEvictFirst : sm90::kEvictNormal;
  job.bias = g.bias;
  job.bias_bf16 = g.bias_dtype == DType::BF16;
  job.c = g.c;
  job.accumulate = g.accumulate;
  return f32 ? launch_form<float>(call, maps, job, plan, g.a_is_km, g.b_is_nk) : launch_form<__nv_bfloat16>(call, maps, job, plan, g.a_is_km, g.b_is_nk);
}

bool gemm_sm90(const OpCall& call, const Gemm& product) {
  if (!device().sm90a() || product.dtype != DType::BF16 || sm90::tensor_map_encoder() == nullptr) return false;
  if (product.bias && product.bias_dtype == DType::F16) return false;
  return gemm_sm90_with(call, product, sm90_plan(product.m, product.n, product.k, device().multiprocessors));
}

}  // namespace vltune::cuda
