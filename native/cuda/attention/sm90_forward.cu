// The forward pass for sm_90a. A block stays: its first warp takes tiles of 128 queries of a head from a counter, the costliest first, and
// loads them and their keys and values by TMA; two warpgroups of 64 queries each compute. A warpgroup starts S = Q K^T of the next keys
// before it adds P V of these, so that the softmax runs beside a product; and the two take turns at starting products, so that one's
// softmax runs beside the other's products as well.
#include <cuda_bf16.h>

#include <algorithm>

#include "sm90.h"
#include "sm90_tiles.cuh"

#pragma nv_diag_suppress 177  // targets other than sm_90a use none of the device functions

namespace vltune::cuda {
namespace {

using namespace attn90;
using namespace sm90;

constexpr int kStages = 2;                      // tiles of keys, and of values, that are there or on their way
constexpr int kComputeWarps = 8, kThreads = 32 * (kComputeWarps + 4);
constexpr int kLoadRegisters = 40, kComputeRegisters = 232;
constexpr int kTurn = 1, kStore = 3;            // named barriers, one for each computing warpgroup

struct Work {
  int begin, length, first, head;  // the sequence's first row and rows; the tile's first query in it; length 0: no more work
};

template <int D>
struct Shared {
  static constexpr int kTileBytes = kTile * D * 2;
  alignas(1024) char q[kTileBytes];
  alignas(1024) char o[kTileBytes];
  alignas(1024) char k[kStages][kTileBytes];
  alignas(1024) char v[kStages][kTileBytes];
  uint64_t q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages], work_full[2], work_empty[2];
  Work work[2];
};

struct Pass {
  Shape shape;
  const int32_t* bounds;
  float* lse;
  __nv_bfloat16* o;
  int* next;  // work that no block has taken yet, less the number of blocks
  Fault* fault;
};

struct Cursor {  // in a ring
  int stage = 0;
  uint32_t parity = 0;
  __device__ void step() {
    if (++stage == 2) {
      stage = 0;
      parity ^= 1;
    }
  }
};
static_assert(kStages == 2);

template <bool kCausal>
__device__ int key_tiles(const Work& work) {
  const int all = (work.length + kTile - 1) / kTile;
  return kCausal ? min(all, work.first / kTile + 1) : all;
}

template <int D, bool kCausal>
__device__ void load(Shared<D>& s, const Pass& pass, const CUtensorMap& q_map, const CUtensorMap& k_map, const CUtensorMap& v_map) {
  const int lane = threadIdx.x % 32;
  const uint32_t q = shared_address(s.q), k = shared_address(s.k), v = shared_address(s.v);
  const uint32_t q_full = shared_address(&s.q_full), q_empty = shared_address(&s.q_empty);
  const uint32_t k_full = shared_address(s.k_full), k_empty = shared_address(s.k_empty);
  const uint32_t v_full = shared_address(s.v_full), v_empty = shared_address(s.v_empty);
  const int heads = pass.shape.heads, group = heads / pass.shape.kv_heads;
  constexpr uint32_t kBytes = Shared<D>::kTileBytes;

  const bool hold = bounds_hold(pass.bounds, pass.shape, pass.fault, blockIdx.x == 0);
  int index = static_cast<int>(blockIdx.x);
  uint32_t q_parity = 1;
  Cursor at, slot;
  for (bool first = true;; first = false) {
    if (!first) {
      if (lane == 0) index = static_cast<int>(gridDim.x) + atomicAdd(pass.next, 1);
      index = __shfl_sync(kWarp, index, 0);
    }
    const Place place = hold ? find_place<kCausal>(pass.bounds, pass.shape.sequences, pass.shape.tokens, index / heads) : Place{0, 0, 0};
    const Work work{place.begin, place.length, place.tile * kTile, index % heads};
    if (lane == 0) {
      barrier_wait(shared_address(&s.work_empty[slot.stage]), slot.parity ^ 1);
      s.work[slot.stage] = work;
      barrier_arrive(shared_address(&s.work_full[slot.stage]));
    }
    slot.step();
    if (work.length == 0) return;
    if (lane == 0) {
      const int z = work.head * (D / 64), kv_z = work.head / group * (D / 64);
      barrier_wait(q_empty, q_parity);
      barrier_arrive_expect(q_full, kBytes);
      tma_load_3d(q, &q_map, q_full, 0, work.begin + work.first, z);
      for (int j = key_tiles<kCausal>(work) - 1; j >= 0; --j) {
        barrier_wait(k_empty + 8 * at.stage, at.parity ^ 1);
        barrier_arrive_expect(k_full + 8 * at.stage, kBytes);
        tma_load_3d(k + kBytes * at.stage, &k_map, k_full + 8 * at.stage, 0, work.begin + j * kTile, kv_z);
        barrier_wait(v_empty + 8 * at.stage, at.parity ^ 1);
        barrier_arrive_expect(v_full + 8 * at.stage, kBytes);
        tma_load_3d(v + kBytes * at.stage, &v_map, v_full + 8 * at.stage, 0, work.begin + j * kTile, kv_z);
        at.step();
      }
    }
    q_parity ^= 1;
    __syncwarp();
  }
}

// scores: of the thread's two rows; columns from `seen` on, counted from the thread's first, are hidden.
__device__ inline void hide(float (&scores)[kTile / 2], int seen, int seen_below) {
#pragma unroll
  for (int i = 0; i < kTile / 8; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (8 * i + e % 2 >= (e < 2 ? seen : seen_below)) scores[4 * i + e] = -INFINITY;
    }
  }
}

