// layers_one on Hopper and after, for BF16, NF4 weights with double quantisation and heads of 128: all layers of a token in one kernel that
// stays on every multiprocessor. A warp copies the codes of the block's rows of all weights, in their order, through a ring in shared
// memory, and never waits for a result; three warps make the scales beside them; sixteen multiply. So memory is read without a pause,
// while values go from one step to the next through L2, each with the turn that it is of (decode_exchange.cuh): a token has no barrier
// among blocks, and no launch between its layers.
//
// Steps of a layer: q, k and v | attention, whose blocks are as many to a key/value head, and their parts put together | o | gate and up |
// down. Every block keeps the residual stream and norms it for itself. A unit of work is 16 rows of a weight (with a gate 16 rows of each of
// the two); block b does units b, b + gridDim.x, ... of each step. Every block has units of the first step and of the gate: each then
// waits, directly or not, for all others before it writes a place a second time.
#include "../ops/decode.h"

#include <algorithm>
#include <cstddef>

#include "../ops/decode_parts.h"
#include "decode_codes.cuh"
#include "decode_exchange.cuh"
#include "decode_launch.cuh"
#include "decode_softmax.cuh"
#include "sm90.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

using exchange::Word;

constexpr int kConsumers = 512, kConsumerWarps = kConsumers / kWarp;
constexpr int kCopyWarps = 2, kScaleWarps = 2, kThreads = kConsumers + (kCopyWarps + kScaleWarps) * kWarp;
constexpr int kTileRows = 16;
constexpr int kChunkBlocks = 32;                                        // blocks of 64 columns of a tile that the ring takes at once
constexpr int kBlocksOfWarp = kChunkBlocks / kConsumerWarps;
constexpr int kCodeStride = kChunkBlocks * 32 + 32;                     // bytes of a tile's row: 32 apart modulo 128, so that rows meet in no bank
constexpr int kScaleStride = kChunkBlocks + 1;
constexpr int kSlotBytes = kTileRows * kCodeStride, kScaleBytes = kTileRows * kScaleStride * 4;
constexpr int kMostSlots = 16, kLeastSlots = 4;
[[maybe_unused]] constexpr int kLogDim = 7;
constexpr int kMostSplits = 16;                                         // blocks of a key/value head
constexpr int kMostLayersOfLaunch = 40;
constexpr int kMostRanks = 768;                                         // of the adapters of a step together
[[maybe_unused]] constexpr int kWays = kConsumers / kLanes;             // keys at once
enum Step : int { kQkv, kOut, kGated, kDown, kSteps };
constexpr int kStepBytes = kSteps * 48;                                // StepOfBlock of each

struct Linear {
  const uint8_t *codes, *absmax;
  const float* nested;
  const void* bias;
  const float *a, *b;
  float offset;
  uint16_t rank;
  bool bias_is_bf16;
};

struct alignas(16) Layer {
  const void *input_norm, *post_norm, *q_norm, *k_norm;
  Bf16 *k_cache, *v_cache;
  Linear linears[7];  // q, k, v, o, gate, up, down
  bool input_is_bf16, post_is_bf16, q_is_bf16, k_is_bf16;
};

// Addresses in shared memory: the same in every block.
struct Places {
  uint32_t barriers, steps, partial, map, stream, heads, new_value, parts, ranks, layers, row, sums, scratch, states, scales, table, codes, end;
};
constexpr uint32_t kReserved = 1024;  // shared memory starts here at the latest: the first bytes are the system's

struct Job {
  const Bf16 *x, *residual;
  const float *cos, *sin;
  const int32_t* past;
  Bf16 *y, *sum;
  Fault* fault;
  Word *qkv, *parts, *attention, *out, *gated, *down, *ranks;  // places of the exchange
  int64_t capacity;
  int hidden, inner, keys, intermediate;                       // widths: of the stream, of queries, of keys, of the feed-forward block
  int layers, splits_log2, slots, most_ranks;
  float eps, scale, lora_scale;
  Places at;
  int whole[kSteps], rest[kSteps];                             // units of a step that every block has, and blocks that have one more
  Layer of[kMostLayersOfLaunch];
};
static_assert(sizeof(Job) <= 32764, "what a launch can bring along");

__host__ __device__ inline int width_of(const Job& job, int step) {
  return step == kOut ? job.inner : step == kDown ? job.intermediate : job.hidden;
}
__host__ __device__ inline int units_of(const Job& job, int step) {
  return (step == kQkv ? job.inner + 2 * job.keys : step == kGated ? job.intermediate : job.hidden) / kTileRows;
}
__host__ __device__ inline int first_linear(int step) { return step == kQkv ? 0 : step == kOut ? 3 : step == kGated ? 4 : 6; }
__host__ __device__ inline int linears_of(int step) { return step == kQkv ? 3 : step == kGated ? 2 : 1; }

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// A turn of the ring: `phase` is the parity of the barriers' phase.
struct Turn {
  int slot = 0;
  uint32_t phase = 0;
  __device__ void next(int slots) {
    if (++slot < slots) return;
    slot = 0;
    phase ^= 1;
  }
};

// A chunk of a tile, as all who handle it count it.
struct Chunk {
  const Linear* linear;
  int row, first_block, blocks, blocks_of_row;
};

__device__ inline uint32_t full_barrier(const Job& job, int slot) { return job.at.barriers + static_cast<uint32_t>(slot) * 8; }
__device__ inline uint32_t consumed_barrier(const Job& job, int slot) { return job.at.barriers + static_cast<uint32_t>(kMostSlots + slot) * 8; }

__device__ inline int tiles_of_block(const Job& job, int step) {
  const int own = job.whole[step] + (static_cast<int>(blockIdx.x) < job.rest[step] ? 1 : 0);
  return step == kGated ? 2 * own : own;
}
// Of tile i of the block, its linear layer and row; `column`: in the step's result.
struct Tile {
  int linear, row, column;
};
__device__ inline Tile tile_of(const Job& job, int step, int i) {
  const int unit = static_cast<int>(blockIdx.x) + (step == kGated ? i / 2 : i) * static_cast<int>(gridDim.x), column = unit * kTileRows;
  if (step == kGated) return {4 + i % 2, column, column};
  if (step != kQkv) return {first_linear(step), column, column};
  if (column < job.inner) return {0, column, column};
  if (column < job.inner + job.keys) return {1, column - job.inner, column};
  return {2, column - job.inner - job.keys, column};
}

