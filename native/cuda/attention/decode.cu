// A few new tokens against a long cache, which is a matter of reading the cache once. Blocks take stretches of the cache of one key/value
// head, and read it for all queries of that head's group; a second kernel puts the stretches together in their order. How many stretches
// there are is fixed by the shapes; how long they are follows from `past`, so that the same past gives the same bits.
#include <algorithm>
#include <cmath>

#include "decode.cuh"

namespace vltune::cuda::attn {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kMostRows = 4;           // queries that share a block's reading
constexpr int64_t kBlocks = 528;       // wanted on a device, so that it has enough reads in flight
constexpr int64_t kMatrixBlocks = 264; // and of those that use the matrix units, which have more each

template <class D, bool of_vectors>
struct Vector {
  static constexpr int kSize = 16 / sizeof(D);
  uint4 bits;

  __device__ void fetch(const D* row, int column, int h) {
    bits = make_uint4(0, 0, 0, 0);
    if constexpr (of_vectors) {
      if (column < h) bits = *reinterpret_cast<const uint4*>(row + column);
    } else {
      D* elements = reinterpret_cast<D*>(&bits);
#pragma unroll
      for (int i = 0; i < kSize; ++i)
        if (column + i < h) elements[i] = row[column + i];
    }
  }
  __device__ float operator[](int i) const {
    return to_float(reinterpret_cast<const D*>(&bits)[i]);
  }
};

// kLanes lanes hold a row of a head, kVectors vectors of 16 bytes each; kRows queries.
template <class D, int kLanes, int kVectors, int kRows, bool of_vectors>
__global__ void __launch_bounds__(kThreads) stretch_kernel(const DecodeArgs args) {
  constexpr int kSize = Vector<D, of_vectors>::kSize, kWide = kVectors * kSize;  // elements of a lane
  constexpr int kWays = kThreads / kLanes;                            // keys at once
  constexpr int kBatch = kRows * kVectors <= 2 ? 8 : 4;               // keys of a lane on the way at once
  __shared__ float shared_sums[kWarps][kRows][kLanes * kWide];
  __shared__ float2 shared_states[kWarps][kRows];

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
  const D *k = static_cast<const D*>(args.k) + kv_at, *v = static_cast<const D*>(args.v) + kv_at;
  D *k_cache = static_cast<D*>(args.k_cache) + kv_at, *v_cache = static_cast<D*>(args.v_cache) + kv_at;

  // New rows of this stretch are written to the cache by its first block, and read where they come from by all.
  if (row_block == 0)
    for (int key = max(begin, past); key < end; ++key)
      for (int d = threadIdx.x; d < h; d += kThreads) {
        k_cache[key * stride + d] = k[(key - past) * stride + d];
        v_cache[key * stride + d] = v[(key - past) * stride + d];
      }

  const int lane = threadIdx.x % kLanes, way = threadIdx.x / kLanes;
  float q[kRows][kWide], o[kRows][kWide], most[kRows], sum[kRows];
  int last[kRows];  // key that the query sees
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = min(row_block * kRows + r, rows - 1), token = row / group, head = kv_head * group + row % group;
    last[r] = past + token;
    most[r] = -INFINITY;
    sum[r] = 0;
    const D* from = static_cast<const D*>(args.q) + (int64_t{token} * args.heads + head) * h;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      Vector<D, of_vectors> vector;
      vector.fetch(from, (i * kLanes + lane) * kSize, h);
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        q[r][i * kSize + e] = vector[e] * (args.scale * kLog2E);
        o[r][i * kSize + e] = 0;
      }
    }
  }

  for (int first = begin + way; first - way < end; first += kWays * kBatch) {
    Vector<D, of_vectors> key_rows[kBatch][kVectors], value_rows[kBatch][kVectors];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int key = min(first + b * kWays, end - 1);
      const D* row = key < past ? k_cache + key * stride : k + (key - past) * stride;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) key_rows[b][i].fetch(row, (i * kLanes + lane) * kSize, h);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int key = min(first + b * kWays, end - 1);
      const D* row = key < past ? v_cache + key * stride : v + (key - past) * stride;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) value_rows[b][i].fetch(row, (i * kLanes + lane) * kSize, h);
    }
    float p[kRows][kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < kVectors; ++i)
