// linears_one on Hopper and after, for BF16 and NF4: a row times the weights of up to three layers, which are read once, as fast as
// memory gives them. A block owns 16 rows of the weight or several times 16. It asks for all their codes at its start, while the kernel
// before still runs; only then does it wait for the row, norms it, and multiplies. Codes become BF16 by a table of all bytes that has a
// column for each lane (no two lanes of a load meet in a bank), and go to the tensor cores without their scales: a block of 64 is summed
// first and scaled then.
#include "../../ops/decode.h"

#include <algorithm>

#include "../../ops/decode_parts.h"
#include "../../ops/linear.h"
#include "../../ops/rms_norm.h"
#include "../../ops/swiglu.h"
#include "codes.cuh"
#include "chained.cuh"
#include "../mma.cuh"
#include "../sm90.cuh"
#include "../vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;
[[maybe_unused]] constexpr int kHeld = 2;             // pieces of the row that a warp keeps in registers
constexpr int kTileRows = 16, kMostTiles = 16;
constexpr int64_t kMostShared = 116 << 10;            // of a block, so that the next kernel's fits beside it
constexpr int kLeastSlots = 3;                        // tiles on the way at once, for which a block takes more
constexpr int kDownThreads = 256;

struct Layer {
  const uint8_t* codes;
  Nf4State nf4;
  const void* bias;
  bool bias_is_bf16;
  const float *a, *b;
  float* u;
  int rank, out;
  Bf16* y;
};

struct Job {
  const Bf16 *x, *residual;
  const void* norm;
  bool norm_is_bf16;
  Bf16* sum;
  float eps, scale;
  int width, count, per_block, slots;  // columns of x, layers; of a block: units, and tiles that have room at once
  bool swiglu;
  Layer layers[kMostLinears];
};

// A unit is a tile of 16 rows of one layer, or with swiglu one of either layer.
__host__ __device__ inline int units_of(const Job& job) {
  int units = 0;
  for (int i = 0; i < (job.swiglu ? 1 : job.count); ++i) units += (job.layers[i].out + kTileRows - 1) / kTileRows;
  return units;
}
__host__ __device__ inline int tiles_of(const Job& job) { return job.swiglu ? 2 * job.per_block : job.per_block; }

// Where things lie in shared memory, from its start on. Rows of codes are 32 bytes apart modulo 128 and those of scales an odd number of
// words, so that the rows of a tile are read without conflicts. The table's address is a multiple of its size: a byte and a lane are then
// put into it bit by bit.
struct Places {
  uint32_t code_stride, slot_bytes, scale_stride, barriers, partial, map, nested_count, nested, x, sums, absmax, scales, table, codes, end;

  __host__ __device__ Places(const Job& job, uint32_t start) {
    const uint32_t width = static_cast<uint32_t>(job.width), tiles = static_cast<uint32_t>(tiles_of(job)), blocks = width / static_cast<uint32_t>(kNf4Block);
    code_stride = (width / 2 + 127) / 128 * 128 + 32;
    slot_bytes = kTileRows * code_stride;
    scale_stride = blocks | 1;
    barriers = start;
    partial = barriers + (2 * kMostTiles + 1) * 8 + 8;
    map = partial + kWarp * 4;
    nested = map + 256 * 4;
    nested_count = kTileRows * blocks / static_cast<uint32_t>(kNf4NestedBlock) + 2;  // that a tile may touch
    x = nested + (tiles * nested_count + 3) / 4 * 16;
    sums = x + width * 2;
    absmax = sums + static_cast<uint32_t>(kWarps * kTileRows) * tiles * 4;
    scales = absmax + tiles * kTileRows * blocks;
    table = (scales + tiles * kTileRows * scale_stride * 4 + kTableBytes - 1) / kTableBytes * kTableBytes;
    codes = table + kTableBytes;
    end = codes + static_cast<uint32_t>(job.slots) * slot_bytes;
  }
  [[maybe_unused]] __device__ uint32_t full(int tile) const { return barriers + tile * 8; }
  [[maybe_unused]] __device__ uint32_t consumed(int tile) const { return barriers + (kMostTiles + tile) * 8; }
  [[maybe_unused]] __device__ uint32_t absmax_full() const { return barriers + 2 * kMostTiles * 8; }
};
constexpr uint32_t kReserved = 1024;  // shared memory starts here at the latest: the first bytes are the system's

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// Of the norm's weight, if there is one.
__device__ inline Lanes<8> norm_weights(const Job& job, int vector) {
  return job.norm_is_bf16 ? load_lanes<8, Use::Constant>(static_cast<const Bf16*>(job.norm) + 8 * vector)
                          : load_lanes<8, Use::Constant>(static_cast<const float*>(job.norm) + 8 * vector);
}