// Calls body(chunk) for every chunk of the block, layer by layer.
template <class Body, class Start> __device__ inline void for_all_chunks(const Job& job, const Layer* layers, Start&& start, Body&& body) {
#pragma unroll 1
  for (int layer = 0; layer < job.layers; ++layer) {
    start(layer);
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const int tiles = tiles_of_block(job, step), blocks = width_of(job, step) / static_cast<int>(kNf4Block);
#pragma unroll 1
      for (int i = 0; i < tiles; ++i) {
        const Tile tile = tile_of(job, step, i);
#pragma unroll 1
        for (int first = 0; first < blocks; first += kChunkBlocks)
          body(Chunk{&layers[layer].linears[tile.linear], tile.row, first, min(blocks - first, kChunkBlocks), blocks});
      }
    }
  }
}

// Keys of the cache that the block looks at.
struct Stretch {
  int kv_head, rank, begin, end;
  bool is_one;  // whether the block has any part in attention
};
__device__ inline Stretch stretch_of(const Job& job, int past) {
  const int block = static_cast<int>(blockIdx.x), splits = 1 << job.splits_log2, kv_head = block >> job.splits_log2, rank = block & (splits - 1);
  const int own = (((past + splits - 1) >> job.splits_log2) + 7) / 8 * 8, begin = min(rank * own, past);
  return {kv_head, rank, begin, min(begin + own, past), kv_head * kDim < job.keys};
}

// ---- The warps that feed the ring ----

// What a lane makes the scales of half a row of a chunk from.
struct Absmax {
  uint32_t words[4];
  float nested[4], offset;
  int blocks;

  __device__ void load(const Chunk& chunk, int lane) {
    const int half = lane % 2 * (kChunkBlocks / 2);
    blocks = max(min(chunk.blocks - half, kChunkBlocks / 2), 0);
    const int64_t from = static_cast<int64_t>(chunk.row + lane / 2) * chunk.blocks_of_row + chunk.first_block + half;
    offset = chunk.linear->offset;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = 4 * i < blocks ? __ldg(reinterpret_cast<const uint32_t*>(chunk.linear->absmax + from) + i) : 0;
      nested[i] = 4 * i < blocks ? __ldg(chunk.linear->nested + (from + 4 * i) / kNf4NestedBlock) : 0;
    }
  }
  // Two roundings, as bitsandbytes has them.
  __device__ void store(const float* map, float* to) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (4 * i >= blocks) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) to[4 * i + j] = __fadd_rn(__fmul_rn(map[words[i] >> (8 * j) & 0xff], nested[i]), offset);
    }
  }
};

// Warps that copy codes share the rows of each chunk.
__device__ inline void copy_codes(const Job& job, const Layer* layers, int past, int which, int lane) {
  constexpr int kRows = kTileRows / kCopyWarps;
  const Stretch stretch = stretch_of(job, past);
  const auto ask_for_keys = [&](int layer) {  // into L2, long before they are looked at
    if (!stretch.is_one) return;
    for (int key = stretch.begin + which * kWarp + lane; key < stretch.end; key += kCopyWarps * kWarp) {
      const int64_t from = static_cast<int64_t>(key) * job.keys + stretch.kv_head * kDim;
      for (const Bf16* row : {layers[layer].k_cache + from, layers[layer].v_cache + from})
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(row), "n"(kDim * 2) : "memory");
    }
  };
  Turn turn;
  for_all_chunks(job, layers, ask_for_keys, [&](const Chunk& chunk) {
    const uint32_t bytes = static_cast<uint32_t>(chunk.blocks) * (kNf4Block / 2);
    sm90::barrier_wait(consumed_barrier(job, turn.slot), turn.phase ^ 1);
    if (lane == 0) sm90::barrier_arrive_expect(full_barrier(job, turn.slot), kRows * bytes);
    __syncwarp();
    if (lane < kRows) {
      const int row = which * kRows + lane;
      const int64_t from = (static_cast<int64_t>(chunk.row + row) * chunk.blocks_of_row + chunk.first_block) * (kNf4Block / 2);
      copy_row(job.at.codes + static_cast<uint32_t>(turn.slot * kSlotBytes + row * kCodeStride), chunk.linear->codes + from, bytes,
               full_barrier(job, turn.slot));
    }
    turn.next(job.slots);
  });
}

// Warps that make scales take chunks in turn: what a warp has asked for, it makes at its next turn.
__device__ inline void make_scales(const Job& job, const Layer* layers, char* origin, int which, int lane) {
  const float* map = reinterpret_cast<const float*>(origin + job.at.map);
  float* scales = reinterpret_cast<float*>(origin + job.at.scales) + lane / 2 * kScaleStride + lane % 2 * (kChunkBlocks / 2);
  Absmax held{};
  Turn turn, of_held;
  bool has = false;
  int number = 0;
  const auto make_held = [&] {
    if (!has) return;
    sm90::barrier_wait(consumed_barrier(job, of_held.slot), of_held.phase ^ 1);
    held.store(map, scales + of_held.slot * (kScaleBytes / 4));
    __syncwarp();
    if (lane == 0) sm90::barrier_arrive(full_barrier(job, of_held.slot));
  };
  for_all_chunks(job, layers, [](int) {}, [&](const Chunk& chunk) {
    if (number == which) {
      Absmax next;
      next.load(chunk, lane);
      make_held();
      held = next;
      of_held = turn;
      has = true;
    }
    number = number + 1 == kScaleWarps ? 0 : number + 1;
    turn.next(job.slots);
  });
  make_held();
}

// ---- The warps that multiply ----

__device__ inline void consumer_sync() { sm90::named_barrier_sync(1, kConsumers); }

// Over all consumers, in a fixed order. `shared` may be used again after another consumer_sync.
__device__ inline float consumer_sum(float v, float* shared) {
  v = warp_sum(v);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = v;
  consumer_sync();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kConsumerWarps; ++i) sum += shared[i];
  return sum;
}

__device__ inline float2 floats_of(uint32_t pair) { return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)); }
__device__ inline float rounded(float v) { return to_float(from_float<Bf16>(v)); }
__device__ inline float4 norm_weights(const void* weight, bool is_bf16, int i) {
  if (!is_bf16) return __ldg(static_cast<const float4*>(weight) + i);
  const uint2 pair = __ldg(static_cast<const uint2*>(weight) + i);
  const float2 a = floats_of(pair.x), b = floats_of(pair.y);
  return make_float4(a.x, a.y, b.x, b.y);
}

// A step as this block does it; the same in every layer.
struct StepOfBlock {
  const Word* from;
  Word* to;
  int width, blocks, tiles, chunks, chunks_of_tile;

