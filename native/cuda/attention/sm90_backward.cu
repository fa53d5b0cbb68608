// The backward pass for sm_90a: five products for each tile of 128 keys and 64 queries, in one kernel. A tile's keys and values stay in
// shared memory while the queries that see them, of all heads of the group, go by; dK and dV stay in registers. dQ is summed in F32 in
// device memory by the copy engine, each tile's part in its turn, so that every run gives the same bits.
//
// Two kernels with seven products (dQ on its own) would need no turns, but 1.4 times the work. The turns cost nothing that can be measured,
// because blocks come to a tile of queries in the order that it wants them. With a causal mask a block takes the tiles of keys T - 1 - p
// and then p, so that all blocks of a sequence have the same work. The first, short tile goes upwards from the diagonal: the later tile of
// keys comes first. The second, long tile goes upwards, too, but downwards for the last head of the group, when all blocks of the sequence
// end at the same time: either way the earlier tile of keys comes first. Without a mask, a tile of keys starts at its diagonal and goes
// round.
#include <cuda_bf16.h>

#include <algorithm>

#include "sm90.h"
#include "sm90_tiles.cuh"

#pragma nv_diag_suppress 177  // targets other than sm_90a use none of the device functions

namespace vltune::cuda {
namespace {

using namespace attn90;
using namespace sm90;

constexpr int kQueries = 64;                    // of a tile
constexpr int kComputeWarps = 8, kThreads = 32 * (kComputeWarps + 4);
constexpr int kLoadRegisters = 24, kComputeRegisters = 240;
constexpr int kWritten = 1, kStore = 2;         // named barriers: dS is there; one for each computing warpgroup

// A tile of keys. Queries of a sequence are told as slots of 64: those of sequence s are slots first_slot = begin / 64 + s and following.
struct Work {
  int begin, length, tile, kv_head, first_slot;
  int longs;     // tiles of keys that are the second of their block; -1: order of tickets, everything upwards
  int downwards; // for the last head
};

template <int D>
struct Shared {
  static constexpr int kKeyBytes = kTile * D * 2, kQueryBytes = kQueries * D * 2;
  static constexpr int kPartBytes = kQueries * D * 2;  // half of a tile's dQ, F32
  alignas(1024) char k[kKeyBytes];
  alignas(1024) char v[kKeyBytes];
  alignas(1024) char q[2][kQueryBytes];
  alignas(1024) char d_o[2][kQueryBytes];
  alignas(1024) char ds[2][kTile * kQueries * 2];      // [keys][queries]
  alignas(1024) char dq[2][kPartBytes];                // of each warpgroup
  alignas(16) float lse[2][kQueries];
  alignas(16) float delta[2][kQueries];
  uint64_t kv_full, kv_empty, q_full[2], q_empty[2], do_full[2], do_empty[2], dq_full[2], dq_empty[2], work_full[2], work_empty[2];
  Work work[2];
};

struct Pass {
  Shape shape;
  const int32_t* bounds;
  int64_t slots;
  float* lse;     // [heads][slots][64], to base 2; infinite beyond the sequence's end
  float* delta;   // alike: sums over a row of dO * O
  float* dq;      // [heads][slots][2][64][head_dim / 2], see put_dq
  int* turns;     // [heads][slots]: tiles of keys that have added
  int* tickets;   // work taken
  __nv_bfloat16 *dk, *dv;
  Fault* fault;
};

struct Cursor {  // in a ring of two
  int stage = 0;
  uint32_t parity = 0;
  __device__ void step() {
    parity ^= stage;
    stage ^= 1;
  }
};

__device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The tiles of queries that a tile of keys meets, one after the other.
template <bool kCausal>
struct Walk {
  int heads, slots, count, tile, longs, downwards, tiles;
  int head = 0, step = 0;

