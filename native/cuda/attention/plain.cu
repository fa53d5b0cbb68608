// Attention with plain FMAs in F32, for any device, dtype and head_dim. Tiles of 64 queries and 64 keys; the width of a head passes through
// shared memory in chunks, so that a block needs 44 KB whatever head_dim is. Threads stand 16 x 16: thread (y, x) has the rows 4y..4y+3 of
// every product, and the columns x, x+16, x+32, x+48 of a tile of scores or the columns 4x..4x+3 of 64 of the head's width.
#include <cmath>

#include "shape.h"
#include "tiles.cuh"

namespace vltune::cuda::attn {
namespace {

constexpr int kTile = 64, kThreads = 256;
constexpr int kChunk = 32;               // of the head's width, where it is summed over
constexpr int kChunkStride = kChunk + 4; // floats; the padding keeps rows in different banks
constexpr int kTileStride = kTile + 4;
constexpr int kEach = 4;                 // rows, and columns, of a thread

struct Shared {
  alignas(16) float a[kTile * kChunkStride];
  alignas(16) float b[kTile * kTileStride];
  alignas(16) float p[kTile * kTileStride];
};

template <class D>
struct Rows {  // of one head
  const D* first;
  int count;
  int64_t stride;
};

template <class D, int kWidth>
struct Fetched {  // 64 rows of kWidth columns on the way to shared memory
  static constexpr int kPerThread = kTile * kWidth / kThreads;
  float value[kPerThread];

  __device__ void fetch(const Rows<D>& rows, int column, int h) {
    const int x = threadIdx.x % kWidth, y = threadIdx.x / kWidth;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int row = y + i * (kThreads / kWidth);
      value[i] = row < rows.count && column + x < h ? to_float(rows.first[row * rows.stride + column + x]) : 0.0f;
    }
  }
  __device__ void put(float* to, int stride) const {
    const int x = threadIdx.x % kWidth, y = threadIdx.x / kWidth;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) to[(y + i * (kThreads / kWidth)) * stride + x] = value[i];
  }
};

__device__ inline float4 load4(const float* at) { return *reinterpret_cast<const float4*>(at); }

// acc = A B^T: scores of 64 rows of A with 64 rows of B
template <class D>
__device__ void product_nt(const Rows<D>& a, const Rows<D>& b, int h, Shared& shared, float (&acc)[kEach][kEach]) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  Fetched<D, kChunk> next_a, next_b;
  next_a.fetch(a, 0, h);
  next_b.fetch(b, 0, h);
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) acc[i][j] = 0;
  for (int c = 0; c < h; c += kChunk) {
    __syncthreads();
    next_a.put(shared.a, kChunkStride);
    next_b.put(shared.b, kChunkStride);
    __syncthreads();
    if (c + kChunk < h) {
      next_a.fetch(a, c + kChunk, h);
      next_b.fetch(b, c + kChunk, h);
    }
#pragma unroll 2
    for (int d = 0; d < kChunk; d += 4) {
      float4 left[kEach], right[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) left[i] = load4(shared.a + (y * kEach + i) * kChunkStride + d);
#pragma unroll
      for (int j = 0; j < kEach; ++j) right[j] = load4(shared.b + (x + 16 * j) * kChunkStride + d);
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          acc[i][j] = fmaf(left[i].x, right[j].x, acc[i][j]);
          acc[i][j] = fmaf(left[i].y, right[j].y, acc[i][j]);
          acc[i][j] = fmaf(left[i].z, right[j].z, acc[i][j]);
          acc[i][j] = fmaf(left[i].w, right[j].w, acc[i][j]);
        }
    }
  }
}

__device__ inline void add_scaled(float (&to)[4], float by, float4 what) {
  to[0] = fmaf(by, what.x, to[0]);
  to[1] = fmaf(by, what.y, to[1]);
  to[2] = fmaf(by, what.z, to[2]);
  to[3] = fmaf(by, what.w, to[3]);
}