// The row that the layers read: x, or its norm, to shared memory as BF16. Every thread of the block calls it, after wait_for_previous.
// `first`: the thread's first norm_weights.
template <int kBlockThreads>
__device__ inline void read_row(const Job& job, const Lanes<8>& first, Bf16* to, float* shared, bool writes_sum) {
  const int vectors = job.width / 8;
  float squares = 0;
  for (int i = threadIdx.x; i < vectors; i += kBlockThreads) {
    Packed<Bf16, 8> s;
    s.words[0] = __ldcg(reinterpret_cast<const uint4*>(job.x) + i);
    if (job.residual) {
      Packed<Bf16, 8> more;
      more.words[0] = __ldcg(reinterpret_cast<const uint4*>(job.residual) + i);
      Lanes<8> a = unpack(s), b = unpack(more);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] += b[j];
      s = pack<Bf16>(a);
      if (writes_sum) store(job.sum + 8 * i, s);
    }
    store(to + 8 * i, s);
    if (job.norm) {
      const Lanes<8> v = unpack(s);
#pragma unroll
      for (int j = 0; j < 8; ++j) squares = fmaf(v[j], v[j], squares);
    }
  }
  if (job.norm) {
    squares = block_sum<kBlockThreads>(squares, shared);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(job.width) + job.eps);
    for (int i = threadIdx.x; i < vectors; i += kBlockThreads) {  // what this thread wrote itself
      Lanes<8> v = load_lanes<8>(to + 8 * i);
      const Lanes<8> w = i == static_cast<int>(threadIdx.x) ? first : norm_weights(job, i);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = w[j] * (v[j] * scale);
      store_lanes(to + 8 * i, v);
    }
  }
  __syncthreads();
}

struct Tile {
  int layer, row;  // of the weight, the tile's first
};
__device__ inline Tile tile_at(const Job& job, int local) {
  int unit = static_cast<int>(blockIdx.x) * job.per_block + (job.swiglu ? local / 2 : local);
  if (job.swiglu) return {local % 2, unit * kTileRows};
  int layer = 0;
  while (layer + 1 < job.count) {
    const int tiles = (job.layers[layer].out + kTileRows - 1) / kTileRows;
    if (unit < tiles) break;
    unit -= tiles;
    ++layer;
  }
  return {layer, unit * kTileRows};
}

#endif

