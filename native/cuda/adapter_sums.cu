#include "adapter.h"

#include <algorithm>

#include "adapter_sm90.h"
#include "cluster.cuh"
#include "mma.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kFmaRanks = 16;  // of a thread, by FMAs

// ---- through: dx (+)= drop'(V A) --------------------------------------------------------------------------------------

constexpr int kThroughThreads = 128, kThroughRows = 16, kThroughColumns = 4, kThroughRanks = 16;

template <class T, bool kWide> __global__ void __launch_bounds__(kThroughThreads)
through(int64_t n, int64_t columns, int64_t rank, const T* v, const float* a, Dropout dropout, bool accumulate, T* dx) {
  __shared__ __align__(16) float shared_v[kThroughRanks][kThroughRows];
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kThroughRows, ld = padded_rank(rank);
  const int64_t column0 = (static_cast<int64_t>(blockIdx.x) * kThroughThreads + threadIdx.x) * kThroughColumns;
  const Mask mask(dropout);
  float acc[kThroughRows][kThroughColumns] = {};
  for (int64_t rank0 = 0; rank0 < ld; rank0 += kThroughRanks) {
    __syncthreads();
    for (int at = threadIdx.x; at < kThroughRanks * kThroughRows; at += kThroughThreads) {
      const int row = at / kThroughRanks, r = at % kThroughRanks;
      shared_v[r][row] = row0 + row < n ? to_float(v[(row0 + row) * ld + rank0 + r]) : 0.0f;
    }
    __syncthreads();
    for (int r = 0; r < kThroughRanks && rank0 + r < rank; ++r) {
      float f[kThroughColumns];
      const float* from = a + (rank0 + r) * columns + column0;
      if (kWide && column0 < columns) {
        *reinterpret_cast<float4*>(f) = __ldg(reinterpret_cast<const float4*>(from));
      } else {
#pragma unroll
        for (int j = 0; j < kThroughColumns; ++j) f[j] = column0 + j < columns ? __ldg(from + j) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kThroughColumns; ++j) f[j] = rounded<T>(f[j]);
#pragma unroll
      for (int i = 0; i < kThroughRows; ++i) {
        const float of = shared_v[r][i];
#pragma unroll
        for (int j = 0; j < kThroughColumns; ++j) acc[i][j] = fmaf(of, f[j], acc[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kThroughRows; ++i) {
    if (row0 + i >= n) return;
    mask.apply4(row0 + i, column0 / 4, acc[i]);
    if constexpr (kWide) {
      if (column0 >= columns) return;
      T* to = dx + (row0 + i) * columns + column0;
      Lanes<kThroughColumns> v;
#pragma unroll
      for (int j = 0; j < kThroughColumns; ++j) v[j] = acc[i][j];
      if (accumulate) {
        const auto old = load_lanes<kThroughColumns>(to);
#pragma unroll
        for (int j = 0; j < kThroughColumns; ++j) v[j] += old[j];
      }
      store_lanes(to, v);
    } else {
#pragma unroll
      for (int j = 0; j < kThroughColumns; ++j) {
        if (column0 + j >= columns) break;
        T* to = dx + (row0 + i) * columns + column0 + j;
        *to = from_float<T>(accumulate ? to_float(*to) + acc[i][j] : acc[i][j]);
      }
    }
  }
}

// ---- sums over rows: partial = M^T F of a stretch of rows ------------------------------------------------------------------

struct SumPart {
  const void* m;
  const void* factor;     // nullptr: ones
  bool rank_first, wide;
  int64_t columns, rank, ld;
  Dropout dropout;
  float* partial;         // F32[stretches][columns * rank]
  float* sums;
  int first_block;        // along the grid's x
};
struct SumJob {
  SumPart parts[kMostSums];
  int count;
  int64_t n, stretch;     // rows of a stretch
  int stretches;
};

__device__ inline const SumPart& part_of(const SumJob& job, int block) {
  int i = 0;
  while (i + 1 < job.count && block >= job.parts[i + 1].first_block) ++i;
  return job.parts[i];
}

__device__ inline void put_partial(const SumPart& p, int64_t stretch, int64_t column, int64_t rank, float value) {
  if (column >= p.columns || rank >= p.rank) return;
  p.partial[stretch * p.columns * p.rank + (p.rank_first ? rank * p.columns + column : column * p.rank + rank)] = value;
}

template <class T> __device__ inline float factor_at(const SumPart& p, int64_t row, int64_t rank) {
  if (rank >= p.rank) return 0.0f;
  if (!p.factor) return 1.0f;
  return to_float(static_cast<const T*>(p.factor)[row * p.ld + rank]);
}

// A block has 128 columns of M, 16 for each warp, and up to 16 * kPairs ranks; M passes through shared memory 32 rows at a time, a ring
// of kStages ahead, where ldmatrix turns it. With kCluster the blocks of a cluster have the stretches of the same columns, and each
// adds an eighth of their sums, in order; else the sums go to memory and add_partials adds them.
constexpr int kSumThreads = 256;
constexpr int kSumColumns = 128, kSumRows = 32;
constexpr int kSumStageBytes = kSumRows * kSumColumns * 2;
constexpr int kSumCluster = 8;
template <int kPairs> struct SumRing {
  static constexpr int kRanks = 16 * kPairs;
  static constexpr int kStages = kPairs == 1 ? 8 : kPairs == 2 ? 6 : 4;
  static constexpr int kLine = kRanks + 8;  // of a factor's row: ldmatrix meets no bank twice
  static constexpr int kFactorBytes = kSumRows * kLine * 2;
  static constexpr int kBytes = kStages * (kSumStageBytes + kFactorBytes);
  static_assert(kSumColumns * kRanks * 4 <= kStages * kSumStageBytes);
};

template <class T, int kPairs, bool kCluster>
__global__ void __launch_bounds__(kSumThreads, 2) sums_mma(const __grid_constant__ SumJob job) {
  if constexpr (!kHasMma<T>) return;
  using Ring = SumRing<kPairs>;
  constexpr int kRanks = Ring::kRanks, kStages = Ring::kStages;
  extern __shared__ __align__(128) unsigned char ring[];
  T* factors = reinterpret_cast<T*>(ring + kStages * kSumStageBytes);
  const SumPart& p = part_of(job, blockIdx.x);
  const int64_t column0 = static_cast<int64_t>(blockIdx.x - p.first_block) * kSumColumns;
  const int rank0 = blockIdx.z * kRanks;
  if (rank0 >= p.rank) return;  // all blocks of a cluster do
  const int64_t row_begin = blockIdx.y * job.stretch, row_end = min(job.n, row_begin + job.stretch);
  const int steps = row_end > row_begin ? static_cast<int>(ceil_div(row_end - row_begin, kSumRows)) : 0;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const T* m = static_cast<const T*>(p.m);
  const Mask mask(p.dropout);
  constexpr int kChunks = kSumStageBytes / 16 / kSumThreads;
  const auto chunk_of = [&](int i, int* row, int* column) {
    const int chunk = static_cast<int>(threadIdx.x) + i * kSumThreads;
    *row = chunk / 16;
    *column = chunk % 16 * 8;
    return *row * 256 + ((*column / 8) ^ (*row & 7)) * 16;
  };
  const auto fetch = [&](int step) {
    if (step < steps) {
      unsigned char* stage = ring + step % kStages * kSumStageBytes;
      const int64_t row0 = row_begin + step * kSumRows;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        int row, column;
        const int at = chunk_of(i, &row, &column);
        const int64_t there = row0 + row < row_end ? p.columns - (column0 + column) : 0;
        const T* from = m + (there > 0 ? (row0 + row) * p.columns + column0 + column : 0);
        if (p.wide) {
          copy_async_16(shared_address(stage) + at, from, there >= 8 ? 16 : there > 0 ? static_cast<int>(there) * 2 : 0);
        } else {
#pragma unroll
          for (int e = 0; e < 8; ++e) reinterpret_cast<T*>(stage + at)[e] = e < there ? from[e] : from_float<T>(0);
        }
      }
      constexpr int kAcross = kRanks / 8;  // copies of a factor's row
      if (p.factor)
        for (int i = threadIdx.x; i < kSumRows * kAcross; i += kSumThreads) {
          const int64_t row = row0 + i / kAcross, rank = rank0 + i % kAcross * 8;
          const bool there = row < row_end && rank < p.ld;
          copy_async_16(shared_address(factors + (step % kStages * kSumRows + i / kAcross) * Ring::kLine + i % kAcross * 8),
                        static_cast<const T*>(p.factor) + (there ? row * p.ld + rank : 0), there ? 16 : 0);
        }
    }
    copy_async_commit();
  };
  if (!p.factor)  // ones, the same for every step
    for (int at = threadIdx.x; at < kStages * kSumRows * Ring::kLine; at += kSumThreads)
      factors[at] = from_float<T>(at % Ring::kLine == 0 ? 1.0f : 0.0f);
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  float acc[2 * kPairs][4] = {};
  const int low = lane % 8, high = lane / 8 % 2 * 8, far = lane / 16 * 8;
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    unsigned char* stage = ring + step % kStages * kSumStageBytes;
    if (p.dropout.key) {  // each thread masks what it has copied itself
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        int row, column;
        T* at = reinterpret_cast<T*>(stage + chunk_of(i, &row, &column));
        auto v = load_lanes<8>(at);
        mask.apply4(row_begin + step * kSumRows + row, (column0 + column) / 4, v.v);
        mask.apply4(row_begin + step * kSumRows + row, (column0 + column) / 4 + 1, v.v + 4);
        store_lanes(at, v);
      }
    }
    __syncthreads();
    fetch(step + kStages - 1);
    const uint32_t f = shared_address(factors + step % kStages * kSumRows * Ring::kLine);
#pragma unroll
    for (int k = 0; k < kSumRows; k += 16) {
      uint32_t a[4];
      const int row = k + low + far, column = warp * 16 + high;
      load_matrices_turned(a, shared_address(stage) + row * 256 + ((column / 8) ^ (row & 7)) * 16);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        uint32_t b[4];
        load_matrices_turned(b, f + ((k + low + high) * Ring::kLine + 16 * j + far) * 2);
        mma<T>(acc[2 * j], a, b[0], b[1]);
        mma<T>(acc[2 * j + 1], a, b[2], b[3]);
      }
    }
  }
  if constexpr (!kCluster) {
#pragma unroll
    for (int j = 0; j < 2 * kPairs; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        put_partial(p, blockIdx.y, column0 + warp * 16 + lane / 4 + 8 * (c / 2), rank0 + 8 * j + lane % 4 * 2 + c % 2, acc[j][c]);
  } else {
    copy_async_wait<0>();
    __syncthreads();
    float* own = reinterpret_cast<float*>(ring);
#pragma unroll
    for (int j = 0; j < 2 * kPairs; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = warp * 16 + lane / 4 + 8 * (c / 2), rank = 8 * j + lane % 4 * 2 + c % 2;
        own[p.rank_first ? rank * kSumColumns + column : column * kRanks + rank] = acc[j][c];
      }
    cluster_barrier();
    constexpr int kShare = kSumColumns * kRanks / kSumCluster;
    for (int i = threadIdx.x; i < kShare; i += kSumThreads) {
      const int at = blockIdx.y * kShare + i;
      const int64_t column = column0 + (p.rank_first ? at % kSumColumns : at / kRanks);
      const int64_t rank = rank0 + (p.rank_first ? at / kSumColumns : at % kRanks);
      if (column >= p.columns || rank >= p.rank) continue;
      float* to = p.sums + (p.rank_first ? rank * p.columns + column : column * p.rank + rank);
      float sum = 0;
#pragma unroll
      for (int block = 0; block < kSumCluster; ++block) sum += peer_float(own + at, block);
      *to += sum;
    }
    cluster_barrier();  // no block leaves while others read its sums
  }
}

// By FMAs: a thread has one column and kFmaRanks ranks.
constexpr int kFmaSumThreads = 128, kFmaSumRows = 16;
template <class T> __global__ void __launch_bounds__(kFmaSumThreads) sums_fma(const __grid_constant__ SumJob job) {
  __shared__ __align__(16) float factors[kFmaSumRows][kFmaRanks];
  const SumPart& p = part_of(job, blockIdx.x);
  const int64_t column = static_cast<int64_t>(blockIdx.x - p.first_block) * kFmaSumThreads + threadIdx.x;
  const int rank0 = blockIdx.z * kFmaRanks;
  if (rank0 >= p.rank) return;
  const int64_t row_begin = blockIdx.y * job.stretch, row_end = min(job.n, row_begin + job.stretch);
  const T* m = static_cast<const T*>(p.m);
  const Mask mask(p.dropout);
  float acc[kFmaRanks] = {};
  for (int64_t row0 = row_begin; row0 < row_end; row0 += kFmaSumRows) {
    __syncthreads();
    for (int at = threadIdx.x; at < kFmaSumRows * kFmaRanks; at += kFmaSumThreads) {
      const int row = at / kFmaRanks;
      factors[row][at % kFmaRanks] = row0 + row < row_end ? factor_at<T>(p, row0 + row, rank0 + at % kFmaRanks) : 0.0f;
    }
    __syncthreads();
    if (column >= p.columns) continue;
    const int rows = static_cast<int>(min(static_cast<int64_t>(kFmaSumRows), row_end - row0));
#pragma unroll 4
    for (int i = 0; i < rows; ++i) {
      float v = to_float(m[(row0 + i) * p.columns + column]);
      if (p.dropout.key) v = rounded<T>(v * mask.factor(row0 + i, column));
#pragma unroll
      for (int r = 0; r < kFmaRanks; ++r) acc[r] = fmaf(v, factors[i][r], acc[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kFmaRanks; ++r) put_partial(p, blockIdx.y, column, rank0 + r, acc[r]);
}

// sums += partial[0] + partial[1] + ..., in this order.
constexpr int kAddThreads = 256;
__global__ void __launch_bounds__(kAddThreads) add_partials(const __grid_constant__ SumJob job) {
  int64_t at = static_cast<int64_t>(blockIdx.x) * kAddThreads + threadIdx.x;
  for (int i = 0; i < job.count; ++i) {
    const SumPart& p = job.parts[i];
    const int64_t size = p.columns * p.rank;
    if (at < size) {
      float sum = 0;
#pragma unroll 8
      for (int s = 0; s < job.stretches; ++s) sum += p.partial[s * size + at];
      p.sums[at] += sum;
      return;
    }
    at -= size;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

bool sums_in_clusters(DType dtype) { return dtype != DType::F32 && device().capability() >= 90; }

constexpr int64_t kSumStretch = 32;     // rows at least
constexpr int64_t kMostStretches = 16;  // of sums that go to memory

int64_t stretch_of(int64_t n, int64_t most) { return std::max(kSumStretch, ceil_div(ceil_div(n, most), kSumStretch) * kSumStretch); }

template <class T, int kPairs> void launch_sums(const OpCall& call, const SumJob& job, dim3 grid, bool cluster) {
  using Ring = SumRing<kPairs>;
  const auto kernel = cluster ? sums_mma<T, kPairs, true> : sums_mma<T, kPairs, false>;
  allow_shared(reinterpret_cast<const void*>(kernel), Ring::kBytes);
  LaunchConfig launch(stream_of(call), grid, kSumThreads, Ring::kBytes);
  launch.in_clusters(dim3(1, cluster ? kSumCluster : 1));
  VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, kernel, job));
  check_launch(call);
}
template <class T> void launch_sums(const OpCall& call, const SumJob& job, dim3 grid, int64_t ranks, bool cluster) {
  const auto launch = ranks == 16 ? launch_sums<T, 1> : ranks == 32 ? launch_sums<T, 2> : launch_sums<T, 4>;
  launch(call, job, grid, cluster);
}

}  // namespace

void adapter_through(const OpCall& call, DType dtype, int64_t n, int64_t columns, int64_t rank, const void* v, const float* a,
                     const Dropout& dropout, bool accumulate, void* dx) {
  if (n == 0 || columns == 0) return;
  with_activation(dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int64_t kMostRows = int64_t{65535} * kThroughRows;
    VLTUNE_CHECK(n <= kMostRows, "ERR_SHAPE", "%s: more than %lld rows", call.op, static_cast<long long>(kMostRows));
    const int64_t across = ceil_div(columns, kThroughThreads * kThroughColumns);
    const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(ceil_div(n, kThroughRows)));
    const auto kernel = columns % kThroughColumns == 0 && all_aligned(16, a, dx) ? through<T, true> : through<T, false>;
    kernel<<<grid, kThroughThreads, 0, stream_of(call)>>>(n, columns, rank, static_cast<const T*>(v), a, dropout, accumulate,
                                                          static_cast<T*>(dx));
    check_launch(call);
  });
}

size_t adapter_sums_workspace(DType dtype, int64_t n, const Sum* sums, int count) {
  size_t elements = 0;
  for (int i = 0; i < count; ++i) elements += static_cast<size_t>(sums[i].columns * sums[i].rank);
  return elements * 4 * static_cast<size_t>(std::min(kMostStretches, ceil_div(n, kSumStretch)));
}

void adapter_sums(const OpCall& call, DType dtype, int64_t n, const Sum* sums, int count, void* workspace) {
  if (adapter_sums_sm90(call, dtype, n, sums, count)) return;
  const bool mma = has_mma(dtype, device().capability()), cluster = sums_in_clusters(dtype);
  SumJob job{};
  job.n = n;
  job.stretch = stretch_of(n, cluster ? kSumCluster : kMostStretches);
  job.stretches = cluster ? kSumCluster : static_cast<int>(ceil_div(n, job.stretch));
  float* partial = static_cast<float*>(workspace);
  int64_t blocks = 0, rank = 0, size = 0;
  for (int i = 0; i < count; ++i) {
    const Sum& s = sums[i];
    if (s.columns == 0 || s.rank == 0) continue;
    job.parts[job.count++] = {s.m, s.factor, s.rank_first, s.columns % 8 == 0 && all_aligned(16, s.m),
                              s.columns, s.rank, s.ld, s.dropout, partial, s.sums, static_cast<int>(blocks)};
    if (!cluster) partial += job.stretches * s.columns * s.rank;
    blocks += ceil_div(s.columns, kSumColumns);
    rank = std::max(rank, s.rank);
    size += s.columns * s.rank;
  }
  if (n == 0 || job.count == 0) return;
  static_assert(kSumColumns == kFmaSumThreads);
  // A block of sm_75 has no room for the ring of 16 ranks, whose stages are the most.
  const bool has_room = static_cast<size_t>(SumRing<1>::kBytes) <= device().shared_bytes;
  const int64_t ranks = !mma ? kFmaRanks : rank <= 16 && has_room ? 16 : rank <= 32 ? 32 : 64;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(job.stretches), static_cast<unsigned>(ceil_div(rank, ranks)));
  if (mma) {
    if (dtype == DType::F16) launch_sums<F16>(call, job, grid, ranks, cluster);
    else launch_sums<Bf16>(call, job, grid, ranks, cluster);
    if (cluster) return;
  } else {
    const auto kernel = dtype == DType::BF16 ? sums_fma<Bf16> : sums_fma<float>;  // F16 is multiplied by every device
    kernel<<<grid, kFmaSumThreads, 0, stream_of(call)>>>(job);
    check_launch(call);
  }
  add_partials<<<static_cast<unsigned>(ceil_div(size, kAddThreads)), kAddThreads, 0, stream_of(call)>>>(job);
  check_launch(call);
}

}  // namespace vltune::cuda