// sum[c] += P B for columns c * 64.. of the 64 rows of B; of_transposed: P^T B. P lies in shared memory.
template <class D, int kChunks, bool of_transposed>
__device__ void product_nn(const Rows<D>& b, int h, Shared& shared, float (&sum)[kChunks][kEach][4]) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (c * kTile >= h) break;
    Fetched<D, kTile> columns;
    columns.fetch(b, c * kTile, h);
    __syncthreads();
    columns.put(shared.b, kTileStride);
    __syncthreads();
    if constexpr (of_transposed) {
#pragma unroll 4
      for (int r = 0; r < kTile; ++r) {
        const float4 weight = load4(shared.p + r * kTileStride + y * kEach), row = load4(shared.b + r * kTileStride + x * 4);
        add_scaled(sum[c][0], weight.x, row);
        add_scaled(sum[c][1], weight.y, row);
        add_scaled(sum[c][2], weight.z, row);
        add_scaled(sum[c][3], weight.w, row);
      }
    } else {
#pragma unroll 2
      for (int r = 0; r < kTile; r += 4) {
        float4 row[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) row[i] = load4(shared.b + (r + i) * kTileStride + x * 4);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const float4 weight = load4(shared.p + (y * kEach + i) * kTileStride + r);
          add_scaled(sum[c][i], weight.x, row[0]);
          add_scaled(sum[c][i], weight.y, row[1]);
          add_scaled(sum[c][i], weight.z, row[2]);
          add_scaled(sum[c][i], weight.w, row[3]);
        }
      }
    }
  }
}

template <int kChunks>
__device__ void clear(float (&sum)[kChunks][kEach][4]) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[c][i][j] = 0;
}

template <class D, int kChunks>
__device__ void store(const float (&sum)[kChunks][kEach][4], const float (&factor)[kEach], D* to, int rows, int64_t stride, int h) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = y * kEach + i, column = c * kTile + x * 4 + j;
        if (row < rows && column < h) to[row * stride + column] = from_float<D>(sum[c][i][j] * factor[i]);
      }
}

__device__ inline void put_tile(const float (&p)[kEach][kEach], Shared& shared) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) shared.p[(y * kEach + i) * kTileStride + x + 16 * j] = p[i][j];
}

struct ForwardArgs {
  const void *q, *k, *v;
  void* o;
  float* lse;
  const int32_t *bounds, *past;
  int64_t capacity;
  int sequences, tokens, heads, kv_heads, head_dim, causal;
  float scale;
  Fault* fault;
};

template <class D, int kChunks>
__global__ void __launch_bounds__(kThreads, kChunks <= 2 ? 2 : 1) forward_kernel(const ForwardArgs args) {
  __shared__ Shared shared;
  const int head = blockIdx.x % args.heads, slot = blockIdx.x / args.heads, h = args.head_dim;
  Tile tile;
  if (args.bounds ? !find_tile<kTile>(args.bounds, args.sequences, args.tokens, slot, true, args.fault, &tile)
                  : !find_cached_tile<kTile>(args.past, args.capacity, args.tokens, slot, &tile))
    return;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int kv_head = head / (args.heads / args.kv_heads);
  const int64_t q_stride = int64_t{args.heads} * h, kv_stride = int64_t{args.kv_heads} * h;
  const int64_t row = tile.begin + tile.first, q_at = row * q_stride + int64_t{head} * h;
  const int queries = min(kTile, tile.end - tile.begin - tile.first);
  const Rows<D> q{static_cast<const D*>(args.q) + q_at, queries, q_stride};
  const float to_base_2 = args.scale * kLog2E;

  float o[kChunks][kEach][4], most[kEach], sum[kEach];
  clear(o);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    most[i] = -INFINITY;
    sum[i] = 0;
  }
  const int end = args.causal ? min(tile.keys, tile.first + queries + tile.offset) : tile.keys;
  for (int k0 = 0; k0 < end; k0 += kTile) {
    const int64_t kv_at = (tile.key_begin + int64_t{k0}) * kv_stride + int64_t{kv_head} * h;
    const int keys = min(kTile, end - k0);
    float p[kEach][kEach];
    product_nt(q, Rows<D>{static_cast<const D*>(args.k) + kv_at, keys, kv_stride}, h, shared, p);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      // Keys of this tile that the query sees.
      const int seen = args.causal ? min(keys, tile.first + y * kEach + i + tile.offset + 1 - k0) : keys;
      float now = most[i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        p[i][j] = x + 16 * j < seen ? p[i][j] * to_base_2 : -INFINITY;
        now = fmaxf(now, p[i][j]);
      }
#pragma unroll
      for (int lane = 8; lane > 0; lane /= 2) now = fmaxf(now, __shfl_xor_sync(kWarp, now, lane));
      const float shrink = exp2f(most[i] - now);
      most[i] = now;
      float total = 0;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        p[i][j] = exp2f(p[i][j] - now);
        total += p[i][j];
      }
      sum[i] = fmaf(sum[i], shrink, total);  // of this thread's columns
#pragma unroll
      for (int c = 0; c < kChunks; ++c)