__global__ void __launch_bounds__(kThreads, 2) linears_kernel(const __grid_constant__ Job job) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  const uint32_t start = shared_address(memory);
  const Places at(job, start);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, tiles = tiles_of(job), blocks = job.width / static_cast<int>(kNf4Block);
  const uint32_t row_bytes = static_cast<uint32_t>(job.width) / 2;
  float* scales = reinterpret_cast<float*>(memory + (at.scales - start));

  const auto rows_of = [&](const Tile& tile) { return max(min(job.layers[tile.layer].out - tile.row, kTileRows), 0); };
  const auto fetch = [&](int i, int slot) {  // by one warp: the codes of a tile, row by row
    const Tile tile = tile_at(job, i);
    const int rows = rows_of(tile);
    if (lane == 0) sm90::barrier_arrive_expect(at.full(i), rows * row_bytes);
    __syncwarp();
    if (lane < rows)
      copy_row(at.codes + slot * at.slot_bytes + lane * at.code_stride,
               job.layers[tile.layer].codes + static_cast<int64_t>(tile.row + lane) * row_bytes, row_bytes, at.full(i));
  };
  // Bytes of a tile's absmax that are copied: all or none.
  const auto absmax_bytes = [&](const Tile& tile) -> uint32_t {
    const uint8_t* from = job.layers[tile.layer].nf4.absmax_u8;
    const int bytes = rows_of(tile) * blocks;
    return job.layers[tile.layer].nf4.absmax || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 ? 0 : static_cast<uint32_t>(bytes);
  };

  if (warp == 0) {
    if (lane == 0) {
      for (int i = 0; i < tiles; ++i) {
        sm90::barrier_init(at.full(i), 1);
        sm90::barrier_init(at.consumed(i), kWarps * sm90::kWarpArrivals);
      }
      sm90::barrier_init(at.absmax_full(), 1);
      sm90::barrier_init_fence();
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      uint32_t bytes = 0;
      for (int i = 0; i < tiles; ++i) bytes += absmax_bytes(tile_at(job, i));
      sm90::barrier_arrive_expect(at.absmax_full(), bytes);
      for (int i = 0; i < tiles; ++i) {
        const Tile tile = tile_at(job, i);
        if (const uint32_t count = absmax_bytes(tile); count > 0)
          copy_row(at.absmax + i * kTileRows * blocks, job.layers[tile.layer].nf4.absmax_u8 + static_cast<int64_t>(tile.row) * blocks, count,
                   at.absmax_full());
      }
    }
    __syncwarp();
    for (int i = 0; i < min(job.slots, tiles); ++i) fetch(i, i);
  }
  let_next_start();
  float* map = reinterpret_cast<float*>(memory + (at.map - start));
  if (threadIdx.x < 256) map[threadIdx.x] = kDynamicMapSigned[threadIdx.x];
  float* nested = reinterpret_cast<float*>(memory + (at.nested - start));
  for (int i = threadIdx.x; i < tiles * static_cast<int>(at.nested_count); i += kThreads) {
    const Tile tile = tile_at(job, i / static_cast<int>(at.nested_count));
    const Layer& layer = job.layers[tile.layer];
    const int64_t at_block = static_cast<int64_t>(tile.row) * blocks / kNf4NestedBlock + i % static_cast<int>(at.nested_count);
    if (layer.nf4.nested_absmax && at_block * kNf4NestedBlock < static_cast<int64_t>(layer.out) * blocks) nested[i] = __ldg(layer.nf4.nested_absmax + at_block);
  }
  for (int i = threadIdx.x; i < kTableParts; i += kThreads) write_table(memory + (at.table - start), i);
  __syncthreads();
  sm90::barrier_wait(at.absmax_full(), 0);
  for (int i = 0; i < tiles; ++i) {
    const Tile tile = tile_at(job, i);
    const Nf4State& state = job.layers[tile.layer].nf4;
    const int rows = rows_of(tile);
    const int64_t first = static_cast<int64_t>(tile.row) * blocks;
    const uint8_t* copied = reinterpret_cast<const uint8_t*>(memory + (at.absmax - start) + i * kTileRows * blocks);
    const bool is_copied = absmax_bytes(tile) > 0;
    const float* own = nested + i * static_cast<int>(at.nested_count);
    const int in_nested = static_cast<int>(first % kNf4NestedBlock);
    for (int row = warp; row < kTileRows; row += kWarps) {
      float* to = scales + (i * kTileRows + row) * at.scale_stride;
      for (int block = lane; block < blocks; block += kWarp) {
        const int j = row * blocks + block;
        to[block] = row >= rows ? 0.0f
                    : is_copied ? __fadd_rn(__fmul_rn(map[copied[j]], own[(in_nested + j) / static_cast<int>(kNf4NestedBlock)]), state.offset)
                                : nf4_scale(state, first + j);
      }
    }
  }
  for (int i = threadIdx.x; i < job.per_block * kTileRows; i += kThreads) {  // the adapter's rows, which the end wants
    for (int which = 0; which < (job.swiglu ? 2 : 1); ++which) {
      const Tile tile = tile_at(job, job.swiglu ? i / kTileRows * 2 + which : i / kTileRows);
      const Layer& layer = job.layers[tile.layer];
      const int column = tile.row + i % kTileRows;
      if (column < layer.out)
        for (int r = 0; r < layer.rank; r += 32) prefetch_l2(layer.b + static_cast<int64_t>(column) * layer.rank + r);
    }
  }
  Lanes<8> first_weights = {};
  if (job.norm && static_cast<int>(threadIdx.x) * 8 < job.width) first_weights = norm_weights(job, threadIdx.x);

  wait_for_previous();
  read_row<kThreads>(job, first_weights, reinterpret_cast<Bf16*>(memory + (at.x - start)), reinterpret_cast<float*>(memory + (at.partial - start)), blockIdx.x == 0);

  const int g = lane / 4, t = lane % 4;
  const uint32_t lane_table = at.table | static_cast<uint32_t>(lane * 4);
  float* sums = reinterpret_cast<float*>(memory + (at.sums - start)) + warp * tiles * kTileRows;
  struct Factors { uint4 of[2]; };
  const auto factors_of = [&](int block) -> Factors {
    const uint4* x = reinterpret_cast<const uint4*>(memory + (at.x - start) + block * (kNf4Block * 2) + t * 32);
    return {{x[0], x[1]}};
  };
  Factors held[kHeld];  // of the warp's first blocks, for all tiles
