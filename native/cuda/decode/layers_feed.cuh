// layers_one's kernel: the warps that feed the ring of codes and scales. They know which weights come, and wait for nothing but room.
#pragma once
#include "../sm90.cuh"
#include "codes.cuh"
#include "layers_job.cuh"

namespace vltune::cuda::one_token {

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)

// A chunk of a tile, as all who handle it count it.
struct Chunk {
  const Linear* linear;
  int row, first_block, blocks, blocks_of_row;
};

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
    if (sm90::arrives_for_warp(lane)) sm90::barrier_arrive(full_barrier(job, of_held.slot));
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

#endif

}  // namespace vltune::cuda::one_token