  __device__ Walk(const Work& work, int group)
      : heads(group), slots(ceil_div(work.length, kQueries)), count(kCausal ? slots - 2 * work.tile : slots), tile(work.tile),
        longs(work.longs), downwards(work.downwards), tiles(ceil_div(work.length, kTile)) {}
  __device__ bool over() const { return head == heads; }
  __device__ int slot() const {
    if (kCausal) return downwards && head == heads - 1 ? slots - 1 - step : 2 * tile + step;
    if (longs < 0) return step;
    const int at = 2 * tile + step;
    return at < slots ? at : at - slots;
  }
  // How many tiles of keys add to this slot before this one.
  __device__ int turn() const {
    const int diagonal = slot() / 2;
    if (kCausal) {
      const int first = max(longs, 0);
      return tile >= first ? diagonal - tile : max(0, diagonal - first + 1) + tile;
    }
    if (longs < 0) return tile;
    return diagonal >= tile ? diagonal - tile : diagonal - tile + tiles;
  }
  __device__ void next() {
    if (++step == count) {
      step = 0;
      ++head;
    }
  }
};

// Blocks that share a sequence's tiles of keys wait for each other, so they must all be there: else tiles go one by one.
template <bool kCausal>
__device__ inline int longs_of(int tiles, int blocks) {
  if (kCausal) return (tiles + 1) / 2 <= blocks ? tiles / 2 : -1;
  return tiles <= blocks ? 0 : -1;
}

// Work number `ticket`: item `item` of a sequence and head; longer sequences come first, the items of one follow each other. By a warp.
struct Item {
  int sequence, kv_head, item;  // sequence < 0: none
};
template <bool kCausal>
__device__ Item find_item(const Pass& pass, int ticket, int blocks) {
  const int lane = threadIdx.x % 32, sequences = pass.shape.sequences, kv_heads = pass.shape.kv_heads;
  const auto tiles_of = [&](int i) { return i < sequences ? ceil_div(pass.bounds[i + 1] - pass.bounds[i], kTile) : 0; };
  const auto items_of = [&](int tiles) { return (tiles - (kCausal ? max(0, longs_of<kCausal>(tiles, blocks)) : 0)) * kv_heads; };
  const auto items_from = [&](int least) {
    int count = 0;
    for (int i = lane; i < sequences; i += 32) {
      const int tiles = tiles_of(i);
      if (tiles >= least) count += items_of(tiles);
    }
    return __reduce_add_sync(kWarp, count);
  };
  if (ticket >= items_from(1)) return {-1, 0, 0};
  int tiles = 1, above = ceil_div(pass.shape.tokens, kTile) + 1, over = 0;
  while (above - tiles > 1) {
    const int middle = (tiles + above) / 2, count = items_from(middle);
    if (count > ticket) {
      tiles = middle;
    } else {
      above = middle;
      over = count;
    }
  }
  const int items = items_of(tiles), rank = (ticket - over) / items, rest = (ticket - over) % items;
  int seen = 0;
  for (int i = lane;; i += 32) {
    const unsigned with = __ballot_sync(kWarp, tiles_of(i) == tiles);
    if (rank < seen + __popc(with)) {
      const int each = items / kv_heads;
      return {i - lane + static_cast<int>(__fns(with, 0, rank - seen + 1)), rest / each, rest % each};
    }
    seen += __popc(with);
  }
}

// ---- the warp that loads ---------------------------------------------------------------------------------------------

template <int D, bool kCausal>
__device__ void load(Shared<D>& s, const Pass& pass, const CUtensorMap& q_map, const CUtensorMap& do_map, const CUtensorMap& k_map,
                     const CUtensorMap& v_map) {
  const int lane = threadIdx.x % 32;
  const int group = pass.shape.heads / pass.shape.kv_heads, blocks = static_cast<int>(gridDim.x);
  const uint32_t kv_full = shared_address(&s.kv_full), kv_empty = shared_address(&s.kv_empty);
  const bool hold = bounds_hold(pass.bounds, pass.shape, pass.fault, blockIdx.x == 0);
  Cursor at, slot;
  uint32_t kv_parity = 1;
  const auto tell = [&](const Work& work) {
    if (lane == 0) {
      barrier_wait(shared_address(&s.work_empty[slot.stage]), slot.parity ^ 1);
      s.work[slot.stage] = work;
      barrier_arrive(shared_address(&s.work_full[slot.stage]));
    }
    __syncwarp();
    slot.step();
  };
  for (;;) {
    int ticket = 0;
    if (lane == 0) ticket = atomicAdd(pass.tickets, 1);
    ticket = __shfl_sync(kWarp, ticket, 0);
    const Item item = hold ? find_item<kCausal>(pass, ticket, blocks) : Item{-1, 0, 0};
    if (item.sequence < 0) break;
    Work work;
    work.begin = pass.bounds[item.sequence];
    work.length = pass.bounds[item.sequence + 1] - work.begin;
    work.kv_head = item.kv_head;
    work.first_slot = work.begin / kQueries + item.sequence;
    const int tiles = ceil_div(work.length, kTile);
    work.longs = longs_of<kCausal>(tiles, blocks);
    for (int second = 0; second < (kCausal && item.item < work.longs ? 2 : 1); ++second) {
      work.tile = kCausal && second == 0 ? tiles - 1 - item.item : item.item;
      work.downwards = second;
      tell(work);
      if (lane == 0) {
        const int row = work.begin + work.tile * kTile, kv_z = work.kv_head * (D / 64);
        barrier_wait(kv_empty, kv_parity);
        barrier_arrive_expect(kv_full, 2 * Shared<D>::kKeyBytes);
        tma_load_3d(shared_address(s.k), &k_map, kv_full, 0, row, kv_z);
        tma_load_3d(shared_address(s.v), &v_map, kv_full, 0, row, kv_z);
        for (Walk<kCausal> walk(work, group); !walk.over(); walk.next()) {
          const int head = work.kv_head * group + walk.head, q_slot = walk.slot();
          const int64_t stat = (head * pass.slots + work.first_slot + q_slot) * kQueries;
          const int q_row = work.begin + q_slot * kQueries;
          const uint32_t q_full = shared_address(&s.q_full[at.stage]), do_full = shared_address(&s.do_full[at.stage]);
          barrier_wait(shared_address(&s.q_empty[at.stage]), at.parity ^ 1);
          barrier_arrive_expect(q_full, Shared<D>::kQueryBytes + kQueries * 4);
          tma_load_3d(shared_address(s.q[at.stage]), &q_map, q_full, 0, q_row, head * (D / 64));
          load_bytes(shared_address(s.lse[at.stage]), pass.lse + stat, kQueries * 4, q_full);
          barrier_wait(shared_address(&s.do_empty[at.stage]), at.parity ^ 1);
          barrier_arrive_expect(do_full, Shared<D>::kQueryBytes + kQueries * 4);
          tma_load_3d(shared_address(s.d_o[at.stage]), &do_map, do_full, 0, q_row, head * (D / 64));
          load_bytes(shared_address(s.delta[at.stage]), pass.delta + stat, kQueries * 4, do_full);
          at.step();
        }
      }
      kv_parity ^= 1;
      __syncwarp();
    }
  }
  tell(Work{0, 0, 0, 0, 0, 0, 0});
}

// ---- the thread that adds parts of dQ, each when its turn has come ---------------------------------------------------

template <int D, bool kCausal>
__device__ void add_dq(Shared<D>& s, const Pass& pass) {
  const int group = pass.shape.heads / pass.shape.kv_heads;
  constexpr int kPartBytes = Shared<D>::kPartBytes;
  Cursor slot;
  uint32_t parity = 0;
  for (;;) {
    barrier_wait(shared_address(&s.work_full[slot.stage]), slot.parity);
    const Work work = s.work[slot.stage];
    barrier_arrive(shared_address(&s.work_empty[slot.stage]));
    slot.step();
    if (work.length == 0) return;
    for (Walk<kCausal> walk(work, group); !walk.over(); walk.next()) {
      const int64_t place = (work.kv_head * group + walk.head) * pass.slots + work.first_slot + walk.slot();
      const int turn = walk.turn();
      wait_for_turn(pass.turns + place, turn);
      float* to = pass.dq + place * (kQueries * D);
      for (int half = 0; half < 2; ++half) {
        barrier_wait(shared_address(&s.dq_full[half]), parity);
        if (turn == 0)
          store_bytes(to + half * (kPartBytes / 4), shared_address(s.dq[half]), kPartBytes);
        else
          add_floats(to + half * (kPartBytes / 4), shared_address(s.dq[half]), kPartBytes);
        tma_commit();
      }
      tma_wait_read<1>();
      barrier_arrive(shared_address(&s.dq_empty[0]));
      tma_wait_read<0>();
      barrier_arrive(shared_address(&s.dq_empty[1]));
      tma_wait<0>();
      end_turn(pass.turns + place);
      parity ^= 1;
    }
  }
}

// ---- the warpgroups that compute -------------------------------------------------------------------------------------

// A [64 of 128 rows, D] B [64 rows, D]^T
template <int D>
__device__ inline void multiply_rows(float (&d)[kQueries / 2], uint64_t a, uint64_t b) {
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    const uint64_t step = i % 4 * kNextK16;
    wgmma<kQueries, 0, 0>(d, a + i / 4 * (kTile * 128 >> 4) + step, b + i / 4 * (kQueries * 128 >> 4) + step, i != 0);
  }
  wgmma_commit();
}

// d += A [64, 64] B [64 rows, D]
template <int D>
__device__ inline void multiply_columns(float (&d)[D / 2], const uint32_t (&a)[kQueries / 16][4], uint64_t b) {
#pragma unroll
  for (int i = 0; i < kQueries / 16; ++i) wgmma<D, 1>(d, a[i], b + i * kNextK16Mn, 1);
  wgmma_commit();
}

// A tile of keys' dK or dV: the warpgroup's 64 rows, by the copy engine if all are the sequence's.
template <int D>
__device__ inline void put_rows(const float (&d)[D / 2], float factor, char* shared, const CUtensorMap& map, __nv_bfloat16* to, int stride,
                                int row, int z, int left, int barrier) {
  const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
  const uint32_t address = shared_address(shared);
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    uint32_t both[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) both[e] = pack_bf16(d[8 * i + 2 * e] * factor, d[8 * i + 2 * e + 1] * factor);
    const uint32_t at = address + i / 4 * (64 * 128) + swizzle128(warp * 16 + lane % 16, i % 4 * 2 + lane / 16);
    store_matrices(at, both[0], both[1], both[2], both[3]);
  }
  fence_async();
  named_barrier_sync(barrier, 128);
  if (left >= 64) {
    if (thread == 0) {
      tma_store_3d(&map, address, 0, row, z);
      tma_commit();
    }
  } else {
    for (int i = thread; i < left * (D / 8); i += 128) {
      const int r = i / (D / 8), unit = i % (D / 8);
      *reinterpret_cast<uint4*>(to + static_cast<int64_t>(row + r) * stride + z * 64 + unit * 8) =
          *reinterpret_cast<const uint4*>(shared + unit / 8 * (64 * 128) + swizzle128(r, unit % 8));
    }
  }
}

