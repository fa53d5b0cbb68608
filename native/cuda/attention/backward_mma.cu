// Attention backward by mma.sync. Two kernels that both make the weights again from the stored lse, so that every sum is one block's own,
// in its order: seven products instead of five, but no atomics, no sums in device memory and the same bits in every run.
//   key_gradients    a block passes over the queries of all heads of its group. Scores are computed transposed, keys by queries: P^T and
//                    dS^T are then the left operand of dV and dK where they are, in registers. Two warps share 32 keys: one makes P and
//                    sums dV, and gives P to the other, which makes dS and sums dK. So a warp's tiles are large enough for shared memory
//                    to keep up.
//   query_gradients  a block takes 128 queries, a warp 32 of them, and passes over the keys, as forward does.
#include <algorithm>
#include <initializer_list>

#include "mma.cuh"
#include "shape.h"

namespace vltune::cuda::attn {
namespace {

struct Args {
  const void *d_o, *q, *k, *v;
  const float *lse, *delta;
  const int32_t* bounds;
  void *dq, *dk, *dv;
  int sequences, tokens, heads, kv_heads, head_dim, causal;
  float scale;
  Fault* fault;
};

// ---- dK, dV

constexpr int kWarpKeys = 32;
constexpr int kPairs = 2;  // of warps in a block: two blocks on a multiprocessor wait less than one of four

// kQueries of a step, kStages (1 or 2) of q, dO, lse and delta.
template <int kWidth, int kQueries, int kStages>
struct KeyShared {
  static constexpr int kKeys = kPairs * kWarpKeys, kThreads = kPairs * 64;
  static constexpr int kStageRows = 2 * kQueries * TileOf<kWidth>::kRowBytes;
  static constexpr int kStage = kStageRows + 2 * kQueries * 4;
  static constexpr int kFirstStage = 2 * kKeys * TileOf<kWidth>::kRowBytes;  // after k and v
  static constexpr int kWeights = kFirstStage + kStages * kStage;            // P on its way from warp to warp
  static constexpr int kPairWeights = kWarpKeys * kQueries * 4;
  static constexpr int kBytes = kWeights + kPairs * kPairWeights;
};

// A named barrier of a pair of warps, each at its own place in the code: so not bar.sync, which wants all at one. (The one that wrote need only
// arrive; it gains nothing, and racecheck does not follow that.)
__device__ inline void pair_barrier(int pair) { asm volatile("barrier.sync %0, 64;\n" ::"r"(pair + 1) : "memory"); }

template <class T, int kWidth, int kQueries, int kStages>
__global__ void __launch_bounds__(kPairs * 64, 2) key_gradients(const Args args) {
  if constexpr (!kHasMma<T>) return;
  using Rows = TileOf<kWidth>;
  using Shared = KeyShared<kWidth, kQueries, kStages>;
  constexpr int kTall = kWarpKeys / 16;
  constexpr int kKeys = Shared::kKeys, kThreads = Shared::kThreads, kQueryBytes = Rows::bytes(kQueries);
  extern __shared__ __align__(1024) char shared[];
  let_next_start();
  const int kv_head = blockIdx.x % args.kv_heads, slot = blockIdx.x / args.kv_heads, h = args.head_dim, group = args.heads / args.kv_heads;
  Tile tile;
  if (!find_tile<kKeys>(args.bounds, args.sequences, args.tokens, slot, false, args.fault, &tile)) return;
  const int lane = threadIdx.x % 32, pair = threadIdx.x / 32 % kPairs;
  const bool makes_weights = threadIdx.x / 32 < kPairs;  // and dV; else dS and dK
  const int64_t q_stride = int64_t{args.heads} * h, kv_stride = int64_t{args.kv_heads} * h;
  const int64_t kv_at = (tile.begin + int64_t{tile.first}) * kv_stride + int64_t{kv_head} * h;
  const int length = tile.end - tile.begin, keys = min(kKeys, length - tile.first);
  const float to_base_2 = args.scale * kLog2E;
  const T *q = static_cast<const T*>(args.q), *d_o = static_cast<const T*>(args.d_o);

  const uint32_t base = shared_address(shared), stages = base + Shared::kFirstStage;
  const int first_query = args.causal ? tile.first / kQueries * kQueries : 0, steps = (length - first_query + kQueries - 1) / kQueries;
  // Steps go over the queries of the group's first head, then of the next.
  int next_head = kv_head * group, next_query = first_query;
  const auto copy_queries = [&](int stage) {
    const int64_t row = tile.begin + int64_t{next_query}, at = row * q_stride + int64_t{next_head} * h;
    const uint32_t to = stages + stage * Shared::kStage;
    const int count = length - next_query;
    copy_rows<kWidth, kQueries, kThreads>(to, q + at, q_stride, count, h);
    copy_rows<kWidth, kQueries, kThreads>(to + kQueryBytes, d_o + at, q_stride, count, h);
    if (threadIdx.x < 2 * kQueries) {
      const int i = threadIdx.x % kQueries;
      const float* from = (threadIdx.x < kQueries ? args.lse : args.delta) + int64_t{next_head} * args.tokens + row;
      copy_float_async(to + Shared::kStageRows + threadIdx.x * 4, i < count ? from + i : from, i < count);
    }
    copy_async_commit();
    next_query += kQueries;
    if (next_query >= length) {
      next_query = first_query;
      ++next_head;
    }
  };
  static_assert(2 * kQueries <= kThreads);
  copy_rows<kWidth, kKeys, kThreads>(base, static_cast<const T*>(args.k) + kv_at, kv_stride, keys, h);
  copy_rows<kWidth, kKeys, kThreads>(base + Rows::bytes(kKeys), static_cast<const T*>(args.v) + kv_at, kv_stride, keys, h);
  copy_queries(0);

  float sum[kTall][kWidth / 8][4] = {};  // of dV or dK
  const int own_rows = Rows::bytes((makes_weights ? 0 : kKeys) + pair * kWarpKeys);
  const uint32_t keys_left = left_address<kWidth>(base + own_rows);                               // k, or v
  const uint32_t queries_right = right_address<kWidth>(stages + (makes_weights ? 0 : kQueryBytes));  // q, or dO
  const uint32_t queries_left = left_address<kWidth>(stages + (makes_weights ? kQueryBytes : 0));    // dO, or q
  float4* weights = reinterpret_cast<float4*>(shared + Shared::kWeights + pair * Shared::kPairWeights) + lane;
  const int numbers_at = Shared::kFirstStage + Shared::kStageRows + (makes_weights ? 0 : kQueries * 4);  // lse, or delta
  const char* numbers = shared + numbers_at + lane % 4 * 8;
  const int pair_first = tile.first + pair * kWarpKeys;
  int q0 = first_query;
  for (int step = 0, stage = 0; step < steps * group; ++step, stage ^= kStages - 1) {
    if (kStages == 1 && step > 0) {
      __syncthreads();
      copy_queries(stage);
    }
    copy_async_wait<0>();
    __syncthreads();
    if (kStages == 2 && step + 1 < steps * group) copy_queries(stage ^ 1);
    const int own_q0 = q0;
    q0 = q0 + kQueries < length ? q0 + kQueries : first_query;
    if (args.causal && own_q0 + kQueries <= pair_first) continue;

    float p[kTall][kQueries / 8][4];
    product_nt<T, kWidth, kTall, kQueries / 16>(p, keys_left, queries_right + stage * Shared::kStage);
    if (makes_weights) {
      const bool masked = args.causal && own_q0 < pair_first + kWarpKeys - 1;
      const int apart = pair_first + lane / 4 - own_q0 - lane % 4 * 2;  // key less query, of the thread's first element
#pragma unroll
      for (int j = 0; j < kQueries / 8; ++j) {
        const float2 lse = *reinterpret_cast<const float2*>(numbers + stage * Shared::kStage + j * 32);
        const float base_2[2] = {lse.x * -kLog2E, lse.y * -kLog2E};
#pragma unroll
        for (int i = 0; i < kTall; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            p[i][j][e] = power_of_two(fmaf(p[i][j][e], to_base_2, base_2[e % 2]));
            if (masked && apart + i * 16 + e / 2 * 8 > j * 8 + e % 2) p[i][j][e] = 0;
          }
          weights[(j * kTall + i) * 32] = make_float4(p[i][j][0], p[i][j][1], p[i][j][2], p[i][j][3]);
        }
      }
      pair_barrier(pair);
    } else {
      pair_barrier(pair);
#pragma unroll
      for (int j = 0; j < kQueries / 8; ++j) {
        const float2 delta = *reinterpret_cast<const float2*>(numbers + stage * Shared::kStage + j * 32);
#pragma unroll
        for (int i = 0; i < kTall; ++i) {
          const float4 weight = weights[(j * kTall + i) * 32];
          p[i][j][0] = weight.x * (p[i][j][0] - delta.x);
          p[i][j][1] = weight.y * (p[i][j][1] - delta.y);
          p[i][j][2] = weight.z * (p[i][j][2] - delta.x);
          p[i][j][3] = weight.w * (p[i][j][3] - delta.y);
        }
      }
    }
    product_nn<T, kWidth, kTall, kQueries / 16>(sum, p, queries_left + stage * Shared::kStage);
  }
  const float by = makes_weights ? 1.0f : args.scale, factor[kTall][2] = {{by, by}, {by, by}};
  // The pair's rows of v are read by one warp only, and so are those of k.
  T* to = static_cast<T*>(makes_weights ? args.dv : args.dk) + kv_at + pair * kWarpKeys * kv_stride;
  store_rows<T, kWidth, kTall>(sum, factor, shared + own_rows, to, kv_stride, keys - pair * kWarpKeys, h);
}

// ---- dQ

constexpr int kQueryThreads = 128, kStepKeys = 32;

// kTall: matrices of 16 queries that a warp takes.
template <int kTall>
constexpr int kQueriesOf = kQueryThreads / 32 * kTall * 16;

template <int kWidth, int kTall, int kStages>
constexpr int query_shared_bytes() {
  return TileOf<kWidth>::bytes(2 * kQueriesOf<kTall> + kStages * 2 * kStepKeys);
}

template <class T, int kWidth, int kTall, int kStages>
__global__ void __launch_bounds__(kQueryThreads, 2) query_gradients(const Args args) {
  if constexpr (!kHasMma<T>) return;
  using Rows = TileOf<kWidth>;
  constexpr int kQueries = kQueriesOf<kTall>, kWarpQueries = kTall * 16;
  extern __shared__ __align__(1024) char shared[];
  const int head = blockIdx.x % args.heads, slot = blockIdx.x / args.heads, h = args.head_dim;
  Tile tile;
  if (!find_tile<kQueries>(args.bounds, args.sequences, args.tokens, slot, true, args.fault, &tile)) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = head / (args.heads / args.kv_heads);
  const int64_t q_stride = int64_t{args.heads} * h, kv_stride = int64_t{args.kv_heads} * h;
  const int64_t row = tile.begin + tile.first, at = row * q_stride + int64_t{head} * h;
  const int64_t kv_at = tile.begin * kv_stride + int64_t{kv_head} * h;
  const T *k = static_cast<const T*>(args.k) + kv_at, *v = static_cast<const T*>(args.v) + kv_at;
  const int queries = min(kQueries, tile.keys - tile.first);
  const float to_base_2 = args.scale * kLog2E;

  const uint32_t q_tile = shared_address(shared), do_tile = q_tile + Rows::bytes(kQueries), stages = do_tile + Rows::bytes(kQueries);
  constexpr int kStageBytes = Rows::bytes(2 * kStepKeys);
  const auto copy_keys = [&](int k0, int stage) {
    const uint32_t to = stages + stage * kStageBytes;
    copy_rows<kWidth, kStepKeys, kQueryThreads>(to, k + k0 * kv_stride, kv_stride, tile.keys - k0, h);
    copy_rows<kWidth, kStepKeys, kQueryThreads>(to + Rows::bytes(kStepKeys), v + k0 * kv_stride, kv_stride, tile.keys - k0, h);
    copy_async_commit();
  };
  copy_rows<kWidth, kQueries, kQueryThreads>(q_tile, static_cast<const T*>(args.q) + at, q_stride, queries, h);
  copy_rows<kWidth, kQueries, kQueryThreads>(do_tile, static_cast<const T*>(args.d_o) + at, q_stride, queries, h);
  copy_keys(0, 0);

  const int own = queries - warp * kWarpQueries;
  float dq[kTall][kWidth / 8][4] = {}, lse[kTall][2], delta[kTall][2];
#pragma unroll
  for (int i = 0; i < kTall; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = i * 16 + half * 8 + lane / 4;
      const int64_t from = int64_t{head} * args.tokens + row + warp * kWarpQueries + r;
      lse[i][half] = r < own ? args.lse[from] * kLog2E : 0;
      delta[i][half] = r < own ? args.delta[from] : 0;
    }
  const uint32_t q_address = left_address<kWidth>(q_tile + Rows::bytes(warp * kWarpQueries));
  const uint32_t do_address = q_address + Rows::bytes(kQueries);
  const uint32_t right = right_address<kWidth>(stages), left = left_address<kWidth>(stages);
  const int last_key = args.causal ? tile.first + queries : tile.keys;
  const int warp_first = tile.first + warp * kWarpQueries;
  const int all_see = args.causal ? min(tile.keys, warp_first + 1) : tile.keys;
  const int some_see = args.causal ? min(tile.keys, warp_first + kWarpQueries) : tile.keys;

  for (int k0 = 0, stage = 0; k0 < last_key; k0 += kStepKeys, stage ^= kStages - 1) {
    if (kStages == 1 && k0 > 0) {
      __syncthreads();
      copy_keys(k0, stage);
    }
    copy_async_wait<0>();
    __syncthreads();
    if (kStages == 2 && k0 + kStepKeys < last_key) copy_keys(k0 + kStepKeys, stage ^ 1);
    if (k0 >= some_see) continue;

    const int stage_at = stage * kStageBytes;
    float p[kTall][kStepKeys / 8][4], ds[kTall][kStepKeys / 8][4];
    product_nt<T, kWidth, kTall, kStepKeys / 16>(p, q_address, right + stage_at);
    product_nt<T, kWidth, kTall, kStepKeys / 16>(ds, do_address, right + stage_at + Rows::bytes(kStepKeys));
    const bool masked = k0 + kStepKeys > all_see;
#pragma unroll
    for (int i = 0; i < kTall; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = warp_first + i * 16 + half * 8 + lane / 4;
        const int seen = (args.causal ? min(tile.keys, query + 1) : tile.keys) - k0 - lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < kStepKeys / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float weight = power_of_two(fmaf(p[i][j][2 * half + e], to_base_2, -lse[i][half]));
            if (masked && j * 8 + e >= seen) weight = 0;
            ds[i][j][2 * half + e] = weight * (ds[i][j][2 * half + e] - delta[i][half]);
          }
      }
    product_nn<T, kWidth, kTall, kStepKeys / 16>(dq, ds, left + stage_at);
  }
  float scale[kTall][2];
#pragma unroll
  for (int i = 0; i < kTall; ++i) scale[i][0] = scale[i][1] = args.scale;
  char* rows = shared + Rows::bytes(warp * kWarpQueries);
  store_rows<T, kWidth, kTall>(dq, scale, rows, static_cast<T*>(args.dq) + at + warp * kWarpQueries * q_stride, q_stride, own, h);
  wait_for_previous();  // so that what follows on the stream follows both
}