#pragma unroll
          for (int e = 0; e < kSize; ++e) dot = fmaf(q[r][i * kSize + e], key_rows[b][i][e], dot);
        p[r][b] = dot;
      }
#pragma unroll
    for (int apart = kLanes / 2; apart > 0; apart /= 2)
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
#pragma unroll
        for (int r = 0; r < kRows; ++r) p[r][b] += __shfl_xor_sync(kWarp, p[r][b], apart);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float now = most[r];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int key = first + b * kWays;
        if (key >= end || key > last[r]) p[r][b] = -INFINITY;
        now = fmaxf(now, p[r][b]);
      }
      const float base = now == -INFINITY ? 0.0f : now;  // nothing seen yet
      const float shrink = exp2f(most[r] - base);
      most[r] = now;
      sum[r] *= shrink;
#pragma unroll
      for (int i = 0; i < kWide; ++i) o[r][i] *= shrink;
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        p[r][b] = exp2f(p[r][b] - base);
        sum[r] += p[r][b];
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
#pragma unroll
        for (int e = 0; e < kSize; ++e) {
          const float value = value_rows[b][i][e];
#pragma unroll
          for (int r = 0; r < kRows; ++r) o[r][i * kSize + e] = fmaf(p[r][b], value, o[r][i * kSize + e]);
        }
  }

  // The ways of a warp, then the warps.
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float now = most[r];
#pragma unroll
    for (int apart = kLanes; apart < 32; apart *= 2) now = fmaxf(now, __shfl_xor_sync(kWarp, now, apart));
    const float shrink = now == -INFINITY ? 0.0f : exp2f(most[r] - now);
    sum[r] *= shrink;
#pragma unroll
    for (int apart = kLanes; apart < 32; apart *= 2) sum[r] += __shfl_xor_sync(kWarp, sum[r], apart);
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      o[r][i] *= shrink;
#pragma unroll
      for (int apart = kLanes; apart < 32; apart *= 2) o[r][i] += __shfl_xor_sync(kWarp, o[r][i], apart);
    }
    if (threadIdx.x % 32 < kLanes) {
#pragma unroll
      for (int i = 0; i < kWide; ++i) shared_sums[warp][r][(i / kSize * kLanes + lane) * kSize + i % kSize] = o[r][i];
      if (lane == 0) shared_states[warp][r] = make_float2(now, sum[r]);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * h; i += kThreads) {
    const int r = i / h, d = i % h, row = row_block * kRows + r;
    if (row >= rows) break;
    float now = shared_states[0][r].x, total = 0, value = 0;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) now = fmaxf(now, shared_states[w][r].x);
    const float base = now == -INFINITY ? 0.0f : now;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float shrink = exp2f(shared_states[w][r].x - base);
      total = fmaf(shrink, shared_states[w][r].y, total);
      value = fmaf(shrink, shared_sums[w][r][d], value);
    }
    const int64_t at = (int64_t{stretch} * args.tokens + row / group) * args.heads + kv_head * group + row % group;
    args.sums[at * h + d] = value;
    if (d == 0) args.states[at] = make_float2(now, total);
  }
}

// A block for each query and head; a warp takes every kCombineWarps-th stretch, kAtOnce of them at a time.
constexpr int kCombineWarps = 8, kCombineThreads = kCombineWarps * 32, kAtOnce = 4;