  __device__ StepOfBlock(const Job& job, int step)
      : from(step == kQkv ? job.down : step == kOut ? job.attention : step == kGated ? job.out : job.gated),
        to(step == kQkv ? job.qkv : step == kOut ? job.out : step == kGated ? job.gated : job.down),
        width(width_of(job, step)),
        blocks(width / static_cast<int>(kNf4Block)),
        tiles(tiles_of_block(job, step)),
        chunks_of_tile((blocks + kChunkBlocks - 1) / kChunkBlocks) {
    chunks = tiles * chunks_of_tile;
  }
};

static_assert(kSteps * sizeof(StepOfBlock) <= kStepBytes);

struct Consumer {
  const Job& job;
  char* origin;  // address 0 of shared memory
  int lane, warp, layer = 0;
  Turn turn;

  template <class T> __device__ T* place(uint32_t where) const { return reinterpret_cast<T*>(origin + where); }
  __device__ const Layer& own() const { return place<const Layer>(job.at.layers)[layer]; }
  __device__ uint32_t now() const { return static_cast<uint32_t>(layer) + 1; }

  // The row that a step multiplies: four elements a thread at a time, as they come. Looked for before what can be done without it is done.
  using Quads = exchange::Wanted<3, 2>;
  static constexpr int kQuads = 3 * kConsumers;  // of all threads at once

  __device__ bool is_first(int step) const { return step == kQkv && layer == 0; }  // whose row is the op's own operand
  __device__ uint32_t sent(int step) const { return step == kQkv ? now() - 1 : now(); }
  // How many of `count` places from `first` on are the thread's.
  __device__ int own_places(int first, int count) const { return (count - first - static_cast<int>(threadIdx.x) + kConsumers - 1) / kConsumers; }

  __device__ void look_for_row(int step, const StepOfBlock& its, Quads& wanted) const {
    if (!is_first(step)) wanted.look(its.from + 2 * threadIdx.x, 2 * kConsumers, own_places(0, its.width / 4));
  }
  // Of the first and the gate's step it is the norm of the stream, to which what comes is added.
  __device__ void read_row(int step, const StepOfBlock& its, Quads& wanted) {
    const int quads = its.width / 4;
    const bool is_normed = step == kQkv || step == kGated;
    const Layer& own = this->own();
    const void* weight = step == kQkv ? own.input_norm : own.post_norm;
    const bool is_bf16 = step == kQkv ? own.input_is_bf16 : own.post_is_bf16;
    uint2* stream = place<uint2>(job.at.stream);
    uint2* row = place<uint2>(job.at.row);
    float4 first_weights{};
    if (is_normed && static_cast<int>(threadIdx.x) < quads) first_weights = norm_weights(weight, is_bf16, threadIdx.x);
    float squares = 0;
    const auto take = [&](int i, uint2 delta, bool has_residual) {
      if (has_residual) {
        const uint2 before = stream[i];
        const float2 a = floats_of(delta.x), b = floats_of(delta.y), c = floats_of(before.x), d = floats_of(before.y);
        delta = make_uint2(pack_pair<Bf16>(a.x + c.x, a.y + c.y), pack_pair<Bf16>(b.x + d.x, b.y + d.y));
      }
      stream[i] = delta;
      const float2 a = floats_of(delta.x), b = floats_of(delta.y);
      squares = fmaf(a.x, a.x, fmaf(a.y, a.y, fmaf(b.x, b.x, fmaf(b.y, b.y, squares))));
    };
    if (is_first(step)) {
#pragma unroll 1
      for (int i = threadIdx.x; i < quads; i += kConsumers) {
        if (job.residual) stream[i] = __ldcg(reinterpret_cast<const uint2*>(job.residual) + i);
        take(i, __ldcg(reinterpret_cast<const uint2*>(job.x) + i), job.residual != nullptr);
      }
    } else {
#pragma unroll 1
      for (int first = 0; first < quads; first += kQuads) {
        const int count = own_places(first, quads);
        const Word* from = its.from + 2 * (first + static_cast<int>(threadIdx.x));
        if (first > 0) wanted.look(from, 2 * kConsumers, count);
        wanted.receive(from, 2 * kConsumers, count, sent(step));
#pragma unroll
        for (int j = 0; j < kQuads / kConsumers; ++j) {
          if (j >= count) break;
          const int i = first + static_cast<int>(threadIdx.x) + j * kConsumers;
          const uint2 value = make_uint2(wanted.value(j), wanted.value(j, 1));
          if (is_normed) take(i, value, true);
          else row[i] = value;
        }
      }
    }
    if (is_normed) {
      const float scale = 1.0f / sqrtf(consumer_sum(squares, place<float>(job.at.partial)) / static_cast<float>(job.hidden) + job.eps);
#pragma unroll 1
      for (int i = threadIdx.x; i < quads; i += kConsumers) {
        const float2 a = floats_of(stream[i].x), b = floats_of(stream[i].y);
        const float4 w = i == static_cast<int>(threadIdx.x) ? first_weights : norm_weights(weight, is_bf16, i);
        row[i] = make_uint2(pack_pair<Bf16>(w.x * (a.x * scale), w.y * (a.y * scale)), pack_pair<Bf16>(w.z * (b.x * scale), w.w * (b.y * scale)));
      }
    }
    consumer_sync();
  }

  // ---- Adapters: rank r of a step is a block's, counted from the last; u = lora_scale * row A^T is sent like all else ----

  __device__ int ranks_of(int step) const {
    int ranks = 0;
    for (int i = 0; i < linears_of(step); ++i) ranks += own().linears[first_linear(step) + i].rank;
    return ranks;
  }
  __device__ const float* rank_row(int step, int rank) const {
    int linear = first_linear(step);
    while (rank >= own().linears[linear].rank) rank -= own().linears[linear++].rank;
    return own().linears[linear].a + static_cast<int64_t>(rank) * width_of(job, step);
  }
  __device__ Word* ranks_place(int step) const { return job.ranks + step * kMostRanks; }
  __device__ int first_rank() const { return static_cast<int>(gridDim.x - 1 - blockIdx.x); }