#pragma unroll
  for (int s = 0; s < kHeld; ++s)
    if (warp + s * kWarps < blocks) held[s] = factors_of(warp + s * kWarps);
  int slot = 0;
  for (int i = 0; i < tiles; ++i) {
    sm90::barrier_wait(at.full(i), 0);
    const uint32_t low = at.codes + slot * at.slot_bytes + g * at.code_stride + t * 8, high = low + 8 * at.code_stride;
    const float* low_scales = scales + (i * kTileRows + g) * at.scale_stride;
    const float* high_scales = low_scales + 8 * at.scale_stride;
    float low_sum = 0, high_sum = 0;
    const auto multiply = [&](int block, const Factors& factors) {
      Codes codes;
      codes.look_up(low + block * (kNf4Block / 2), high + block * (kNf4Block / 2), lane_table);
      float c[4] = {}, more[4] = {};
      codes.multiply(factors.of, c, more);
      low_sum = fmaf(low_scales[block], c[0] + more[0], low_sum);  // all columns of c are alike
      high_sum = fmaf(high_scales[block], c[2] + more[2], high_sum);
    };
#pragma unroll
    for (int s = 0; s < kHeld; ++s)
      if (warp + s * kWarps < blocks) multiply(warp + s * kWarps, held[s]);
#pragma unroll 2
    for (int block = warp + kHeld * kWarps; block < blocks; block += kWarps) multiply(block, factors_of(block));
    if (i + job.slots < tiles) {  // the tile's place is another's, once all warps have read it
      __syncwarp();
      if (sm90::arrives_for_warp(lane)) sm90::barrier_arrive(at.consumed(i));
      if (warp == i % kWarps) {
        sm90::barrier_wait(at.consumed(i), 0);
        fetch(i + job.slots, slot);
      }
    }
    slot = slot + 1 == job.slots ? 0 : slot + 1;
    if (t == 0) {
      sums[i * kTileRows + g] = low_sum;
      sums[i * kTileRows + g + 8] = high_sum;
    }
  }
  __syncthreads();

  const float* all = reinterpret_cast<const float*>(memory + (at.sums - start));
  const auto result = [&](const Tile& tile, int local, int row) {
    const Layer& layer = job.layers[tile.layer];
    const int column = tile.row + row;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += all[(w * tiles + local) * kTileRows + row];
    if (layer.bias)
      sum += layer.bias_is_bf16 ? to_float(static_cast<const Bf16*>(layer.bias)[column]) : static_cast<const float*>(layer.bias)[column];
    const float* b = layer.b + static_cast<int64_t>(column) * layer.rank;
    for (int r = 0; r < layer.rank; ++r)
      sum = fmaf(to_float(from_float<Bf16>(__ldcg(layer.u + r))), to_float(from_float<Bf16>(__ldg(b + r))), sum);
    return from_float<Bf16>(sum);
  };
  const int step = job.swiglu ? 2 : 1;
  for (int i = threadIdx.x; i < job.per_block * kTileRows; i += kThreads) {
    const int local = i / kTileRows * step, row = i % kTileRows;
    const Tile tile = tile_at(job, local);
    if (tile.row + row >= job.layers[tile.layer].out) continue;
    Bf16 y = result(tile, local, row);
    if (job.swiglu) {
      const float gate = to_float(y), up = to_float(result({1, tile.row}, local + 1, row));
      y = from_float<Bf16>(gate * __fdividef(1.0f, 1.0f + __expf(-gate)) * up);
    }
    job.layers[tile.layer].y[tile.row + row] = y;
  }