// -----------------------------------------------------------------------------------------------------------------------------------------

template <class T, int kWidth, int kStepQueries, int kStages>
void launch_key_gradients(const Args& args, cudaStream_t stream) {
  using Shared = KeyShared<kWidth, kStepQueries, kStages>;
  const auto kernel = key_gradients<T, kWidth, kStepQueries, kStages>;
  VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shared::kBytes));
  const int64_t tiles = most_tiles(args.tokens, args.sequences, Shared::kKeys);
  kernel<<<static_cast<unsigned>(tiles * args.kv_heads), Shared::kThreads, Shared::kBytes, stream>>>(args);
}

// The kernel needs nothing of the one before it, whose last blocks leave multiprocessors to it.
template <class T, int kWidth, int kTall, int kStages>
void launch_query_gradients(const Args& args, cudaStream_t stream) {
  constexpr int kBytes = query_shared_bytes<kWidth, kTall, kStages>();
  const auto kernel = query_gradients<T, kWidth, kTall, kStages>;
  VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t tiles = most_tiles(args.tokens, args.sequences, kQueriesOf<kTall>);
  launch_early(kernel, args, tiles * args.heads, kQueryThreads, kBytes, stream);
}

template <class T, int kWidth>
void launch(const OpCall& call, const Args& args) {
  const cudaStream_t stream = stream_of(call);
  if constexpr (std::is_same_v<T, F16> && kWidth == 128) {
    if (device().capability() < 80) {  // a block of sm_75 has 64 KiB of shared memory
      launch_key_gradients<T, kWidth, 32, 1>(args, stream);
      check_launch(call);
      launch_query_gradients<T, kWidth, 1, 1>(args, stream);
      return;
    }
  }
  // The large tiles where a block can have the shared memory for them (not on sm_75, sm_86, sm_89 and sm_120).
  const bool has_room = device().shared_bytes >= static_cast<size_t>(KeyShared<kWidth, 64, 2>::kBytes);
  (has_room ? launch_key_gradients<T, kWidth, 64, 2> : launch_key_gradients<T, kWidth, 32, 2>)(args, stream);
  check_launch(call);
  launch_query_gradients<T, kWidth, 2, 2>(args, stream);
}