  __device__ void ask_for_adapters(int step, int ranks, int tiles) const {
    const int lines = width_of(job, step) / 32;
    for (int rank = first_rank(); rank < ranks; rank += static_cast<int>(gridDim.x))
      for (int i = threadIdx.x; i < lines; i += kConsumers) prefetch_l2(rank_row(step, rank) + 32 * i);
    for (int i = threadIdx.x; i < tiles * kTileRows; i += kConsumers) {
      const Tile tile = tile_of(job, step, i / kTileRows);
      const Linear& linear = own().linears[tile.linear];
      for (int r = 0; r < linear.rank; r += 32) prefetch_l2(linear.b + static_cast<int64_t>(tile.row + i % kTileRows) * linear.rank + r);
    }
  }
  __device__ void send_ranks(int step, int ranks) const {
    const uint2* row = place<uint2>(job.at.row);
    int parity = 0;
    for (int rank = first_rank(); rank < ranks; rank += static_cast<int>(gridDim.x), parity ^= 1) {
      const float4* a = reinterpret_cast<const float4*>(rank_row(step, rank));
      float sum = 0;
      for (int i = threadIdx.x; i < width_of(job, step) / 4; i += kConsumers) {
        const float4 f = __ldg(a + i);
        const float2 low = floats_of(row[i].x), high = floats_of(row[i].y);
        sum = fmaf(low.x, rounded(f.x), fmaf(low.y, rounded(f.y), fmaf(high.x, rounded(f.z), fmaf(high.y, rounded(f.w), sum))));
      }
      sum = consumer_sum(sum, place<float>(job.at.partial) + parity * kConsumerWarps);
      if (threadIdx.x == 0) exchange::send(ranks_place(step) + rank, __float_as_uint(job.lora_scale * sum), now());
    }
  }
  // To shared memory, rounded as the product wants it.
  __device__ void read_ranks(int step, int ranks) const {
    float* to = place<float>(job.at.ranks);
    constexpr int kRanks = (kMostRanks + kConsumers - 1) / kConsumers;
    exchange::Wanted<kRanks, 1> wanted;
    const Word* from = ranks_place(step) + threadIdx.x;
    const int count = own_places(0, ranks);
    wanted.look(from, kConsumers, count);
    wanted.receive(from, kConsumers, count, now());
#pragma unroll
    for (int j = 0; j < kRanks; ++j)
      if (j < count) to[threadIdx.x + j * kConsumers] = rounded(__uint_as_float(wanted.value(j)));
  }

  // ---- A step: the block's tiles times the row ----

  // A warp's blocks of a chunk.
  struct Item {
    Codes codes;
    float low, high;  // scales of the lane's rows
  };
  __device__ void wait_chunk() const { sm90::barrier_wait(full_barrier(job, turn.slot), turn.phase); }
  __device__ void take(int block, Item& to) const {
    const uint32_t lane_table = job.at.table | static_cast<uint32_t>(lane * 4);
    const uint32_t low = job.at.codes + static_cast<uint32_t>(turn.slot * kSlotBytes + lane / 4 * kCodeStride + block * 32 + lane % 4 * 8);
    const float* scales = place<float>(job.at.scales) + turn.slot * (kScaleBytes / 4) + lane / 4 * kScaleStride + block;
    to.codes.look_up(low, low + 8 * kCodeStride, lane_table);
    to.low = scales[0];
    to.high = scales[8 * kScaleStride];
  }
  __device__ void release_chunk() {
    __syncwarp();
    if (lane == 0) sm90::barrier_arrive(consumed_barrier(job, turn.slot));
    turn.next(job.slots);
  }

  __device__ void run_step(int step) {
    const StepOfBlock its = place<const StepOfBlock>(job.at.steps)[step];
    const int chunks = its.chunks, ranks = job.most_ranks > 0 ? ranks_of(step) : 0;
    if (chunks == 0 && first_rank() >= ranks && step != kQkv && step != kGated) return;
    Quads wanted;
    look_for_row(step, its, wanted);
    if (ranks > 0) ask_for_adapters(step, ranks, its.tiles);
    float low_sum = 0, high_sum = 0;
    const uint4* row = place<uint4>(job.at.row) + lane % 4 * 2;
    float* sums = place<float>(job.at.sums) + lane / 4 * (kConsumerWarps + 1) + warp;
    int chunk_of_tile = 0;
    uint4 factors[kBlocksOfWarp][2] = {};  // of the row: where a tile is one chunk, of all tiles
    // The first chunk's codes are looked up while the row is on its way.
#pragma unroll 1
    for (int c = 0; c == 0 || c < chunks; ++c) {
      Item items[kBlocksOfWarp] = {};
      if (c < chunks) {
        wait_chunk();
#pragma unroll
        for (int j = 0; j < kBlocksOfWarp; ++j) take(warp + j * kConsumerWarps, items[j]);
        release_chunk();
      }
      if (c == 0) {
        read_row(step, its, wanted);
        if (ranks > 0) send_ranks(step, ranks);
        if (chunks == 0) return;
      }
      if (c == 0 || its.chunks_of_tile > 1) {
#pragma unroll
        for (int j = 0; j < kBlocksOfWarp; ++j) {
          const int block = chunk_of_tile * kChunkBlocks + warp + j * kConsumerWarps;
          factors[j][0] = row[block * 8];
          factors[j][1] = row[block * 8 + 1];
        }
      }
#pragma unroll
      for (int j = 0; j < kBlocksOfWarp; ++j) {
        if (chunk_of_tile * kChunkBlocks + warp + j * kConsumerWarps >= its.blocks) break;
        float sum[4] = {}, more[4] = {};
        items[j].codes.multiply(factors[j], sum, more);
        low_sum = fmaf(items[j].low, sum[0] + more[0], low_sum);
        high_sum = fmaf(items[j].high, sum[2] + more[2], high_sum);
      }
      if (++chunk_of_tile < its.chunks_of_tile) continue;
      if (lane % 4 == 0) {
        sums[0] = low_sum;
        sums[8 * (kConsumerWarps + 1)] = high_sum;
      }
      sums += kTileRows * (kConsumerWarps + 1);
      low_sum = high_sum = 0;
      chunk_of_tile = 0;
    }
    if (ranks > 0) read_ranks(step, ranks);
    consumer_sync();
    finish(step, its);
  }