#pragma unroll
        for (int j = 0; j < 4; ++j) o[c][i][j] *= shrink;
    }
    put_tile(p, shared);
    product_nn<D, kChunks, false>(Rows<D>{static_cast<const D*>(args.v) + kv_at, keys, kv_stride}, h, shared, o);
  }
  float inverse[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) sum[i] += __shfl_xor_sync(kWarp, sum[i], lane);
    inverse[i] = 1.0f / sum[i];
    if (args.lse && x == 0 && y * kEach + i < queries)
      args.lse[int64_t{head} * args.tokens + row + y * kEach + i] = most[i] * kLn2 + logf(sum[i]);
  }
  store<D>(o, inverse, static_cast<D*>(args.o) + q_at, queries, q_stride, h);
}

struct BackwardArgs {
  const void *d_o, *q, *k, *v;
  const float *lse, *delta;
  const int32_t* bounds;
  void *dq, *dk, *dv;
  int sequences, tokens, heads, kv_heads, head_dim, causal;
  float scale;
  Fault* fault;
};

// P from the scores and the stored lse, 0 where masked. first_query - first_key: of the tile's corner.
__device__ inline void weights(const BackwardArgs& args, const float* lse, int queries, int keys, int diagonal, float (&p)[kEach][kEach]) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int query = y * kEach + i;
    const float base = query < queries ? lse[query] * kLog2E : 0.0f;
    const int seen = query >= queries ? 0 : args.causal ? min(keys, query + diagonal + 1) : keys;
#pragma unroll
    for (int j = 0; j < kEach; ++j) p[i][j] = x + 16 * j < seen ? exp2f(fmaf(p[i][j], args.scale * kLog2E, -base)) : 0.0f;
  }
}

// dS = scale * P (dP - delta), in place of dP
__device__ inline void score_gradients(const float* delta, int queries, float scale, const float (&p)[kEach][kEach],
                                       float (&ds)[kEach][kEach]) {
  const int y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float row_sum = y * kEach + i < queries ? delta[y * kEach + i] : 0.0f;
#pragma unroll
    for (int j = 0; j < kEach; ++j) ds[i][j] = p[i][j] == 0 ? 0.0f : scale * p[i][j] * (ds[i][j] - row_sum);
  }
}

template <class D, int kChunks>
__global__ void __launch_bounds__(kThreads, kChunks <= 2 ? 2 : 1) query_gradient_kernel(const BackwardArgs args) {
  __shared__ Shared shared;
  const int head = blockIdx.x % args.heads, slot = blockIdx.x / args.heads, h = args.head_dim;
  Tile tile;
  if (!find_tile<kTile>(args.bounds, args.sequences, args.tokens, slot, true, args.fault, &tile)) return;
  const int kv_head = head / (args.heads / args.kv_heads);
  const int64_t q_stride = int64_t{args.heads} * h, kv_stride = int64_t{args.kv_heads} * h;
  const int64_t row = tile.begin + tile.first, at = row * q_stride + int64_t{head} * h;
  const int queries = min(kTile, tile.end - tile.begin - tile.first);
  const Rows<D> q{static_cast<const D*>(args.q) + at, queries, q_stride}, d_o{static_cast<const D*>(args.d_o) + at, queries, q_stride};
  const float *lse = args.lse + int64_t{head} * args.tokens + row, *delta = args.delta + int64_t{head} * args.tokens + row;

  float dq[kChunks][kEach][4];
  clear(dq);
  const int end = args.causal ? min(tile.keys, tile.first + queries) : tile.keys;
  for (int k0 = 0; k0 < end; k0 += kTile) {
    const int64_t kv_at = (tile.begin + int64_t{k0}) * kv_stride + int64_t{kv_head} * h;
    const int keys = min(kTile, end - k0);
    const Rows<D> k{static_cast<const D*>(args.k) + kv_at, keys, kv_stride}, v{static_cast<const D*>(args.v) + kv_at, keys, kv_stride};
    float p[kEach][kEach], ds[kEach][kEach];
    product_nt(q, k, h, shared, p);
    weights(args, lse, queries, keys, tile.first - k0, p);
    product_nt(d_o, v, h, shared, ds);
    score_gradients(delta, queries, args.scale, p, ds);
    put_tile(ds, shared);
    product_nn<D, kChunks, false>(k, h, shared, dq);
  }
  const float one[kEach] = {1, 1, 1, 1};
  store<D>(dq, one, static_cast<D*>(args.dq) + at, queries, q_stride, h);
}