template <class D, int kWide>  // head_dim <= 32 kWide
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(const DecodeArgs args) {
  __shared__ float shared_sums[kCombineWarps][kWide * 32];
  __shared__ float shared_most[kCombineWarps], shared_total[kCombineWarps];
  const int h = args.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t at = blockIdx.x, apart = int64_t{args.tokens} * args.heads;
  wait_for_previous();
  int past;
  if (!room(args.past, args.tokens, args.capacity, &past)) return;
  const int keys = past + args.tokens, own = stretch_keys(keys, args.stretches), count = (keys + own - 1) / own;

  float most = -INFINITY, total = 0, o[kWide] = {};
  for (int first = warp; first < count; first += kCombineWarps * kAtOnce) {
    float2 states[kAtOnce];
    float parts[kAtOnce][kWide];
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int stretch = first + s * kCombineWarps;
      const bool there = stretch < count;
      const int64_t from = stretch * apart + at;
      states[s] = there ? args.states[from] : make_float2(-INFINITY, 0);
#pragma unroll
      for (int i = 0; i < kWide; ++i) parts[s][i] = there && i * 32 + lane < h ? args.sums[from * h + i * 32 + lane] : 0.0f;
    }
    float now = most;
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) now = fmaxf(now, states[s].x);
    const float base = now == -INFINITY ? 0.0f : now, shrink = exp2f(most - base);
    most = now;
    total *= shrink;
#pragma unroll
    for (int i = 0; i < kWide; ++i) o[i] *= shrink;
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const float weight = exp2f(states[s].x - base);
      total = fmaf(weight, states[s].y, total);
#pragma unroll
      for (int i = 0; i < kWide; ++i) o[i] = fmaf(weight, parts[s][i], o[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kWide; ++i) shared_sums[warp][i * 32 + lane] = o[i];
  if (lane == 0) {
    shared_most[warp] = most;
    shared_total[warp] = total;
  }
  __syncthreads();
  for (int d = threadIdx.x; d < h; d += kCombineThreads) {
    float now = -INFINITY, sum = 0, value = 0;
#pragma unroll
    for (int w = 0; w < kCombineWarps; ++w) now = fmaxf(now, shared_most[w]);
#pragma unroll
    for (int w = 0; w < kCombineWarps; ++w) {
      const float weight = exp2f(shared_most[w] - now);
      sum = fmaf(weight, shared_total[w], sum);
      value = fmaf(weight, shared_sums[w][d], value);
    }
    static_cast<D*>(args.o)[at * h + d] = from_float<D>(value / sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) append_kernel(const T* k, const T* v, T* k_cache, T* v_cache, const int32_t* past, int tokens,
                                                          int64_t capacity, int64_t stride, Fault* fault) {
  int before;
  if (!room(past, tokens, capacity, &before)) {
    if (blockIdx.x == 0 && threadIdx.x == 0) report_fault(fault, FaultKind::CacheFull, 0, before, capacity - tokens);
    return;
  }
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= tokens * stride) return;
  k_cache[before * stride + i] = k[i];
  v_cache[before * stride + i] = v[i];
}

// -----------------------------------------------------------------------------------------------------------------------------------------

bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
}

struct Split {
  int rows, row_blocks, stretches;  // queries of a block, blocks for the queries of a group, blocks along the cache
};

Split split_of(const Shape& s, int64_t tokens, int64_t capacity, bool by_matrices) {
  const int64_t queries = tokens * s.group();
  const int rows = by_matrices ? kMatrixRows : queries >= 3 ? kMostRows : static_cast<int>(queries);
  const int64_t row_blocks = (queries + rows - 1) / rows, blocks = by_matrices ? kMatrixBlocks : kBlocks;
  const int64_t most = (capacity + kLeastKeys - 1) / kLeastKeys;
  const int64_t stretches = std::clamp<int64_t>(blocks / (s.kv_heads * row_blocks), 1, std::max<int64_t>(most, 1));
  return {rows, static_cast<int>(row_blocks), static_cast<int>(stretches)};
}

size_t sums_bytes(const Shape& s, int64_t tokens, const Split& split) {
  const size_t bytes = sizeof(float) * static_cast<size_t>(split.stretches * tokens * s.heads * s.head_dim);
  return (bytes + 255) / 256 * 256;
}