template <int D, bool kCausal>
__device__ void compute(Shared<D>& s, const Pass& pass, const CUtensorMap& dk_map, const CUtensorMap& dv_map) {
  constexpr int kHalf = D / 2;  // columns of dQ of a warpgroup
  const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32, half = threadIdx.x / 128 - 1;
  const int group = pass.shape.heads / pass.shape.kv_heads;
  const uint64_t k_rows = descriptor_k_major(shared_address(s.k) + half * 64 * 128);
  const uint64_t v_rows = descriptor_k_major(shared_address(s.v) + half * 64 * 128);
  // Columns of K: 64 of them are a block of the tile, 32 are half a row of one.
  const uint64_t k_columns = descriptor_mn_major(shared_address(s.k) + half * (D == 128 ? kTile * 128 : 64), kTile * 128);
  const float factor = pass.shape.scale * kLog2E;
  const int row = warp * 16 + lane / 4, column = lane % 4 * 2;  // of the thread's first accumulator
  const auto release = [&](uint64_t* barrier) {
    __syncwarp();
    if (arrives_for_warp(lane)) barrier_arrive(shared_address(barrier));
  };

  float dk[D / 2], dv[D / 2], p[kQueries / 2], dp[kQueries / 2];
  uint32_t p_rounded[kQueries / 16][4], ds_rounded[kQueries / 16][4];
  Cursor q, slot;
  uint32_t kv_parity = 0, dq_parity = 1;
  for (;;) {
    barrier_wait(shared_address(&s.work_full[slot.stage]), slot.parity);
    const Work work = s.work[slot.stage];
    release(&s.work_empty[slot.stage]);
    slot.step();
    if (work.length == 0) break;
    const int left = work.length - work.tile * kTile - half * 64;  // of the sequence's keys, from the warpgroup's first on
#pragma unroll
    for (int i = 0; i < D / 2; ++i) dk[i] = dv[i] = 0;

    barrier_wait(shared_address(&s.kv_full), kv_parity);
    kv_parity ^= 1;
    barrier_wait(shared_address(&s.q_full[q.stage]), q.parity);
    wgmma_fence();
    multiply_rows<D>(p, k_rows, descriptor_k_major(shared_address(s.q[q.stage])));
    wgmma_wait<0>();
    wgmma_pin(p);
    for (Walk<kCausal> walk(work, group); !walk.over();) {
      barrier_wait(shared_address(&s.do_full[q.stage]), q.parity);
      wgmma_fence();
      multiply_rows<D>(dp, v_rows, descriptor_k_major(shared_address(s.d_o[q.stage])));
      // Scores, [keys][queries], become weights.
      const int q_slot = walk.slot();
      if (kCausal && q_slot < 2 * work.tile + 2) {
        const int before = work.tile * kTile + half * 64 + row - q_slot * kQueries - column;  // the key less the query
#pragma unroll
        for (int i = 0; i < kQueries / 8; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (before + e / 2 * 8 > 8 * i + e % 2) p[4 * i + e] = -INFINITY;
        }
      }
      if (!kCausal && left < 64) {
#pragma unroll
        for (int i = 0; i < kQueries / 2; ++i)
          if (row + i % 4 / 2 * 8 >= left) p[i] = -INFINITY;
      }
#pragma unroll
      for (int i = 0; i < kQueries / 8; ++i) {
        const float2 lse = *reinterpret_cast<const float2*>(&s.lse[q.stage][8 * i + column]);
#pragma unroll
        for (int e = 0; e < 4; ++e) p[4 * i + e] = power_of_two(fmaf(p[4 * i + e], factor, e % 2 ? -lse.y : -lse.x));
      }
#pragma unroll
      for (int i = 0; i < kQueries / 16; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) p_rounded[i][e] = pack_bf16(p[8 * i + 2 * e], p[8 * i + 2 * e + 1]);
      }
      wgmma_wait<0>();
      wgmma_pin(dp);
#pragma unroll
      for (int i = 0; i < kQueries / 8; ++i) {
        const float2 delta = *reinterpret_cast<const float2*>(&s.delta[q.stage][8 * i + column]);
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[4 * i + e] = p[4 * i + e] * (dp[4 * i + e] - (e % 2 ? delta.y : delta.x));
      }
      const uint32_t ds = shared_address(s.ds[q.stage]);
#pragma unroll
      for (int i = 0; i < kQueries / 16; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) ds_rounded[i][e] = pack_bf16(dp[8 * i + 2 * e], dp[8 * i + 2 * e + 1]);
        const uint32_t at = ds + swizzle128(half * 64 + warp * 16 + lane % 16, 2 * i + lane / 16);
        store_matrices(at, ds_rounded[i][0], ds_rounded[i][1], ds_rounded[i][2], ds_rounded[i][3]);
      }
      fence_async();
      wgmma_fence();
      multiply_columns<D>(dv, p_rounded, descriptor_mn_major(shared_address(s.d_o[q.stage]), kQueries * 128));
      named_barrier_sync(kWritten, 256);
      float dq[kHalf / 2];
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kTile / 16; ++i)
        wgmma<kHalf, 1, 1>(dq, descriptor_mn_major(ds, kTile * 128) + i * kNextK16Mn, k_columns + i * kNextK16Mn, i != 0);
      wgmma_commit();
      wgmma_wait<1>();  // for dV, as its factors' registers are wanted
      wgmma_pin(dv);
      multiply_columns<D>(dk, ds_rounded, descriptor_mn_major(shared_address(s.q[q.stage]), kQueries * 128));
      const int stage = q.stage;
      walk.next();
      // The next scores; after the last queries the same ones again, for nothing, so that the order of products is the same every time.
      if (!walk.over()) {
        q.step();
        barrier_wait(shared_address(&s.q_full[q.stage]), q.parity);
      }
      multiply_rows<D>(p, k_rows, descriptor_k_major(shared_address(s.q[q.stage])));
      wgmma_wait<2>();
      wgmma_pin(dq);
      release(&s.do_empty[stage]);
      // Row by row, 8 columns c of row r at c ^ r: no two lanes of a store meet in a bank.
      barrier_wait(shared_address(&s.dq_empty[half]), dq_parity);
      dq_parity ^= 1;
      float* part = reinterpret_cast<float*>(s.dq[half]);