struct Rows {  // running softmax of the thread's two rows: the greatest score, and the thread's part of the sum
  float most[2], sum[2];
};

// Scores become weights; returns what former sums and outputs are to be multiplied by.
template <bool kFirst>
__device__ inline void soften(float (&scores)[kTile / 2], Rows& rows, float (&shrink)[2], float factor) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = kFirst ? scores[2 * r] : rows.most[r];
#pragma unroll
    for (int i = 0; i < kTile / 8; ++i) most = fmaxf(most, fmaxf(scores[4 * i + 2 * r], scores[4 * i + 2 * r + 1]));
    most = fmaxf(most, __shfl_xor_sync(kWarp, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kWarp, most, 2));
    if (!kFirst) shrink[r] = power_of_two((rows.most[r] - most) * factor);
    rows.most[r] = most;
    const float shift = most * factor;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kTile / 8; ++i) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        scores[4 * i + e] = power_of_two(fmaf(scores[4 * i + e], factor, -shift));
        sum += scores[4 * i + e];
      }
    }
    rows.sum[r] = kFirst ? sum : fmaf(rows.sum[r], shrink[r], sum);
  }
}

__device__ inline void round_weights(const float (&scores)[kTile / 2], uint32_t (&p)[kTile / 16][4]) {
#pragma unroll
  for (int i = 0; i < kTile / 16; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) p[i][e] = pack_bf16(scores[8 * i + 2 * e], scores[8 * i + 2 * e + 1]);
  }
}

template <int D>
__device__ inline void multiply_keys(float (&scores)[kTile / 2], uint64_t q, uint64_t k) {
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    const uint64_t step = (i / 4) * (kTile * 128 >> 4) + (i % 4) * kNextK16;
    wgmma<kTile, 0, 0>(scores, q + step, k + step, i != 0);
  }
  wgmma_commit();
}

template <int D>
__device__ inline void multiply_values(float (&o)[D / 2], const uint32_t (&p)[kTile / 16][4], uint64_t v) {
#pragma unroll
  for (int i = 0; i < kTile / 16; ++i) wgmma<D, 1>(o, p[i], v + i * kNextK16Mn, 1);
  wgmma_commit();
}