template <class D, int kLanes, int kVectors>
void launch_stretches(const DecodeArgs& args, int rows, bool of_vectors, cudaStream_t stream) {
  const auto kernel = !of_vectors ? stretch_kernel<D, kLanes, kVectors, kMostRows, false>
                      : rows == 1 ? stretch_kernel<D, kLanes, kVectors, 1, true>
                      : rows == 2 ? stretch_kernel<D, kLanes, kVectors, 2, true>
                                  : stretch_kernel<D, kLanes, kVectors, kMostRows, true>;
  kernel<<<static_cast<unsigned>(args.kv_heads * args.row_blocks * args.stretches), kThreads, 0, stream>>>(args);
}

}  // namespace

size_t decode_workspace(const Shape& shape, int64_t capacity) {
  size_t most = 0;
  for (int64_t tokens = 1; tokens <= std::min(shape.tokens, kDecodeTokens); ++tokens) {
    for (const bool by_matrices : {false, true}) {
      const Split split = split_of(shape, tokens, capacity, by_matrices);
      most = std::max(most, sums_bytes(shape, tokens, split) +
                                sizeof(float2) * static_cast<size_t>(split.stretches * tokens * shape.heads));
    }
  }
  return most;
}

void decode(const OpCall& call, const Cached& pass) {
  const Shape& s = pass.shape;
  const bool by_matrices = takes_stretches_mma(pass);
  const Split split = split_of(s, s.tokens, pass.capacity, by_matrices);
  const DecodeArgs args{pass.q, pass.k, pass.v, pass.k_cache, pass.v_cache, pass.o, static_cast<float*>(call.workspace),
                        reinterpret_cast<float2*>(static_cast<char*>(call.workspace) + sums_bytes(s, s.tokens, split)), pass.past,
                        pass.capacity, static_cast<int>(s.tokens), static_cast<int>(s.heads), static_cast<int>(s.kv_heads), s.head_dim,
                        split.stretches, split.row_blocks, s.scale, call.fault};
  const cudaStream_t stream = stream_of(call);
  with_activation(s.dtype, [&](auto d) {
    using D = decltype(d);
    constexpr int kLanes = 64 / Vector<D, true>::kSize;  // of 64 elements
    if (by_matrices) {
      stretches_mma(call, args, s.dtype);
    } else {
      const bool of_vectors = s.head_dim * sizeof(D) % 16 == 0 && aligned({pass.q, pass.k, pass.v, pass.k_cache, pass.v_cache});
      const auto launch = s.head_dim <= 64    ? launch_stretches<D, kLanes, 1>
                          : s.head_dim <= 128 ? launch_stretches<D, 2 * kLanes, 1>
                                              : launch_stretches<D, 32, kLanes / 8>;
      launch(args, split.rows, of_vectors, stream);
      check_launch(call);
    }
    launch_early(s.head_dim <= 128 ? combine_kernel<D, 4> : combine_kernel<D, 8>, args, s.tokens * s.heads, kCombineThreads, 0, stream);
  });
}

void append_to_cache(const OpCall& call, const Cached& pass) {
  const Shape& s = pass.shape;
  const auto launch = [&](auto unit) {
    using T = decltype(unit);
    const int64_t stride = static_cast<int64_t>(dtype_bytes(s.dtype, s.kv_stride()) / sizeof(T));
    const unsigned blocks = static_cast<unsigned>((s.tokens * stride + kThreads - 1) / kThreads);
    append_kernel<T><<<blocks, kThreads, 0, stream_of(call)>>>(static_cast<const T*>(pass.k), static_cast<const T*>(pass.v),
                                                               static_cast<T*>(pass.k_cache), static_cast<T*>(pass.v_cache), pass.past,
                                                               static_cast<int>(s.tokens), pass.capacity, stride, call.fault);
  };
  if (dtype_bytes(s.dtype, s.kv_stride()) % sizeof(uint4) == 0 && aligned({pass.k, pass.v, pass.k_cache, pass.v_cache}))
    launch(uint4{});
  else
    launch(uint16_t{});
  check_launch(call);
}

}  // namespace vltune::cuda::attn
