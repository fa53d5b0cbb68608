// What the attention kernels of sm_90a have in common: which tile a block works on, and the tensor maps of heads.
#pragma once
#include <algorithm>

#include "../../ops/check.h"
#include "../sm90.cuh"

namespace vltune::cuda::attn90 {

constexpr int kTile = 128;  // queries or keys of a tile
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct Shape {
  int tokens, sequences, heads, kv_heads;
  float scale;
};

inline int64_t most_tiles(const Shape& s) { return s.tokens / kTile + s.sequences; }

// Attributes, and the operands' sizes: q and bounds are these operands of the call.
inline Shape shape_of(const OpCall& call, int q, int bounds) {
  const auto number = [&](const char* name) { return call.attrs->number(name, 0); };
  return {static_cast<int>(input(call, q).shape[0]), static_cast<int>(std::max<int64_t>(input(call, bounds).shape[0] - 1, 0)),
          static_cast<int>(number("heads")), static_cast<int>(number("kv_heads")), static_cast<float>(number("scale"))};
}

inline bool takes(const OpCall& call, int q) {
  const int head_dim = static_cast<int>(call.attrs->number("head_dim", 0));
  // Coordinates of TMA are 32-bit numbers; heads are rows of a grid.
  return device().sm90a() && input(call, q).dtype == DType::BF16 && (head_dim == 64 || head_dim == 128) &&
         input(call, q).shape[0] < (int64_t{1} << 30) && call.attrs->number("heads", 0) <= 65535 && sm90::tensor_map_encoder() != nullptr;
}

// [tokens][heads * head_dim] as columns of 64: boxes of `rows` rows of a whole head, [head_dim / 64][rows][64] in shared memory.
inline bool encode_heads(CUtensorMap* map, const Tensor& tensor, int head_dim, int rows) {
  const uint64_t row_bytes = static_cast<uint64_t>(tensor.shape[1]) * 2;
  const uint64_t sizes[3] = {64, static_cast<uint64_t>(tensor.shape[0]), static_cast<uint64_t>(tensor.shape[1] / 64)};
  const uint64_t strides[2] = {row_bytes, 128};
  const uint32_t box[3] = {64, static_cast<uint32_t>(rows), static_cast<uint32_t>(head_dim / 64)};
  return sm90::tensor_map_takes(tensor.data, static_cast<int64_t>(row_bytes)) &&
         sm90::encode_tensor_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, tensor.data, 3, sizes, strides, box);
}

#ifdef __CUDACC__

constexpr unsigned kWarp = 0xffffffffu;

__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Beyond ../sm90.cuh: the copy engine on bytes that follow each other. `bytes` and both addresses are multiples of 16.
__device__ inline void load_bytes(uint32_t shared, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ inline void store_bytes(void* to, uint32_t shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared), "r"(bytes) : "memory");
}
// to[i] += in F32, each once, in L2.
__device__ inline void add_floats(float* to, uint32_t shared, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(shared), "r"(bytes) : "memory");
}
// Turns among blocks, for what the copy engine writes: until `turn` others have ended theirs; after one's own copies are complete.
__device__ inline void wait_for_turn(const int* turns, int turn) {
  int done;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(done) : "l"(turns) : "memory");
  } while (done < turn);
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
__device__ inline void end_turn(int* turns) {
  asm volatile("fence.proxy.async.global;" ::: "memory");
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(turns) : "memory");
}

// Tile `tile` of 128 rows of a sequence that has the rows begin..begin + length of the packed ones. length = 0: no such tile.
struct Place {
  int begin, length, tile;
};

// Do the bounds ascend from 0 to tokens? By a warp; every lane has the answer.
__device__ inline bool bounds_hold(const int32_t* bounds, const Shape& s, Fault* fault, bool report) {
  bool hold = true;
  for (int i = threadIdx.x % 32; i <= s.sequences; i += 32) {
    const int at = bounds[i], before = i == 0 ? 0 : bounds[i - 1];
    if (at < before || (i == 0 && at != 0) || (i == s.sequences && at != s.tokens)) {
      hold = false;
      if (report) report_fault(fault, FaultKind::Bound, i, at, s.tokens);
    }
  }
  return __all_sync(kWarp, hold);
}

// The index-th tile of all sequences by falling cost: a causal query tile sees tile + 1 tiles of keys, any other all of its sequence.
// kCausal: there is one tile of each cost in a sequence of at least that many. By a warp.
template <bool kCausal>
__device__ inline Place find_place(const int32_t* bounds, int sequences, int tokens, int index) {
  const int lane = threadIdx.x % 32;
  const auto tiles_of = [&](int i) { return i < sequences ? (bounds[i + 1] - bounds[i] + kTile - 1) / kTile : 0; };
  const auto costing = [&](int cost) {  // tiles of at least this cost
    int count = 0;
    for (int i = lane; i < sequences; i += 32) {
      const int tiles = tiles_of(i);
      if (tiles >= cost) count += kCausal ? tiles - cost + 1 : tiles;
    }
    return __reduce_add_sync(kWarp, count);
  };
  if (index >= costing(1)) return {0, 0, 0};
  int cost = 1, above = (tokens + kTile - 1) / kTile + 1;  // costing(cost) > index >= costing(above)
  int over = 0;                                            // costing(above)
  while (above - cost > 1) {
    const int middle = (cost + above) / 2, count = costing(middle);
    if (count > index) {
      cost = middle;
    } else {
      above = middle;
      over = count;
    }
  }
  const int rank = kCausal ? index - over : (index - over) / cost;  // of the sequence among those that have such tiles
  const int tile = kCausal ? cost - 1 : (index - over) % cost;
  int seen = 0;
  for (int i = lane;; i += 32) {
    const int tiles = tiles_of(i);
    const unsigned with = __ballot_sync(kWarp, kCausal ? tiles >= cost : tiles == cost);
    if (rank < seen + __popc(with)) {
      const int s = i - lane + __fns(with, 0, rank - seen + 1);
      return {bounds[s], bounds[s + 1] - bounds[s], tile};
    }
    seen += __popc(with);
  }
}

#endif

}  // namespace vltune::cuda::attn90