#pragma unroll
      for (int i = 0; i < kHalf / 8; ++i) {
        const int at = (i ^ (row % (kHalf / 8))) * 8 + column;
        *reinterpret_cast<float2*>(&part[row * kHalf + at]) = make_float2(dq[4 * i], dq[4 * i + 1]);
        *reinterpret_cast<float2*>(&part[(row + 8) * kHalf + at]) = make_float2(dq[4 * i + 2], dq[4 * i + 3]);
      }
      fence_async();
      release(&s.dq_full[half]);
      wgmma_wait<0>();
      wgmma_pin(p);
      wgmma_pin(dk);
      if (!walk.over()) release(&s.q_empty[stage]);
    }
    release(&s.q_empty[q.stage]);
    q.step();
    named_barrier_sync(kWritten, 256);  // both have read all of K and V
    const int kv_row = work.begin + work.tile * kTile + half * 64, stride = pass.shape.kv_heads * D, z = work.kv_head * (D / 64);
    put_rows<D>(dv, 1.0f, s.v + half * (Shared<D>::kKeyBytes / 2), dv_map, pass.dv, stride, kv_row, z, left, kStore + half);
    put_rows<D>(dk, pass.shape.scale, s.k + half * (Shared<D>::kKeyBytes / 2), dk_map, pass.dk, stride, kv_row, z, left, kStore + half);
    if (thread == 0) tma_wait_read<0>();
    release(&s.kv_empty);
  }
}