template <int D, bool kCausal>
__device__ void compute(Shared<D>& s, const Pass& pass, const CUtensorMap& o_map) {
  constexpr uint32_t kBytes = Shared<D>::kTileBytes;
  const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32, half = threadIdx.x / 128 - 1;
  const uint32_t k_full = shared_address(s.k_full), k_empty = shared_address(s.k_empty);
  const uint32_t v_full = shared_address(s.v_full), v_empty = shared_address(s.v_empty);
  const uint64_t q_at = descriptor_k_major(shared_address(s.q) + half * 64 * 128);
  const uint64_t k_at = descriptor_k_major(shared_address(s.k)), v_at = descriptor_mn_major(shared_address(s.v), kTile * 128);
  const uint32_t o_shared = shared_address(s.o) + half * (kBytes / 2);
  const float factor = pass.shape.scale * kLog2E;
  const int row = warp * 16 + lane / 4;  // and row + 8, of the warpgroup's 64
  const auto release = [&](uint32_t barrier) {
    __syncwarp();
    if (arrives_for_warp(lane)) barrier_arrive(barrier);
  };
  const auto take_turn = [&] { named_barrier_sync(kTurn + half, 256); };
  const auto pass_turn = [&] { named_barrier_arrive(kTurn + 1 - half, 256); };

  if (half == 1) pass_turn();
  float o[D / 2], scores[kTile / 2], shrink[2];
  uint32_t p[kTile / 16][4];
  Rows rows;
  Cursor k, v, slot;
  for (uint32_t q_parity = 0;; q_parity ^= 1) {
    barrier_wait(shared_address(&s.work_full[slot.stage]), slot.parity);
    const Work work = s.work[slot.stage];
    release(shared_address(&s.work_empty[slot.stage]));
    slot.step();
    if (work.length == 0) break;

    // The last keys first: only the first tile that is looked at has any to hide.
    const int tiles = key_tiles<kCausal>(work);
    barrier_wait(shared_address(&s.q_full), q_parity);
    barrier_wait(k_full + 8 * k.stage, k.parity);
    take_turn();
    wgmma_fence();
    multiply_keys<D>(scores, q_at, k_at + k.stage * (kBytes >> 4));
    pass_turn();
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] = 0;
    wgmma_wait<0>();
    wgmma_pin(scores);
    release(k_empty + 8 * k.stage);
    k.step();
    {
      const int there = work.length - (tiles - 1) * kTile, column = lane % 4 * 2;
      const int query = half * 64 + row;
      if (kCausal || there < kTile)
        hide(scores, (kCausal ? min(there, query + 1) : there) - column, (kCausal ? min(there, query + 9) : there) - column);
    }
    soften<true>(scores, rows, shrink, factor);
    round_weights(scores, p);

    for (int j = tiles - 2; j >= 0; --j) {
      barrier_wait(k_full + 8 * k.stage, k.parity);
      take_turn();
      wgmma_fence();
      multiply_keys<D>(scores, q_at, k_at + k.stage * (kBytes >> 4));
      barrier_wait(v_full + 8 * v.stage, v.parity);
      multiply_values<D>(o, p, v_at + v.stage * (kBytes >> 4));
      pass_turn();
      wgmma_wait<1>();
      wgmma_pin(scores);
      release(k_empty + 8 * k.stage);
      k.step();
      soften<false>(scores, rows, shrink, factor);
      wgmma_wait<0>();
      wgmma_pin(o);
      release(v_empty + 8 * v.stage);
      v.step();
      round_weights(scores, p);
#pragma unroll
      for (int i = 0; i < D / 2; ++i) o[i] *= shrink[i / 2 % 2];
    }
    release(shared_address(&s.q_empty));
    barrier_wait(v_full + 8 * v.stage, v.parity);
    take_turn();
    wgmma_fence();
    multiply_values<D>(o, p, v_at + v.stage * (kBytes >> 4));
    pass_turn();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows.sum[r] += __shfl_xor_sync(kWarp, rows.sum[r], 1);
      rows.sum[r] += __shfl_xor_sync(kWarp, rows.sum[r], 2);
    }
    const int left = work.length - work.first - half * 64;  // of the sequence's rows, from the warpgroup's first on
    const int64_t first_row = work.begin + work.first + half * 64;
    if (lane % 4 == 0) {
      float* lse = pass.lse + static_cast<int64_t>(work.head) * pass.shape.tokens + first_row;
#pragma unroll
      for (int r = 0; r < 2; ++r)
        if (row + 8 * r < left) lse[row + 8 * r] = fmaf(rows.most[r], factor, __log2f(rows.sum[r])) * kLn2;
    }
    const float inverse[2] = {1.0f / rows.sum[0], 1.0f / rows.sum[1]};
    // The copy engine has read what the warpgroup stored last, and other threads have.
    if (thread == 0) tma_wait_read<0>();
    named_barrier_sync(kStore + half, 128);
    wgmma_wait<0>();
    wgmma_pin(o);
    release(v_empty + 8 * v.stage);
    v.step();
    const int o_row = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t both[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) both[e] = pack_bf16(o[8 * i + 2 * e] * inverse[e % 2], o[8 * i + 2 * e + 1] * inverse[e % 2]);
      store_matrices(o_shared + i / 4 * (64 * 128) + swizzle128(o_row, i % 4 * 2 + lane / 16), both[0], both[1], both[2], both[3]);
    }
    fence_async();
    named_barrier_sync(kStore + half, 128);
    if (left >= 64) {
      if (thread == 0) {
        tma_store_3d(&o_map, o_shared, 0, static_cast<int>(first_row), work.head * (D / 64));
        tma_commit();
      }
    } else {  // rows beyond are the next sequence's
      const char* from = s.o + half * (kBytes / 2);
      for (int i = thread; i < left * (D / 8); i += 128) {
        const int r = i / (D / 8), unit = i % (D / 8);
        const uint4 piece = *reinterpret_cast<const uint4*>(from + unit / 8 * (64 * 128) + swizzle128(r, unit % 8));
        *reinterpret_cast<uint4*>(pass.o + (first_row + r) * pass.shape.heads * D + work.head * D + unit * 8) = piece;
      }
    }
  }
  if (thread == 0) tma_wait_read<0>();
}