  // A row's sum over the warps, by kSumLanes lanes, with bias and adapter.
  static constexpr int kSumLanes = 4;
  __device__ float result(int step, const Tile& tile, int i, int row) const {
    const float* sums = place<float>(job.at.sums) + (i * kTileRows + row) * (kConsumerWarps + 1);
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kConsumerWarps / kSumLanes; ++w) sum += sums[w * kSumLanes + lane % kSumLanes];
    sum = warp_sum<kSumLanes>(sum);
    const Linear& linear = own().linears[tile.linear];
    if (linear.bias)
      sum += linear.bias_is_bf16 ? to_float(static_cast<const Bf16*>(linear.bias)[tile.row + row]) : static_cast<const float*>(linear.bias)[tile.row + row];
    if (linear.rank > 0) {
      const float* u = place<float>(job.at.ranks);
      for (int before = first_linear(step); before < tile.linear; ++before) u += own().linears[before].rank;
      const float* b = linear.b + static_cast<int64_t>(tile.row + row) * linear.rank;
      float more = 0;
      for (int r = lane % kSumLanes; r < linear.rank; r += kSumLanes) more = fmaf(u[r], rounded(__ldg(b + r)), more);
      sum += warp_sum<kSumLanes>(more);
    }
    return rounded(sum);
  }
  __device__ void finish(int step, const StepOfBlock& its) const {
    const int of_unit = step == kGated ? 2 : 1, lanes = its.tiles / of_unit * kTileRows * kSumLanes;
    const bool is_last = step == kDown && layer + 1 == job.layers;
    for (int i = threadIdx.x; i < lanes; i += kConsumers) {  // whole warps: a tile has two
      const int row = i / kSumLanes % kTileRows, index = i / (kSumLanes * kTileRows) * of_unit;
      const Tile tile = tile_of(job, step, index);
      float y = 0, gate = 0;
#pragma unroll 1
      for (int part = 0; part < of_unit; ++part) {
        gate = y;
        y = result(step, {tile.linear + part, tile.row, tile.column}, index + part, row);
      }
      if (step == kGated) y = gate * __fdividef(1.0f, 1.0f + __expf(-gate)) * y;
      const float other = __shfl_xor_sync(kAllLanes, y, kSumLanes);
      if (lane % (2 * kSumLanes) != 0) continue;
      const uint32_t pair = pack_pair<Bf16>(y, other);
      const int word = (tile.column + row) / 2;
      if (is_last) reinterpret_cast<uint32_t*>(job.y)[word] = pair;
      else exchange::send(its.to + word, pair, now());
    }
  }

  // ---- Attention: a head's blocks look at a stretch of the cache each, and put their parts together, each for some of the elements ----

  template <int kGroup> __device__ void attend(const Stretch& stretch, int past) {
    if (!stretch.is_one) return;
    const Layer& own = this->own();
    const int part = lane % kLanes, way = threadIdx.x / kLanes, kv_head = stretch.kv_head, rank = stretch.rank, splits = 1 << job.splits_log2;
    const int begin = stretch.begin, end = stretch.end;
    constexpr int kBatch = kGroup > 2 ? 1 : 2;  // keys of a lane on the way at once
    float* heads = place<float>(job.at.heads);
    Bf16 *k_cache = own.k_cache + kv_head * kDim, *v_cache = own.v_cache + kv_head * kDim;
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
        keys[b].words[0] = __ldcg(reinterpret_cast<const uint4*>(k_cache + static_cast<int64_t>(key) * job.keys) + part);
        values[b].words[0] = __ldcg(reinterpret_cast<const uint4*>(v_cache + static_cast<int64_t>(key) * job.keys) + part);
      }
    };
    fetch(begin + way);
    const bool is_newest = rank == splits - 1;  // whose stretch the new key ends
    if (warp < kGroup || (warp == kGroup && is_newest)) {
      const bool is_query = warp < kGroup;
      const void* norm = is_query ? own.q_norm : own.k_norm;
      const Quad weight = norm ? quad_of(norm, is_query ? own.q_is_bf16 : own.k_is_bf16, lane) : Quad{};
      const float2 cos = __ldg(reinterpret_cast<const float2*>(job.cos) + lane), sin = __ldg(reinterpret_cast<const float2*>(job.sin) + lane);
      const Word* from = job.qkv + (is_query ? (kv_head * kGroup + warp) * kHalf : (job.inner + kv_head * kDim) / 2);
      exchange::Wanted<2, 1> wanted;
      wanted.look(from + lane, kWarp, 2);
      wanted.receive(from + lane, kWarp, 2, now());
      turn_head(wanted.value(0), wanted.value(1), norm != nullptr, weight, job.eps, cos, sin, lane, heads + warp * kDim);
    } else if (warp == kGroup + 1 && is_newest) {
      const Word* from = job.qkv + (job.inner + job.keys + kv_head * kDim) / 2;
      uint32_t* to = place<uint32_t>(job.at.new_value);
      exchange::Wanted<2, 1> wanted;
      wanted.look(from + lane, kWarp, 2);
      wanted.receive(from + lane, kWarp, 2, now());
      to[lane] = wanted.value(0);
      to[lane + kWarp] = wanted.value(1);
    }
    consumer_sync();

    float q[kGroup][8];
#pragma unroll
    for (int r = 0; r < kGroup; ++r)
#pragma unroll
      for (int e = 0; e < 8; ++e) q[r][e] = heads[r * kDim + part * 8 + e] * (job.scale * kLog2E);
    Running<kGroup> running;
    running.start();
    for (int first = begin;;) {
      running.take(q, keys, values, seen);
      first += kWays * kBatch;
      if (first >= end) break;
      fetch(first + way);
    }
    if (is_newest && warp == 0) {  // the new key, by the first half of a warp
      Lanes<8> key;
#pragma unroll
      for (int e = 0; e < 8; ++e) key[e] = heads[kGroup * kDim + part * 8 + e];
      const Packed<Bf16, 8> new_key[1] = {pack<Bf16>(key)}, new_value[1] = {load<8>(place<Bf16>(job.at.new_value) + part * 8)};
      running.take(q, new_key, new_value, way == 0);
      if (way == 0) {
        store(k_cache + static_cast<int64_t>(past) * job.keys + part * 8, new_key[0]);
        store(v_cache + static_cast<int64_t>(past) * job.keys + part * 8, new_value[0]);
      }
    }

    // The two keys of a warp, the warps, the blocks.
    float* sums = place<float>(job.at.scratch);       // [warp][query][element]
    float2* states = place<float2>(job.at.states);    // [warp][query]
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
      const float most = fmaxf(running.most[r], __shfl_xor_sync(kAllLanes, running.most[r], kLanes));
      const float shrink = most == -INFINITY ? 0.0f : exp2f(running.most[r] - most);
      running.sum[r] *= shrink;
      running.sum[r] += __shfl_xor_sync(kAllLanes, running.sum[r], kLanes);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        running.o[r][e] *= shrink;
        running.o[r][e] += __shfl_xor_sync(kAllLanes, running.o[r][e], kLanes);
      }
      if (lane < kLanes) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[(warp * kGroup + r) * kDim + part * 8 + e] = running.o[r][e];
        if (lane == 0) states[warp * kGroup + r] = make_float2(most, running.sum[r]);
      }
    }
    consumer_sync();
    // A block's part for another: of each query its share of the elements, the maximum and the sum.
    const int log_share = kLogDim - job.splits_log2, share = 1 << log_share, of_query = share + 2, of_part = kGroup * of_query;
    Word* parts = job.parts + static_cast<int64_t>(kv_head) * splits * splits * of_part;
    for (int i = threadIdx.x; i < kGroup * kDim; i += kConsumers) {
      const int r = i / kDim, d = i % kDim;
      float most = states[r].x, total = 0, value = 0;
#pragma unroll
      for (int w = 1; w < kConsumerWarps; ++w) most = fmaxf(most, states[w * kGroup + r].x);
      const float base = most == -INFINITY ? 0.0f : most;
#pragma unroll 4
      for (int w = 0; w < kConsumerWarps; ++w) {
        const float shrink = exp2f(states[w * kGroup + r].x - base);
        total = fmaf(shrink, states[w * kGroup + r].y, total);
        value = fmaf(shrink, sums[(w * kGroup + r) * kDim + d], value);
      }
      const auto place_of = [&](int to) { return parts + (to * splits + rank) * of_part + r * of_query; };
      exchange::send(place_of(d >> log_share) + (d & (share - 1)), __float_as_uint(value), now());
      if (d < splits) {
        exchange::send(place_of(d) + share, __float_as_uint(most), now());
        exchange::send(place_of(d) + share + 1, __float_as_uint(total), now());
      }
    }
    float* received = place<float>(job.at.parts);
    constexpr int kParts = (kGroup * (kDim + 2 * kMostSplits) + kConsumers - 1) / kConsumers;
    exchange::Wanted<kParts, 1> wanted;
    const Word* from = parts + rank * splits * of_part + threadIdx.x;
    const int count = own_places(0, splits * of_part);
    wanted.look(from, kConsumers, count);
    wanted.receive(from, kConsumers, count, now());