template <class D, int kChunks>
__global__ void __launch_bounds__(kThreads, kChunks <= 2 ? 2 : 1) key_gradient_kernel(const BackwardArgs args) {
  __shared__ Shared shared;
  const int kv_head = blockIdx.x % args.kv_heads, slot = blockIdx.x / args.kv_heads, h = args.head_dim, group = args.heads / args.kv_heads;
  Tile tile;
  if (!find_tile<kTile>(args.bounds, args.sequences, args.tokens, slot, false, args.fault, &tile)) return;
  const int64_t q_stride = int64_t{args.heads} * h, kv_stride = int64_t{args.kv_heads} * h;
  const int64_t kv_at = (tile.begin + int64_t{tile.first}) * kv_stride + int64_t{kv_head} * h;
  const int length = tile.end - tile.begin, keys = min(kTile, length - tile.first);
  const Rows<D> k{static_cast<const D*>(args.k) + kv_at, keys, kv_stride}, v{static_cast<const D*>(args.v) + kv_at, keys, kv_stride};

  float dk[kChunks][kEach][4], dv[kChunks][kEach][4];
  clear(dk);
  clear(dv);
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int q0 = args.causal ? tile.first : 0; q0 < length; q0 += kTile) {
      const int64_t row = tile.begin + int64_t{q0}, at = row * q_stride + int64_t{head} * h;
      const int queries = min(kTile, length - q0);
      const Rows<D> q{static_cast<const D*>(args.q) + at, queries, q_stride}, d_o{static_cast<const D*>(args.d_o) + at, queries, q_stride};
      float p[kEach][kEach], ds[kEach][kEach];
      product_nt(q, k, h, shared, p);
      weights(args, args.lse + int64_t{head} * args.tokens + row, queries, keys, q0 - tile.first, p);
      product_nt(d_o, v, h, shared, ds);
      score_gradients(args.delta + int64_t{head} * args.tokens + row, queries, args.scale, p, ds);
      put_tile(p, shared);
      product_nn<D, kChunks, true>(d_o, h, shared, dv);
      __syncthreads();
      put_tile(ds, shared);
      product_nn<D, kChunks, true>(q, h, shared, dk);
    }
  }
  const float one[kEach] = {1, 1, 1, 1};
  store<D>(dk, one, static_cast<D*>(args.dk) + kv_at, keys, kv_stride, h);
  store<D>(dv, one, static_cast<D*>(args.dv) + kv_at, keys, kv_stride, h);
}

// -----------------------------------------------------------------------------------------------------------------------------------------

// Calls launch(D{}, chunks) with the dtype's type, and the 64-wide chunks of head_dim (1, 2 or 4) as a constant.
template <class Launch>
void for_kind(const Shape& shape, Launch&& launch) {
  const auto with = [&](auto d) {
    if (shape.head_dim <= 64)
      launch(d, std::integral_constant<int, 1>{});
    else if (shape.head_dim <= 128)
      launch(d, std::integral_constant<int, 2>{});
    else
      launch(d, std::integral_constant<int, 4>{});
  };
  with_activation(shape.dtype, with);
}

unsigned blocks(int64_t tiles, int64_t heads) { return static_cast<unsigned>(tiles * heads); }

}  // namespace

void forward_plain(const OpCall& call, const Forward& pass) {
  const Shape& s = pass.shape;
  const ForwardArgs args{pass.q, pass.k, pass.v, pass.o, pass.lse, pass.bounds, pass.past, pass.capacity, static_cast<int>(pass.sequences),
                         static_cast<int>(s.tokens), static_cast<int>(s.heads), static_cast<int>(s.kv_heads), s.head_dim,
                         s.causal, s.scale, call.fault};
  const int64_t tiles = pass.bounds ? most_tiles(s.tokens, pass.sequences, kTile) : (s.tokens + kTile - 1) / kTile;
  for_kind(s, [&](auto d, auto chunks) {
    forward_kernel<decltype(d), decltype(chunks)::value><<<blocks(tiles, s.heads), kThreads, 0, stream_of(call)>>>(args);
  });
  check_launch(call);
}

void backward_plain(const OpCall& call, const Backward& pass) {
  const Shape& s = pass.shape;
  const BackwardArgs args{pass.d_o, pass.q, pass.k, pass.v, pass.lse, pass.delta, pass.bounds, pass.dq, pass.dk, pass.dv,
                          static_cast<int>(pass.sequences), static_cast<int>(s.tokens), static_cast<int>(s.heads),
                          static_cast<int>(s.kv_heads), s.head_dim, s.causal, s.scale, call.fault};
  const int64_t tiles = most_tiles(s.tokens, pass.sequences, kTile);
  row_sums(call, pass);
  for_kind(s, [&](auto d, auto chunks) {
    using D = decltype(d);
    constexpr int kChunks = decltype(chunks)::value;
    key_gradient_kernel<D, kChunks><<<blocks(tiles, s.kv_heads), kThreads, 0, stream_of(call)>>>(args);
    query_gradient_kernel<D, kChunks><<<blocks(tiles, s.heads), kThreads, 0, stream_of(call)>>>(args);
  });
  check_launch(call);
}

}  // namespace vltune::cuda::attn