template <int D, bool kCausal>
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward(const Pass pass, const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap do_map,
                       const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,
                       const __grid_constant__ CUtensorMap dk_map, const __grid_constant__ CUtensorMap dv_map) {
#ifdef VLTUNE_SM90A
  extern __shared__ __align__(1024) char shared_bytes[];
  auto& s = *reinterpret_cast<Shared<D>*>(shared_bytes);
  if (threadIdx.x == 0) {
    barrier_init(shared_address(&s.kv_full), 1);
    barrier_init(shared_address(&s.kv_empty), kComputeWarps * kWarpArrivals);
    for (int i = 0; i < 2; ++i) {
      barrier_init(shared_address(&s.q_full[i]), 1);
      barrier_init(shared_address(&s.q_empty[i]), kComputeWarps * kWarpArrivals);
      barrier_init(shared_address(&s.do_full[i]), 1);
      barrier_init(shared_address(&s.do_empty[i]), kComputeWarps * kWarpArrivals);
      barrier_init(shared_address(&s.dq_full[i]), kComputeWarps / 2 * kWarpArrivals);
      barrier_init(shared_address(&s.dq_empty[i]), 1);
      barrier_init(shared_address(&s.work_full[i]), 1);
      barrier_init(shared_address(&s.work_empty[i]), kComputeWarps * kWarpArrivals + 1);
    }
    barrier_init_fence();
    for (const CUtensorMap* map : {&q_map, &do_map, &k_map, &v_map, &dk_map, &dv_map}) prefetch_tensor_map(map);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_shrink<kLoadRegisters>();
    if (threadIdx.x < 32)
      load<D, kCausal>(s, pass, q_map, do_map, k_map, v_map);
    else if (threadIdx.x == 32)
      add_dq<D, kCausal>(s, pass);
  } else {
    registers_grow<kComputeRegisters>();
    compute<D, kCausal>(s, pass, dk_map, dv_map);
  }
#endif
}