#endif
}

// u = scale * z A^T of all layers: a block a rank.
__global__ void __launch_bounds__(kDownThreads) ranks_kernel(const __grid_constant__ Job job) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  __shared__ float partial[2][kWarp];
  let_next_start();
  int rank = static_cast<int>(blockIdx.x), layer = 0;
  while (rank >= job.layers[layer].rank) rank -= job.layers[layer++].rank;
  const float* a = job.layers[layer].a + static_cast<int64_t>(rank) * job.width;
  constexpr int kAhead = 6;  // vectors of a thread that are loaded before the row is there
  const bool is_wide = reinterpret_cast<uintptr_t>(a) % 16 == 0;
  const int vectors = is_wide ? min(job.width / 4, kAhead * kDownThreads) : 0;
  float4 ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
    if (const int at = threadIdx.x + i * kDownThreads; at < vectors) ahead[i] = __ldg(reinterpret_cast<const float4*>(a) + at);
  Lanes<8> first_weights = {};
  if (job.norm && static_cast<int>(threadIdx.x) * 8 < job.width) first_weights = norm_weights(job, threadIdx.x);
  Bf16* x = reinterpret_cast<Bf16*>(memory);
  wait_for_previous();
  read_row<kDownThreads>(job, first_weights, x, partial[0], false);
  const auto product = [&](int at, float factor) { return to_float(x[at]) * to_float(from_float<Bf16>(factor)); };
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
    if (const int at = threadIdx.x + i * kDownThreads; at < vectors)
      sum += product(4 * at, ahead[i].x) + product(4 * at + 1, ahead[i].y) + product(4 * at + 2, ahead[i].z) + product(4 * at + 3, ahead[i].w);
  for (int i = 4 * vectors + threadIdx.x; i < job.width; i += kDownThreads) sum += product(i, __ldg(a + i));
  sum = block_sum<kDownThreads>(sum, partial[1]);
  if (threadIdx.x == 0) job.layers[layer].u[rank] = job.scale * sum;
#endif
}

// ------------------------------------------------------------------------------------------------------------------------------------

struct Ops {
  static constexpr OpRun rms_norm = cuda::rms_norm, linear = cuda::linear, swiglu = cuda::swiglu;
  static constexpr OpWorkspace linear_workspace = cuda::linear_workspace;
};

size_t shared_bytes_of(const Job& job) { return Places(job, kReserved).end; }

