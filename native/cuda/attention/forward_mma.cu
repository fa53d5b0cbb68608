// Attention forward by mma.sync, after FlashAttention-2 (Dao 2023): a block takes 128 queries of a head, a warp 32 of them, or half as many
// where there are too few for the device; keys and values pass through shared memory 64 at a time, the next copied while these are computed
// with. Softmax runs to base 2, with log2(e) inside the scale.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "mma.cuh"
#include "shape.h"

namespace vltune::cuda::attn {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kKeys = 64;

struct Args {
  const void *q, *k, *v;
  void* o;
  float* lse;
  const int32_t *bounds, *past;
  int64_t capacity;
  int sequences, tokens, heads, kv_heads, head_dim, causal;
  float scale;
  Fault* fault;
};

// kTall: matrices of 16 queries that a warp takes.
template <int kTall>
constexpr int kQueriesOf = kWarps * kTall * 16;

// kStages: of keys and values in shared memory. With one they are copied when all warps are done with those before.
template <class T, int kWidth, int kTall, int kStages>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(const Args args) {
  if constexpr (!kHasMma<T>) return;
  using Rows = TileOf<kWidth>;
  constexpr int kQueries = kQueriesOf<kTall>, kWarpRows = kTall * 16;
  extern __shared__ __align__(1024) char shared[];
  const int head = blockIdx.x % args.heads, slot = blockIdx.x / args.heads, h = args.head_dim;
  Tile tile;
  if (args.bounds ? !find_tile<kQueries>(args.bounds, args.sequences, args.tokens, slot, true, args.fault, &tile)
                  : !find_cached_tile<kQueries>(args.past, args.capacity, args.tokens, slot, &tile))
    return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = head / (args.heads / args.kv_heads);
  const int64_t q_stride = int64_t{args.heads} * h, kv_stride = int64_t{args.kv_heads} * h;
  const int64_t row = tile.begin + tile.first, q_at = row * q_stride + int64_t{head} * h;
  const int queries = min(kQueries, tile.end - tile.begin - tile.first);
  const int64_t kv_at = tile.key_begin * kv_stride + int64_t{kv_head} * h;
  const T *q = static_cast<const T*>(args.q) + q_at, *k = static_cast<const T*>(args.k) + kv_at, *v = static_cast<const T*>(args.v) + kv_at;
  const float to_base_2 = args.scale * kLog2E;

  const uint32_t q_tile = shared_address(shared), first_stage = q_tile + Rows::bytes(kQueries);
  constexpr int kStageBytes = Rows::bytes(2 * kKeys);
  const auto copy_keys = [&](int k0, int stage) {
    const uint32_t to = first_stage + stage * kStageBytes;
    copy_rows<kWidth, kKeys, kThreads>(to, k + k0 * kv_stride, kv_stride, tile.keys - k0, h);
    copy_rows<kWidth, kKeys, kThreads>(to + Rows::bytes(kKeys), v + k0 * kv_stride, kv_stride, tile.keys - k0, h);
    copy_async_commit();
  };
  copy_rows<kWidth, kQueries, kThreads>(q_tile, q, q_stride, queries, h);
  copy_keys(0, 0);

  float o[kTall][kWidth / 8][4] = {}, most[kTall][2], sum[kTall][2];
#pragma unroll
  for (int i = 0; i < kTall; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      most[i][half] = -INFINITY;
      sum[i][half] = 0;
    }
  const uint32_t q_address = left_address<kWidth>(q_tile + Rows::bytes(warp * kWarpRows));
  const uint32_t k_address = right_address<kWidth>(first_stage), v_address = left_address<kWidth>(first_stage + Rows::bytes(kKeys));
  const int last_key = args.causal ? min(tile.keys, tile.first + queries + tile.offset) : tile.keys;
  // Keys that the warp's first and last query see.
  const int warp_first = tile.first + warp * kWarpRows;
  const int all_see = args.causal ? min(tile.keys, warp_first + tile.offset + 1) : tile.keys;
  const int some_see = args.causal ? min(tile.keys, warp_first + kWarpRows + tile.offset) : tile.keys;

  for (int k0 = 0, stage = 0; k0 < last_key; k0 += kKeys, stage ^= kStages - 1) {
    if (kStages == 1 && k0 > 0) {
      __syncthreads();
      copy_keys(k0, stage);
    }
    copy_async_wait<0>();
    __syncthreads();
    if (kStages == 2 && k0 + kKeys < last_key) copy_keys(k0 + kKeys, stage ^ 1);
    if (k0 >= some_see) continue;

    float p[kTall][kKeys / 8][4];
    product_nt<T, kWidth, kTall, kKeys / 16>(p, q_address, k_address + stage * kStageBytes);
    if (k0 + kKeys > all_see) {
#pragma unroll
      for (int i = 0; i < kTall; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int query = warp_first + i * 16 + half * 8 + lane / 4;
          const int seen = (args.causal ? min(tile.keys, query + tile.offset + 1) : tile.keys) - k0 - lane % 4 * 2;
#pragma unroll
          for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              if (j * 8 + e >= seen) p[i][j][2 * half + e] = -INFINITY;
        }
    }
    float shrink[kTall][2];
    bool shrinks = false;
#pragma unroll
    for (int i = 0; i < kTall; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float now = p[i][0][2 * half];
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) now = fmaxf(now, fmaxf(p[i][j][2 * half], p[i][j][2 * half + 1]));
        now = fmaxf(now, __shfl_xor_sync(kWarp, now, 1));
        now = fmaxf(now, __shfl_xor_sync(kWarp, now, 2));
        now = fmaxf(most[i][half], now * to_base_2);
        shrink[i][half] = power_of_two(most[i][half] - now);
        shrinks |= most[i][half] != now;
        most[i][half] = now;
        float total = 0;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = p[i][j][2 * half + e];
            weight = power_of_two(fmaf(weight, to_base_2, -now));
            total += weight;
          }
        sum[i][half] = fmaf(sum[i][half], shrink[i][half], total);  // of this thread's columns
      }
    if (__any_sync(kWarp, shrinks)) {
#pragma unroll
      for (int i = 0; i < kTall; ++i)
#pragma unroll
        for (int j = 0; j < kWidth / 8; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) o[i][j][e] *= shrink[i][e / 2];
    }
    product_nn<T, kWidth, kTall, kKeys / 16>(o, p, v_address + stage * kStageBytes);
  }

  const int own = queries - warp * kWarpRows;  // of the warp's rows, those that are there