// ---- before and after ------------------------------------------------------------------------------------------------

// The sequence's rows that are slot `slot` of 64: `rows` of them from `first` on; rows <= 0: none.
__device__ inline void find_slot(const Pass& pass, int slot, int* first, int* rows) {
  int low = 0, high = pass.shape.sequences;  // the last sequence whose first slot is not beyond
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (pass.bounds[middle] / kQueries + middle <= slot ? low : high) = middle;
  }
  const int begin = pass.bounds[low], end = pass.bounds[low + 1];
  *first = begin + (slot - begin / kQueries - low) * kQueries;
  // Bad bounds are reported by the main kernel; here they must do no harm.
  const bool inside = begin >= 0 && end >= begin && end <= pass.shape.tokens && *first >= begin;
  *rows = inside ? min(kQueries, end - *first) : 0;
}

constexpr int kRowThreads = 256;

// One block a slot and head: D / 8 threads a row.
template <int D>
__global__ void __launch_bounds__(kRowThreads)
    row_sums(const Pass pass, const __nv_bfloat16* d_o, const __nv_bfloat16* o, const float* lse) {
  constexpr int kLanes = D / 8, kAtOnce = kRowThreads / kLanes;
  const int slot = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % kLanes;
  const int64_t place = head * pass.slots + slot;
  if (threadIdx.x == 0) {
    pass.turns[place] = 0;
    if (slot == 0 && head == 0) *pass.tickets = 0;
  }
  int first, rows;
  find_slot(pass, slot, &first, &rows);
  if (rows <= 0) return;
#pragma unroll
  for (int r = threadIdx.x / kLanes; r < kQueries; r += kAtOnce) {
    float sum = 0;
    if (r < rows) {
      const int64_t at = (static_cast<int64_t>(first + r) * pass.shape.heads + head) * D + lane * 8;
      const uint4 a = *reinterpret_cast<const uint4*>(d_o + at), b = *reinterpret_cast<const uint4*>(o + at);
      const uint32_t as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum = fmaf(__uint_as_float(as[i] << 16), __uint_as_float(bs[i] << 16), sum);
        sum = fmaf(__uint_as_float(as[i] & 0xffff0000u), __uint_as_float(bs[i] & 0xffff0000u), sum);
      }
    }
#pragma unroll
    for (int other = kLanes / 2; other > 0; other /= 2) sum += __shfl_xor_sync(kWarp, sum, other);
    if (lane == 0) {
      pass.delta[place * kQueries + r] = sum;
      pass.lse[place * kQueries + r] = r < rows ? lse[static_cast<int64_t>(head) * pass.shape.tokens + first + r] * kLog2E : INFINITY;
    }
  }
}