// False if there is no kernel for these operands.
bool plan(const OpCall& call, const LinearsOne& f, Job* job) {
  if (device().capability() < 90 || f.x.dtype != DType::BF16 || f.width == 0 || f.width % kNf4Block != 0 || f.width > 1 << 15) return false;
  if (!all_aligned(kVectorBytes, f.x.data, f.residual.data, f.norm.data, f.sum.data)) return false;
  for (int i = 0; i < f.count; ++i) {
    const LinearsOne::Layer& layer = f.layers[i];
    if (layer.bias.present() && layer.bias.dtype == DType::F16) return false;
    if (layer.weight.dtype != DType::NF4 || !all_aligned(kVectorBytes, layer.weight.data) || layer.out > 1 << 24 || layer.rank > 1 << 12) return false;
  }
  *job = {};
  job->x = f.x.as<Bf16>();
  job->residual = f.residual.as<Bf16>();
  job->norm = f.norm.data;
  job->norm_is_bf16 = f.norm.dtype == DType::BF16;
  job->sum = f.sum.as<Bf16>();
  job->eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  job->scale = static_cast<float>(call.attrs->number("scale", 1));
  job->width = static_cast<int>(f.width);
  job->count = f.count;
  job->swiglu = f.swiglu;
  float* u = static_cast<float*>(call.workspace);
  for (int i = 0; i < f.count; ++i) {
    const LinearsOne::Layer& from = f.layers[i];
    job->layers[i] = {from.weight.as<uint8_t>(), from.weight.nf4, from.bias.data, from.bias.dtype == DType::BF16, from.a.as<float>(),
                      from.b.as<float>(), u, static_cast<int>(from.rank), static_cast<int>(from.out), f.y[f.swiglu ? 0 : i].as<Bf16>()};
    u += from.rank;
  }
  // As many units as give every multiprocessor a block, with as many tiles at once as leave room for the next kernel's.
  const int units = units_of(*job), sms = device().multiprocessors;
  job->per_block = std::clamp((units + sms - 1) / sms, 1, f.swiglu ? kMostTiles / 2 : kMostTiles);
  job->slots = tiles_of(*job);
  while (job->slots > kLeastSlots && shared_bytes_of(*job) > kMostShared) --job->slots;
  while (job->slots > 1 && shared_bytes_of(*job) > device().shared_bytes) --job->slots;
  while (job->per_block > 1 && shared_bytes_of(*job) > device().shared_bytes) --job->per_block;
  return shared_bytes_of(*job) <= device().shared_bytes;
}

size_t ranks_bytes(const LinearsOne& f) {
  int64_t ranks = 0;
  for (int i = 0; i < f.count; ++i) ranks += f.layers[i].rank;
  return static_cast<size_t>(ranks) * sizeof(float);
}

}  // namespace

size_t linears_one_workspace(const OpCall& call) {
  const LinearsOne f = linears_of(call);
  return std::max(parts::linears<Ops>(call, f, false), ranks_bytes(f));
}

void linears_one(const OpCall& call) {
  const LinearsOne f = linears_of(call);
  Job job;
  if (!plan(call, f, &job)) {
    parts::linears<Ops>(call, f, true);
    return;
  }
  static const bool allowed = [] {
    VLTUNE_CUDA(cudaFuncSetAttribute(linears_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(device().shared_bytes)));
    return true;
  }();
  static_cast<void>(allowed);
  int ranks = 0;
  for (int i = 0; i < f.count; ++i) ranks += job.layers[i].rank;
  if (ranks > 0) launch_chained(call, ranks_kernel, job, ranks, kDownThreads, static_cast<size_t>(job.width) * sizeof(Bf16));
  const int blocks = std::max((units_of(job) + job.per_block - 1) / job.per_block, 1);  // one at least: the sum
  launch_chained(call, linears_kernel, job, blocks, kThreads, shared_bytes_of(job));
}

}  // namespace vltune::cuda
