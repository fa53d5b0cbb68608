// The stretches of decode.cu by mma.sync: 16 queries of a group at once, so that a block's few or many queries cost
// one reading. Every warp takes 16 keys at a time and has a softmax and sums of its own; it copies its keys and values to shared memory
// itself, two steps ahead, and waits for no other warp before the end.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "decode.cuh"
#include "mma.cuh"

namespace vltune::cuda::attn {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kKeys = 16, kStages = 3;

template <int kWidth>
constexpr int shared_bytes() {
  return TileOf<kWidth>::bytes(kWarps * kStages * 2 * kKeys);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) stretch_kernel(const DecodeArgs args) {
  if constexpr (!kHasMma<T>) return;
  using Rows = TileOf<kWidth>;
  extern __shared__ __align__(1024) char shared[];
  __shared__ float2 shared_states[kWarps][kMatrixRows];
  let_next_start();
  const int kv_head = blockIdx.x % args.kv_heads, rest = blockIdx.x / args.kv_heads;
  const int row_block = rest % args.row_blocks, stretch = rest / args.row_blocks;
  int past;
  if (!room(args.past, args.tokens, args.capacity, &past)) {
    if (blockIdx.x == 0 && threadIdx.x == 0) report_fault(args.fault, FaultKind::CacheFull, 0, past, args.capacity - args.tokens);
    return;
  }
  const int keys = past + args.tokens, own = stretch_keys(keys, args.stretches);
  const int64_t begin64 = int64_t{stretch} * own;
  if (begin64 >= keys) return;
  const int begin = static_cast<int>(begin64), end = static_cast<int>(min(begin64 + own, int64_t{keys}));
  const int h = args.head_dim, group = args.heads / args.kv_heads, rows = args.tokens * group;
  const int64_t stride = int64_t{args.kv_heads} * h, kv_at = int64_t{kv_head} * h;
  const T *k = static_cast<const T*>(args.k) + kv_at, *v = static_cast<const T*>(args.v) + kv_at;
  T *k_cache = static_cast<T*>(args.k_cache) + kv_at, *v_cache = static_cast<T*>(args.v_cache) + kv_at;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  constexpr int kTileBytes = Rows::bytes(kKeys), kStageBytes = 2 * kTileBytes;
  const uint32_t stages = shared_address(shared) + warp * kStages * kStageBytes;
  const auto copy_keys = [&](int first, int stage) {
#pragma unroll
    for (int i = 0; i < kKeys * Rows::kUnits / 32; ++i) {
      const int copy = i * 32 + lane, row = copy / Rows::kUnits, unit = copy % Rows::kUnits, key = first + row;
      const bool wanted = key < end && unit * 8 < h;
      const bool is_new = key >= past;
      const int64_t at = wanted ? (is_new ? key - past : key) * stride + unit * 8 : 0;
      const uint32_t to = stages + stage * kStageBytes + Rows::at(row, unit);
      copy_async_16(to, (is_new ? k : k_cache) + at, wanted ? 16 : 0);
      copy_async_16(to + kTileBytes, (is_new ? v : v_cache) + at, wanted ? 16 : 0);
    }
  };
  constexpr int kStep = kWarps * kKeys;
  const int warp_begin = begin + warp * kKeys;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (warp_begin + s * kStep < end) copy_keys(warp_begin + s * kStep, s);
    copy_async_commit();
  }

  // New rows of this stretch are written to the cache by its first block, and read where they come from by all.
  if (row_block == 0)
    for (int key = max(begin, past); key < end; ++key)
      for (int d = threadIdx.x; d < h; d += kThreads) {
        k_cache[key * stride + d] = k[(key - past) * stride + d];
        v_cache[key * stride + d] = v[(key - past) * stride + d];
      }

  // Queries as left operands, straight from device memory.
  uint32_t q[kWidth / 16][4];
  int last[2];  // key that the query sees
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = row_block * kMatrixRows + half * 8 + lane / 4, token = row / group, head = kv_head * group + row % group;
    last[half] = past + token;
    const T* from = static_cast<const T*>(args.q) + (int64_t{token} * args.heads + head) * h + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kWidth / 16; ++i)