template <class T>
void launch_of_width(const OpCall& call, const Args& args) {
  const int h = args.head_dim;
  if (h <= 32) launch<T, 32>(call, args);
  else if (h <= 64) launch<T, 64>(call, args);
  else if (h <= 96 && device().capability() >= 80) launch<T, 96>(call, args);
  else launch<T, 128>(call, args);
}

}  // namespace

bool backward_mma(const OpCall& call, const Backward& pass) {
  const Shape& s = pass.shape;
  const auto aligned = [](std::initializer_list<const void*> pointers) {
    return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
  };
  if (!takes_mma(s.dtype, s.head_dim) || !aligned({pass.d_o, pass.q, pass.k, pass.v, pass.dq, pass.dk, pass.dv})) return false;
  row_sums(call, pass);
  const Args args{pass.d_o, pass.q, pass.k, pass.v, pass.lse, pass.delta, pass.bounds, pass.dq, pass.dk, pass.dv,
                  static_cast<int>(pass.sequences), static_cast<int>(s.tokens), static_cast<int>(s.heads), static_cast<int>(s.kv_heads),
                  s.head_dim, s.causal, s.scale, call.fault};
  (s.dtype == DType::F16 ? launch_of_width<F16> : launch_of_width<Bf16>)(call, args);
  return true;
}

}  // namespace vltune::cuda::attn