#pragma unroll
    for (int j = 0; j < kParts; ++j)
      if (j < count) received[threadIdx.x + j * kConsumers] = __uint_as_float(wanted.value(j));
    consumer_sync();
    // An element by as many neighbouring lanes as there are splits.
    for (int i = threadIdx.x; i < kGroup * kDim; i += kConsumers) {
      const int element = i >> job.splits_log2, c = i & (splits - 1), r = element >> log_share, d = element & (share - 1);
      const float* query = received + c * of_part + r * of_query;
      float most = query[share];
      for (int apart = splits / 2; apart > 0; apart /= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, apart));
      const float shrink = exp2f(query[share] - most);
      float total = shrink * query[share + 1], value = shrink * query[d];
      for (int apart = splits / 2; apart > 0; apart /= 2) {
        total += __shfl_xor_sync(kAllLanes, total, apart);
        value += __shfl_xor_sync(kAllLanes, value, apart);
      }
      const float o = value / total, other = __shfl_xor_sync(kAllLanes, o, splits);
      if (c == 0 && d % 2 == 0)
        exchange::send(job.attention + ((kv_head * kGroup + r) * kDim + rank * share + d) / 2, pack_pair<Bf16>(o, other), now());
    }
  }
};

#endif

template <int kGroup> __global__ void __launch_bounds__(kThreads, 1) layers_kernel(const __grid_constant__ Job job) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  char* origin = memory - sm90::shared_address(memory);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int past = *job.past;
  if (past < 0 || past >= job.capacity) {
    if (blockIdx.x == 0 && threadIdx.x == 0) report_fault(job.fault, FaultKind::CacheFull, 0, past, job.capacity - 1);
    return;
  }
  const Layer* layers = reinterpret_cast<const Layer*>(origin + job.at.layers);
  for (int i = threadIdx.x; i < job.layers * static_cast<int>(sizeof(Layer) / sizeof(uint4)); i += kThreads)
    reinterpret_cast<uint4*>(origin + job.at.layers)[i] = reinterpret_cast<const uint4*>(job.of)[i];
  for (int i = threadIdx.x; i < kTableParts; i += kThreads) write_table(origin + job.at.table, i);
  if (threadIdx.x < 256) reinterpret_cast<float*>(origin + job.at.map)[threadIdx.x] = kDynamicMapSigned[threadIdx.x];
  if (threadIdx.x < kSteps) reinterpret_cast<StepOfBlock*>(origin + job.at.steps)[threadIdx.x] = StepOfBlock(job, static_cast<int>(threadIdx.x));
  if (threadIdx.x == 0) {
    for (int i = 0; i < job.slots; ++i) {
      sm90::barrier_init(full_barrier(job, i), kCopyWarps + 1);  // the codes, the scales
      sm90::barrier_init(consumed_barrier(job, i), kConsumerWarps);
    }
    sm90::barrier_init_fence();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (warp < kConsumerWarps) {
#ifdef VLTUNE_SM90A
    sm90::registers_grow<104>();
#endif
    Consumer consumer{job, origin, lane, warp};
    const Stretch stretch = stretch_of(job, past);
    for (; consumer.layer < job.layers; ++consumer.layer) {
      for (int step = 0; step < kSteps; ++step) {
        if (step == kOut) consumer.attend<kGroup>(stretch, past);
        consumer.run_step(step);
      }
    }
    if (blockIdx.x == 0)
      for (int i = threadIdx.x; i < job.hidden / 4; i += kConsumers)
        reinterpret_cast<uint2*>(job.sum)[i] = reinterpret_cast<const uint2*>(origin + job.at.stream)[i];
  } else {
#ifdef VLTUNE_SM90A
    sm90::registers_shrink<64>();
#endif
    const int feeder = warp - kConsumerWarps;
    if (feeder < kCopyWarps) copy_codes(job, layers, past, feeder, lane);
    else make_scales(job, layers, origin, feeder - kCopyWarps, lane);
  }
#endif
}

// ------------------------------------------------------------------------------------------------------------------------------------

struct Ops {
  static constexpr OpRun linears_one = cuda::linears_one, attention_one = cuda::attention_one;
  static constexpr OpWorkspace linears_one_workspace = cuda::linears_one_workspace, attention_one_workspace = cuda::attention_one_workspace;
};

// A launch, and where in the exchange its words are. `exchange_bytes` depends on shapes alone.
struct Launch {
  Job job;
  int group = 0, blocks = 0;
  size_t exchange_bytes = 0;
};

bool is_row(const Tensor& t, int64_t width) { return t.rank == 2 && t.dtype == DType::BF16 && t.shape[0] == 1 && t.shape[1] == width; }
bool is_vector(const Tensor& t, int64_t length) { return t.rank == 1 && t.shape[0] == length && (t.dtype == DType::BF16 || t.dtype == DType::F32); }