template <int D>
__global__ void __launch_bounds__(kRowThreads) round_dq(const Pass pass, __nv_bfloat16* dq) {
#ifdef VLTUNE_SM90A
  constexpr int kLanes = D / 8, kAtOnce = kRowThreads / kLanes, kHalf = D / 2, kUnits = kHalf / 8;
  const int slot = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % kLanes;
  int first, rows;
  find_slot(pass, slot, &first, &rows);
  const float* from = pass.dq + (head * pass.slots + slot) * (kQueries * D) + lane / kUnits * (kQueries * kHalf);
#pragma unroll
  for (int i = 0; i < kQueries / kAtOnce; ++i) {
    const int r = threadIdx.x / kLanes + i * kAtOnce;
    if (r >= rows) break;
    const float4* row = reinterpret_cast<const float4*>(from + r * kHalf + (lane % kUnits ^ r % kUnits) * 8);
    const float4 a = row[0], b = row[1];
    const float scale = pass.shape.scale;
    *reinterpret_cast<uint4*>(dq + (static_cast<int64_t>(first + r) * pass.shape.heads + head) * D + lane * 8) =
        make_uint4(pack_bf16(a.x * scale, a.y * scale), pack_bf16(a.z * scale, a.w * scale), pack_bf16(b.x * scale, b.y * scale),
                   pack_bf16(b.z * scale, b.w * scale));
  }
#endif
}

// ----------------------------------------------------------------------------------------------------------------------

constexpr size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