#pragma unroll
  for (int i = 0; i < kTall; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& total = sum[i][half];
      total += __shfl_xor_sync(kWarp, total, 1);
      total += __shfl_xor_sync(kWarp, total, 2);
      const int r = i * 16 + half * 8 + lane / 4;
      if (args.lse && lane % 4 == 0 && r < own)
        args.lse[int64_t{head} * args.tokens + row + warp * kWarpRows + r] = most[i][half] * kLn2 + logf(total);
      total = 1.0f / total;
    }
  T* to = static_cast<T*>(args.o) + q_at + warp * kWarpRows * q_stride;
  store_rows<T, kWidth, kTall>(o, sum, shared + Rows::bytes(warp * kWarpRows), to, q_stride, own, h);
}

// -----------------------------------------------------------------------------------------------------------------------------------------

template <class T, int kWidth, int kTall, int kStages>
void launch(const Args& args, int64_t tiles, cudaStream_t stream) {
  constexpr int kBytes = TileOf<kWidth>::bytes(kQueriesOf<kTall> + kStages * 2 * kKeys);
  const auto kernel = forward_kernel<T, kWidth, kTall, kStages>;
  VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  kernel<<<static_cast<unsigned>(tiles * args.heads), kThreads, kBytes, stream>>>(args);
}

template <int kTall>
int64_t tiles_of(const Forward& pass) {
  constexpr int kQueries = kQueriesOf<kTall>;
  return pass.bounds ? most_tiles(pass.shape.tokens, pass.sequences, kQueries) : (pass.shape.tokens + kQueries - 1) / kQueries;
}

template <class T, int kTall>
auto launch_of_width(int h) {
  if constexpr (std::is_same_v<T, F16>) {
    // A block of sm_75 has 64 KiB of shared memory: no room for the next keys beside these.
    if (h > 64 && device().capability() < 80) return launch<T, 128, kTall, 1>;
  }
  return h <= 32   ? launch<T, 32, kTall, 2>
         : h <= 64 ? launch<T, 64, kTall, 2>
         : h <= 96 ? launch<T, 96, kTall, 2>
                   : launch<T, 128, kTall, 2>;
}

template <class T>
void launch_of(const OpCall& call, const Forward& pass, const Args& args) {
  // Large tiles read less, small ones occupy more of the device.
  const bool is_few = tiles_of<2>(pass) * args.heads < 3 * device().multiprocessors / 2;
  if (is_few) launch_of_width<T, 1>(args.head_dim)(args, tiles_of<1>(pass), stream_of(call));
  else launch_of_width<T, 2>(args.head_dim)(args, tiles_of<2>(pass), stream_of(call));
  check_launch(call);
}

}  // namespace

bool forward_mma(const OpCall& call, const Forward& pass) {
  const Shape& s = pass.shape;
  const auto aligned = [](std::initializer_list<const void*> pointers) {
    return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
  };
  if (!takes_mma(s.dtype, s.head_dim) || !aligned({pass.q, pass.k, pass.v, pass.o})) return false;
  const Args args{pass.q, pass.k, pass.v, pass.o, pass.lse, pass.bounds, pass.past, pass.capacity, static_cast<int>(pass.sequences),
                  static_cast<int>(s.tokens), static_cast<int>(s.heads), static_cast<int>(s.kv_heads), s.head_dim, s.causal, s.scale,
                  call.fault};
  (s.dtype == DType::F16 ? launch_of<F16> : launch_of<Bf16>)(call, pass, args);
  return true;
}

}  // namespace vltune::cuda::attn