bool take_linear(const OpCall& call, int64_t layer, int which, int64_t out, int64_t width, Linear* to) {
  const Tensor &weight = of_layer(call, layer, which), &bias = of_layer(call, layer, which + 1);
  const Tensor &a = of_layer(call, layer, which + 2), &b = of_layer(call, layer, which + 3);
  if (weight.rank != 2 || weight.dtype != DType::NF4 || weight.shape[0] != out || weight.shape[1] != width || !weight.nf4.absmax_u8) return false;
  if (bias.present() && !is_vector(bias, out)) return false;
  if (a.present() != b.present() || (a.present() && (a.rank != 2 || b.rank != 2 || a.dtype != DType::F32 || b.dtype != DType::F32))) return false;
  const int64_t rank = a.present() ? a.shape[0] : 0;
  if (a.present() && (a.shape[1] != width || b.shape[0] != out || b.shape[1] != rank || rank < 1 || rank > kMostRanks)) return false;
  if (!all_aligned(kVectorBytes, weight.data, a.data) || !all_aligned(4, weight.nf4.absmax_u8)) return false;
  *to = {weight.as<uint8_t>(), weight.nf4.absmax_u8, weight.nf4.nested_absmax, bias.data, a.as<float>(), b.as<float>(), weight.nf4.offset,
         static_cast<uint16_t>(rank), bias.dtype == DType::BF16};
  return true;
}

// False if there is no kernel for these operands, or if something is wrong with them, which the parts will say. Looks at shapes, and with
// `first` at data: of the layers from there on.
bool plan_shapes(const OpCall& call, int64_t layers, Launch* to) {
  using L = LayersOne;
  const Tensor &x = input(call, L::kX), &q = of_layer(call, 0, L::kQ), &k = of_layer(call, 0, L::kK), &gate = of_layer(call, 0, L::kGate);
  const Attrs& attrs = *call.attrs;
  const double heads = attrs.number("heads", 0), kv_heads = attrs.number("kv_heads", 0), scale = attrs.number("scale", 0);
  if (x.rank != 2 || q.rank != 2 || k.rank != 2 || gate.rank != 2 || layers < 1) return false;
  if (attrs.number("head_dim", 0) != kDim || !(scale > 0 && scale < 3e38)) return false;
  if (!(kv_heads >= 1 && kv_heads <= 128) || !(heads == kv_heads || heads == 2 * kv_heads || heads == 4 * kv_heads)) return false;
  const int64_t widths[] = {x.shape[1], q.shape[0], k.shape[0], gate.shape[0]};
  for (const int64_t width : widths)
    if (width < 256 || width % 256 != 0 || width > 1 << 15) return false;
  if (static_cast<double>(widths[1]) != heads * kDim || static_cast<double>(widths[2]) != kv_heads * kDim) return false;
  Job& job = to->job;
  job.hidden = static_cast<int>(widths[0]);
  job.inner = static_cast<int>(widths[1]);
  job.keys = static_cast<int>(widths[2]);
  job.intermediate = static_cast<int>(widths[3]);
  job.scale = static_cast<float>(scale);
  to->group = static_cast<int>(heads / kv_heads);
  // Words of the exchange, each place at a multiple of 16 bytes. Of any number of splits, the most has the most parts.
  const int64_t counts[] = {(job.inner + 2 * job.keys) / 2, job.inner / 2, job.hidden / 2, job.intermediate / 2, job.hidden / 2, kSteps * kMostRanks,
                            static_cast<int64_t>(kv_heads) * kMostSplits * to->group * (kDim + 2 * kMostSplits)};
  Word* at = static_cast<Word*>(call.workspace);
  Word** const places[] = {&job.qkv, &job.attention, &job.out, &job.gated, &job.down, &job.ranks, &job.parts};
  size_t words = 0;
  for (size_t i = 0; i < std::size(counts); ++i) {
    *places[i] = at ? at + words : nullptr;
    words += static_cast<size_t>(counts[i] + 1) / 2 * 2;
  }
  to->exchange_bytes = words * sizeof(Word);
  return true;
}

bool plan_layers(const OpCall& call, int64_t first, int64_t layers, Launch* to) {
  using L = LayersOne;
  Job& job = to->job;
  const Attrs& attrs = *call.attrs;
  const Tensor &x = input(call, L::kX), &residual = input(call, L::kResidual), &cos = input(call, L::kCos), &sin = input(call, L::kSin);
  const Tensor &past = input(call, L::kPast), &y = output(call, L::kY), &sum = output(call, L::kSum);
  const auto is_table = [](const Tensor& t) { return t.rank == 2 && t.dtype == DType::F32 && t.shape[0] == 1 && t.shape[1] == kHalf; };
  if (!is_row(x, job.hidden) || !is_row(y, job.hidden) || !is_row(sum, job.hidden) || (residual.present() && !is_row(residual, job.hidden))) return false;
  if (!is_table(cos) || !is_table(sin) || past.rank != 1 || past.dtype != DType::I32 || past.shape[0] != 1) return false;
  if (!all_aligned(kVectorBytes, x.data, residual.data, cos.data, sin.data, y.data, sum.data)) return false;
  job.x = (first > 0 ? y : x).as<Bf16>();
  job.residual = (first > 0 ? sum : residual).as<Bf16>();
  job.cos = cos.as<float>();
  job.sin = sin.as<float>();
  job.past = past.as<int32_t>();
  job.y = y.as<Bf16>();
  job.sum = sum.as<Bf16>();
  job.fault = call.fault;
  job.eps = static_cast<float>(attrs.number("eps", 1e-6));
  job.lora_scale = static_cast<float>(attrs.number("lora_scale", 1));
  job.layers = static_cast<int>(layers);
  job.capacity = output(call, L::kCaches).present() ? output(call, L::kCaches).shape[0] : 0;
  if (job.capacity > INT32_MAX / 8) return false;
  job.most_ranks = 0;
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t layer = first + i;
    const auto at = [&](int which) -> const Tensor& { return of_layer(call, layer, which); };
    const Tensor &k_cache = output(call, static_cast<int>(L::kCaches + 2 * layer)), &v_cache = output(call, static_cast<int>(L::kCaches + 2 * layer + 1));
    for (const Tensor* cache : {&k_cache, &v_cache})
      if (cache->rank != 2 || cache->dtype != DType::BF16 || cache->shape[0] != job.capacity || cache->shape[1] != job.keys) return false;
    const Tensor *norms[] = {&at(L::kInputNorm), &at(L::kPostNorm)}, *head_norms[] = {&at(L::kQNorm), &at(L::kKNorm)};
    for (const Tensor* norm : norms)
      if (!is_vector(*norm, job.hidden) || !all_aligned(kVectorBytes, norm->data)) return false;
    for (const Tensor* norm : head_norms)
      if (norm->present() && !(is_vector(*norm, kDim) && all_aligned(kVectorBytes, norm->data))) return false;
    if (!all_aligned(kVectorBytes, k_cache.data, v_cache.data)) return false;
    Layer& own = job.of[i];
    own = {norms[0]->data, norms[1]->data, head_norms[0]->data, head_norms[1]->data, k_cache.as<Bf16>(), v_cache.as<Bf16>(), {},
           norms[0]->dtype == DType::BF16, norms[1]->dtype == DType::BF16, head_norms[0]->dtype == DType::BF16, head_norms[1]->dtype == DType::BF16};
    const struct { int which; int64_t out, width; } linears[] = {
        {L::kQ, job.inner, job.hidden}, {L::kK, job.keys, job.hidden}, {L::kV, job.keys, job.hidden}, {L::kO, job.hidden, job.inner},
        {L::kGate, job.intermediate, job.hidden}, {L::kUp, job.intermediate, job.hidden}, {L::kDown, job.hidden, job.intermediate}};
    for (int j = 0; j < 7; ++j)
      if (!take_linear(call, layer, linears[j].which, linears[j].out, linears[j].width, &own.linears[j])) return false;
    for (int step = 0; step < kSteps; ++step) {
      int ranks = 0;
      for (int j = 0; j < linears_of(step); ++j) ranks += own.linears[first_linear(step) + j].rank;
      if (ranks > kMostRanks) return false;
      job.most_ranks = std::max(job.most_ranks, ranks);
    }
  }
  return true;
}