struct Scratch {
  size_t lse, delta, turns, tickets, dq, bytes;
  Scratch(const Shape& s, int head_dim) {
    const size_t places = static_cast<size_t>(slots(s)) * static_cast<size_t>(s.heads);
    lse = 0;
    delta = lse + round_up(places * kQueries * sizeof(float));
    turns = delta + round_up(places * kQueries * sizeof(float));
    tickets = turns + round_up(places * sizeof(int));
    dq = tickets + 256;
    bytes = dq + places * kQueries * static_cast<size_t>(head_dim) * sizeof(float);
  }
  static int64_t slots(const Shape& s) { return s.tokens / kQueries + s.sequences; }
};

template <int D, bool kCausal>
bool run(const OpCall& call) {
  const Shape shape = shape_of(call, 1, 6);
  CUtensorMap q_map, do_map, k_map, v_map, dk_map, dv_map;
  if (!encode_heads(&do_map, input(call, 0), D, kQueries) || !encode_heads(&q_map, input(call, 1), D, kQueries) ||
      !encode_heads(&k_map, input(call, 2), D, kTile) || !encode_heads(&v_map, input(call, 3), D, kTile) ||
      !encode_heads(&dk_map, output(call, 1), D, 64) || !encode_heads(&dv_map, output(call, 2), D, 64) ||
      (reinterpret_cast<uintptr_t>(input(call, 4).data) | reinterpret_cast<uintptr_t>(output(call, 0).data)) % 16 != 0)
    return false;
  const Scratch scratch(shape, D);
  char* base = static_cast<char*>(call.workspace);
  const Pass pass{shape,
                  input(call, 6).as<int32_t>(),
                  Scratch::slots(shape),
                  reinterpret_cast<float*>(base + scratch.lse),
                  reinterpret_cast<float*>(base + scratch.delta),
                  reinterpret_cast<float*>(base + scratch.dq),
                  reinterpret_cast<int*>(base + scratch.turns),
                  reinterpret_cast<int*>(base + scratch.tickets),
                  output(call, 1).as<__nv_bfloat16>(),
                  output(call, 2).as<__nv_bfloat16>(),
                  call.fault};
  constexpr int kSharedBytes = sizeof(Shared<D>);
  static const bool opted = [] {
    VLTUNE_CUDA(cudaFuncSetAttribute(attention_backward<D, kCausal>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(opted);
  const cudaStream_t stream = stream_of(call);
  const dim3 grid(static_cast<unsigned>(pass.slots), static_cast<unsigned>(shape.heads));
  const bool any = shape.sequences > 0;  // else the bounds are bad, which the main kernel reports
  if (any) {
    row_sums<D><<<grid, kRowThreads, 0, stream>>>(pass, input(call, 0).as<__nv_bfloat16>(), input(call, 4).as<__nv_bfloat16>(),
                                                  input(call, 5).as<float>());
    check_launch(call);
  }
  // No more than fit at once, one to a multiprocessor: blocks wait for each other.
  const int64_t blocks = std::min<int64_t>(device().multiprocessors, std::max<int64_t>(most_tiles(shape), 1) * shape.kv_heads);
  attention_backward<D, kCausal>
      <<<static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream>>>(pass, q_map, do_map, k_map, v_map, dk_map, dv_map);
  check_launch(call);
  if (any) {
    round_dq<D><<<grid, kRowThreads, 0, stream>>>(pass, output(call, 0).as<__nv_bfloat16>());
    check_launch(call);
  }
  return true;
}

}  // namespace

size_t attention_backward_sm90_workspace(const OpCall& call) {
  return Scratch(shape_of(call, 1, 6), static_cast<int>(call.attrs->number("head_dim", 0))).bytes;
}

bool attention_backward_sm90(const OpCall& call) {
  if (!takes(call, 1)) return false;
  if (input(call, 1).shape[0] == 0) return true;
  const bool causal = call.attrs->flag("causal");
  if (call.attrs->number("head_dim", 0) == 128) return causal ? run<128, true>(call) : run<128, false>(call);
  return causal ? run<64, true>(call) : run<64, false>(call);
}

}  // namespace vltune::cuda