#pragma unroll
      for (int right = 0; right < 2; ++right) {
        const int column = i * 16 + right * 8;
        q[i][right * 2 + half] = row < rows && column < h ? *reinterpret_cast<const uint32_t*>(from + column) : 0;
      }
  }
  const float to_base_2 = args.scale * kLog2E;
  float o[1][kWidth / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const uint32_t k_address = right_address<kWidth>(stages), v_address = left_address<kWidth>(stages + kTileBytes);

  int stage = 0, next_stage = kStages - 1;
  for (int first = warp_begin; first < end; first += kStep) {
    copy_async_wait<kStages - 2>();
    __syncwarp();
    if (first + (kStages - 1) * kStep < end) copy_keys(first + (kStages - 1) * kStep, next_stage);
    copy_async_commit();
    float p[1][2][4] = {};
#pragma unroll
    for (int i = 0; i < kWidth / 16; ++i) {
      uint32_t right[4];
      load_matrices(right, (k_address + stage * kStageBytes) ^ (i * 32));
      mma<T>(p[0][0], q[i], right[0], right[1]);
      mma<T>(p[0][1], q[i], right[2], right[3]);
    }
    const bool masked = first + kKeys > min(end, past + 1);
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = -INFINITY;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = p[0][j][2 * half + e];
          const int key = first + j * 8 + lane % 4 * 2 + e;
          score = masked && (key >= end || key > last[half]) ? -INFINITY : score * to_base_2;
          now = fmaxf(now, score);
        }
      now = fmaxf(now, __shfl_xor_sync(kWarp, now, 1));
      now = fmaxf(now, __shfl_xor_sync(kWarp, now, 2));
      now = fmaxf(most[half], now);
      const float base = now == -INFINITY ? 0.0f : now;  // nothing seen yet
      shrink[half] = power_of_two(most[half] - base);
      most[half] = now;
      float total = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& weight = p[0][j][2 * half + e];
          weight = power_of_two(weight - base);
          total += weight;
        }
      sum[half] = fmaf(sum[half], shrink[half], total);  // of this thread's columns
    }
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) o[0][j][e] *= shrink[e / 2];
    product_nn<T, kWidth, 1, 1>(o, p, v_address + stage * kStageBytes);
    __syncwarp();
    stage = stage + 1 == kStages ? 0 : stage + 1;
    next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
  }

  // The warps together, in their order; each leaves its sums where its stages were.
  copy_async_wait<0>();
  __syncwarp();
  constexpr int kSumStride = kWidth + 4;
  static_assert(kMatrixRows * kSumStride * 4 <= kStages * kStageBytes);
  float* sums = reinterpret_cast<float*>(shared + warp * kStages * kStageBytes);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(kWarp, sum[half], 1);
    sum[half] += __shfl_xor_sync(kWarp, sum[half], 2);
    const int r = half * 8 + lane / 4;
    if (lane % 4 == 0) shared_states[warp][r] = make_float2(most[half], sum[half]);
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j)
      *reinterpret_cast<float2*>(sums + r * kSumStride + j * 8 + lane % 4 * 2) = make_float2(o[0][j][2 * half], o[0][j][2 * half + 1]);
  }
  __syncthreads();
  const int own_rows = min(kMatrixRows, rows - row_block * kMatrixRows);
  for (int i = threadIdx.x; i < own_rows * h; i += kThreads) {
    const int r = i / h, d = i % h, row = row_block * kMatrixRows + r;
    float now = shared_states[0][r].x, total = 0, value = 0;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) now = fmaxf(now, shared_states[w][r].x);
    const float base = now == -INFINITY ? 0.0f : now;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float shrink = power_of_two(shared_states[w][r].x - base);
      total = fmaf(shrink, shared_states[w][r].y, total);
      value = fmaf(shrink, reinterpret_cast<const float*>(shared + w * kStages * kStageBytes)[r * kSumStride + d], value);
    }
    const int64_t at = (int64_t{stretch} * args.tokens + row / group) * args.heads + kv_head * group + row % group;
    args.sums[at * h + d] = value;
    if (d == 0) args.states[at] = make_float2(now, total);
  }
}

// -----------------------------------------------------------------------------------------------------------------------------------------

template <class T, int kWidth>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  constexpr int kBytes = shared_bytes<kWidth>();
  const auto kernel = stretch_kernel<T, kWidth>;
  VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  kernel<<<static_cast<unsigned>(args.kv_heads * args.row_blocks * args.stretches), kThreads, kBytes, stream>>>(args);
}

template <class T>
auto launch_of_width(int h) {
  return h <= 32 ? launch<T, 32> : h <= 64 ? launch<T, 64> : h <= 96 ? launch<T, 96> : launch<T, 128>;
}

}  // namespace

bool takes_stretches_mma(const Cached& pass) {
  const auto aligned = [](std::initializer_list<const void*> pointers) {
    return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
  };
  // A block of sm_75 has no room for the stages of wide heads.
  const bool has_room = pass.shape.head_dim <= 64 || device().capability() >= 80;
  return takes_mma(pass.shape.dtype, pass.shape.head_dim) && has_room &&
         aligned({pass.q, pass.k, pass.v, pass.k_cache, pass.v_cache});
}

void stretches_mma(const OpCall& call, const DecodeArgs& args, DType dtype) {
  const auto launch = dtype == DType::F16 ? launch_of_width<F16>(args.head_dim) : launch_of_width<Bf16>(args.head_dim);
  launch(args, stream_of(call));
  check_launch(call);
}

}  // namespace vltune::cuda::attn