template <int D, bool kCausal>
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward(const Pass pass, const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                      const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap o_map) {
#ifdef VLTUNE_SM90A
  extern __shared__ __align__(1024) char shared_bytes[];
  auto& s = *reinterpret_cast<Shared<D>*>(shared_bytes);
  if (threadIdx.x == 0) {
    barrier_init(shared_address(&s.q_full), 1);
    barrier_init(shared_address(&s.q_empty), kComputeWarps * kWarpArrivals);
    for (int i = 0; i < 2; ++i) {
      barrier_init(shared_address(&s.k_full[i]), 1);
      barrier_init(shared_address(&s.k_empty[i]), kComputeWarps * kWarpArrivals);
      barrier_init(shared_address(&s.v_full[i]), 1);
      barrier_init(shared_address(&s.v_empty[i]), kComputeWarps * kWarpArrivals);
      barrier_init(shared_address(&s.work_full[i]), 1);
      barrier_init(shared_address(&s.work_empty[i]), kComputeWarps * kWarpArrivals);
    }
    barrier_init_fence();
    prefetch_tensor_map(&q_map);
    prefetch_tensor_map(&k_map);
    prefetch_tensor_map(&v_map);
    prefetch_tensor_map(&o_map);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_shrink<kLoadRegisters>();
    if (threadIdx.x < 32) load<D, kCausal>(s, pass, q_map, k_map, v_map);
  } else {
    registers_grow<kComputeRegisters>();
    compute<D, kCausal>(s, pass, o_map);
  }
#endif
}

// ----------------------------------------------------------------------------------------------------------------------

template <int D, bool kCausal>
bool run(const OpCall& call) {
  const Shape shape = shape_of(call, 0, 3);
  CUtensorMap q_map, k_map, v_map, o_map;
  if (!encode_heads(&q_map, input(call, 0), D, kTile) || !encode_heads(&k_map, input(call, 1), D, kTile) ||
      !encode_heads(&v_map, input(call, 2), D, kTile) || !encode_heads(&o_map, output(call, 0), D, 64))
    return false;
  const Pass pass{shape,
                  input(call, 3).as<int32_t>(),
                  output(call, 1).as<float>(),
                  output(call, 0).as<__nv_bfloat16>(),
                  static_cast<int*>(call.workspace),
                  call.fault};
  constexpr int kSharedBytes = sizeof(Shared<D>);
  static const bool opted = [] {
    VLTUNE_CUDA(cudaFuncSetAttribute(attention_forward<D, kCausal>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(opted);
  const int64_t blocks = std::min<int64_t>(device().multiprocessors, std::max<int64_t>(most_tiles(shape), 1) * shape.heads);
  VLTUNE_CUDA(cudaMemsetAsync(call.workspace, 0, sizeof(int), stream_of(call)));
  attention_forward<D, kCausal>
      <<<static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream_of(call)>>>(pass, q_map, k_map, v_map, o_map);
  check_launch(call);
  return true;
}

}  // namespace

size_t attention_forward_sm90_workspace(const OpCall&) { return 256; }

bool attention_forward_sm90(const OpCall& call) {
  if (!takes(call, 0)) return false;
  if (input(call, 0).shape[0] == 0) return true;
  const bool causal = call.attrs->flag("causal");
  if (call.attrs->number("head_dim", 0) == 128) return causal ? run<128, true>(call) : run<128, false>(call);
  return causal ? run<64, true>(call) : run<64, false>(call);
}

}  // namespace vltune::cuda