auto kernel_for(int group) { return group == 1 ? layers_kernel<1> : group == 2 ? layers_kernel<2> : layers_kernel<4>; }

// Where things lie in shared memory. The attention's scratch memory is the place of the row and its sums, which are no more then.
Places places_of(const Job& job, int group, int most_tiles) {
  uint32_t end = kReserved;
  const auto take = [&](int64_t bytes, uint32_t alignment = 16) {
    const uint32_t at = (end + alignment - 1) / alignment * alignment;
    end = at + static_cast<uint32_t>(bytes);
    return at;
  };
  Places at{};
  at.barriers = take(2 * kMostSlots * 8);
  at.steps = take(kStepBytes);
  at.partial = take(2 * kConsumerWarps * 4);
  at.map = take(256 * 4);
  at.stream = take(job.hidden * 2);
  at.heads = take((group + 1) * kDim * 4);
  at.new_value = take(kDim * 2);
  at.parts = take(group * (kDim + 2 * kMostSplits) * 4);
  at.ranks = take(job.most_ranks * 4);
  at.layers = take(job.layers * static_cast<int64_t>(sizeof(Layer)));
  at.scratch = at.row = take(std::max({job.hidden, job.inner, job.intermediate}) * 2);
  at.sums = take(most_tiles * kTileRows * (kConsumerWarps + 1) * 4);
  at.states = at.scratch + static_cast<uint32_t>(kConsumerWarps * group * kDim * 4);
  end = std::max(end, at.states + static_cast<uint32_t>(kConsumerWarps * group * 8));
  at.scales = take(job.slots * kScaleBytes);
  at.table = take(kTableBytes, kTableBytes);
  at.codes = take(job.slots * kSlotBytes, 128);
  at.end = end;
  return at;
}

// Blocks, one to a multiprocessor at most, and the slots of their ring.
bool plan_blocks(Launch* to) {
  Job& job = to->job;
  const int kv_heads = job.keys / kDim;
  to->blocks = std::min({device().multiprocessors, units_of(job, kQkv), units_of(job, kGated)});
  if (kv_heads > to->blocks) return false;
  for (job.splits_log2 = 0; 2 << job.splits_log2 <= kMostSplits && kv_heads * (2 << job.splits_log2) <= to->blocks;) ++job.splits_log2;
  int most_tiles = 0;
  for (int step = 0; step < kSteps; ++step) {
    job.whole[step] = units_of(job, step) / to->blocks;
    job.rest[step] = units_of(job, step) % to->blocks;
    most_tiles = std::max(most_tiles, (job.whole[step] + (job.rest[step] > 0)) * (step == kGated ? 2 : 1));
  }
  for (job.slots = kMostSlots; job.slots >= kLeastSlots; --job.slots) {
    job.at = places_of(job, to->group, most_tiles);
    if (job.at.end <= device().shared_bytes) return true;
  }
  return false;
}

// A launch brings more than 4 KiB along from CUDA 12.1 on.
bool takes_long_launches() {
  static const bool takes = [] {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess && version >= 12010;
  }();
  return takes;
}

void launch(const OpCall& call, const Launch& from) {
  const auto kernel = kernel_for(from.group);
  static const bool allowed = [] {
    for (const int group : {1, 2, 4})
      VLTUNE_CUDA(cudaFuncSetAttribute(kernel_for(group), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(device().shared_bytes)));
    return true;
  }();
  static_cast<void>(allowed);
  VLTUNE_CUDA(cudaMemsetAsync(call.workspace, 0, from.exchange_bytes, stream_of(call)));
  cudaLaunchAttribute together{};  // all blocks at the same time, or an error
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(from.blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = from.job.at.end;
  config.stream = stream_of(call);
  config.attrs = &together;
  config.numAttrs = 1;
  VLTUNE_CUDA(cudaLaunchKernelEx(&config, kernel, from.job));
  check_launch(call);
}

}  // namespace

size_t layers_one_workspace(const OpCall& call) {
  Launch shapes{};
  const size_t exchange_bytes = plan_shapes(call, layers_of(call), &shapes) ? shapes.exchange_bytes : 0;
  return std::max(parts::layers<Ops>(call, false), exchange_bytes);
}

void layers_one(const OpCall& call) {
  const int64_t layers = layers_of(call);
  std::vector<Launch> launches;
  bool takes = device().capability() >= 90 && takes_long_launches();
  for (int64_t first = 0; takes && first < layers; first += kMostLayersOfLaunch) {
    launches.emplace_back();
    takes = plan_shapes(call, layers, &launches.back()) &&
            plan_layers(call, first, std::min<int64_t>(layers - first, kMostLayersOfLaunch), &launches.back()) && plan_blocks(&launches.back());
  }
  if (!takes) {
    parts::layers<Ops>(call, true);
    return;
  }
  for (const Launch& each : launches) launch(call, each);
}

}  // namespace vltune::cuda
