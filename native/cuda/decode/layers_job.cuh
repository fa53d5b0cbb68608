// layers_one's kernel (layers.cu): what a launch brings along, and how the work of a step is shared among blocks.
#pragma once
#include "../fault.h"
#include "../vector.cuh"
#include "exchange.cuh"
#include "softmax.cuh"

namespace vltune::cuda::one_token {

using exchange::Word;

constexpr int kConsumers = 256, kConsumerWarps = kConsumers / kWarp;    // threads that multiply: few, so that each has registers enough
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
constexpr int kStepBytes = kSteps * 48;                                 // StepOfBlock of each

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

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)

__device__ inline uint32_t full_barrier(const Job& job, int slot) { return job.at.barriers + static_cast<uint32_t>(slot) * 8; }
__device__ inline uint32_t consumed_barrier(const Job& job, int slot) { return job.at.barriers + static_cast<uint32_t>(kMostSlots + slot) * 8; }

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

#endif

}  // namespace vltune::cuda::one_token
