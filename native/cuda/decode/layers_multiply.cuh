// layers_one's kernel: the warps that multiply. A step's row comes from other blocks, its codes and scales from the ring; adapters ride along.
#pragma once
#include "../sm90.cuh"
#include "codes.cuh"
#include "layers_job.cuh"

namespace vltune::cuda::one_token {

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)

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
  __device__ static int own_places(int first, int count) { return (count - first - static_cast<int>(threadIdx.x) + kConsumers - 1) / kConsumers; }

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
    if (sm90::arrives_for_warp(lane)) sm90::barrier_arrive(consumed_barrier(job, turn.slot));
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
        if (chunks == 0) {
          consumer_sync();  // the next step's norm writes where a warp may still read the last sum of send_ranks
          return;
        }
      }
      if (c == 0 || its.chunks_of_tile > 1) {
#pragma unroll
        for (int j = 0; j < kBlocksOfWarp; ++j) {
          const int block = chunk_of_tile * kChunkBlocks + warp + j * kConsumerWarps;
          if (block >= its.blocks) break;  // beyond the row are the sums, which other warps write
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
};

#endif

}  // namespace vltune::cuda::one_token
