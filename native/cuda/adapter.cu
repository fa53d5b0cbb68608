#include "adapter.h"

#include <algorithm>

#include "mma.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

__device__ inline float rounded(float v, float) { return v; }
__device__ inline float rounded(float v, Bf16) { return to_float(from_float<Bf16>(v)); }
__device__ inline uint32_t pair_of(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// ---- down: result = scale * drop(x) F --------------------------------------------------------------------------------

constexpr int kDownThreads = 256;
constexpr int kDownWarps = kDownThreads / kWarp;

// Blocks behind those of the product copy the factor that the large product wants padded.
template <class T> __device__ void pad(const Down& d, int64_t block) {
  constexpr int kEach = 4;
  const int64_t count = d.to_rows * d.to_columns;
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int64_t at = (block * kEach + k) * kDownThreads + threadIdx.x;
    if (at >= count) return;
    const int64_t row = at / d.to_columns, column = at - row * d.to_columns;
    const bool inside = row < d.from_rows && column < d.from_columns;
    static_cast<T*>(d.pad_to)[at] = from_float<T>(inside ? d.pad_from[row * d.from_columns + column] : 0.0f);
  }
}
constexpr int64_t kPadded = int64_t{kDownThreads} * 4;  // elements of a block

// Of one row: `ranks` sums from rank `first` on, which is a multiple of 16, and zeros behind the last rank.
template <class T> __device__ inline void put_down(const Down& d, int64_t row, int64_t rank, float value) {
  if (rank < d.rank && d.result) d.result[row * d.rank + rank] = value;
  if (d.padded) static_cast<T*>(d.padded)[row * padded_rank(d.rank) + rank] = from_float<T>(rank < d.rank ? value : 0.0f);
}

// A block has 16 * kTiles rows and up to 8 * kRanks ranks; its warps take every eighth stretch of 32 along K, and their sums are
// added in order. Lane (g, t) reads 8 neighbours along K of row g: which of K an mma step sees at which place does not matter as long
// as both factors agree, so no operand passes through shared memory. Likewise column c of tile j is rank kRanks * c + j.
template <int kTiles, int kRanks, bool kFactorKr, bool kWide>
__global__ void __launch_bounds__(kDownThreads) down_mma(Down d, int64_t product_blocks) {
  constexpr int kRows = 16 * kTiles, kColumns = 8 * kRanks;
  __shared__ float sums[kDownWarps][kRows][kColumns + 1];
  if (blockIdx.x >= product_blocks) {
    if (blockIdx.y == 0) pad<Bf16>(d, blockIdx.x - product_blocks);
    return;
  }
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kRows;
  const int rank0 = blockIdx.y * kColumns;
  const Bf16* x = static_cast<const Bf16*>(d.x);
  const Mask mask(d.dropout);
  const bool drops = d.dropout.key != nullptr;
  float acc[kTiles][kRanks][4] = {};
#pragma unroll 2
  for (int64_t step0 = warp * 32; step0 < d.k; step0 += kDownWarps * 32) {
    const int64_t k0 = step0 + t * 8;
    uint32_t a[kTiles][2][4];  // of rows g and g + 8
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = row0 + 16 * i + 8 * half + g;
        uint32_t* to = a[i][half];
        if (kWide) {
          *reinterpret_cast<uint4*>(to) = row < d.n ? __ldg(reinterpret_cast<const uint4*>(x + row * d.k + k0)) : make_uint4(0, 0, 0, 0);
        } else {
#pragma unroll
          for (int e = 0; e < 8; e += 2) {
            const bool in = row < d.n;
            to[e / 2] = pair_of(in && k0 + e < d.k ? to_float(x[row * d.k + k0 + e]) : 0, in && k0 + e + 1 < d.k ? to_float(x[row * d.k + k0 + e + 1]) : 0);
          }
        }
      }
    uint32_t b[kRanks][4];
    if constexpr (kFactorKr) {
      float f[8][kRanks];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float* from = d.factor + (k0 + e) * d.rank + rank0 + kRanks * g;
        if constexpr (kWide && kRanks >= 4) {
#pragma unroll
          for (int j = 0; j < kRanks; j += 4) *reinterpret_cast<float4*>(&f[e][j]) = __ldg(reinterpret_cast<const float4*>(from + j));
        } else if constexpr (kWide && kRanks == 2) {
          *reinterpret_cast<float2*>(f[e]) = __ldg(reinterpret_cast<const float2*>(from));
        } else {
#pragma unroll
          for (int j = 0; j < kRanks; ++j) f[e][j] = k0 + e < d.k && rank0 + kRanks * g + j < d.rank ? from[j] : 0.0f;
        }
      }
#pragma unroll
      for (int j = 0; j < kRanks; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) b[j][e] = pair_of(f[2 * e][j], f[2 * e + 1][j]);
    } else {
#pragma unroll
      for (int j = 0; j < kRanks; ++j) {
        const int rank = rank0 + kRanks * g + j;
        const float* from = d.factor + rank * d.k + k0;
        if constexpr (kWide) {
          const float4 low = __ldg(reinterpret_cast<const float4*>(from)), high = __ldg(reinterpret_cast<const float4*>(from) + 1);
          b[j][0] = pair_of(low.x, low.y);
          b[j][1] = pair_of(low.z, low.w);
          b[j][2] = pair_of(high.x, high.y);
          b[j][3] = pair_of(high.z, high.w);
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            b[j][e] = pair_of(rank < d.rank && k0 + 2 * e < d.k ? from[2 * e] : 0.0f, rank < d.rank && k0 + 2 * e + 1 < d.k ? from[2 * e + 1] : 0.0f);
        }
      }
    }
    if (drops) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float v[8];
#pragma unroll
          for (int e = 0; e < 8; ++e) v[e] = to_float(reinterpret_cast<const Bf16*>(a[i][half])[e]);
          mask.apply4(row0 + 16 * i + 8 * half + g, k0 / 4, v);
          mask.apply4(row0 + 16 * i + 8 * half + g, k0 / 4 + 1, v + 4);
#pragma unroll
          for (int e = 0; e < 4; ++e) a[i][half][e] = pair_of(v[2 * e], v[2 * e + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const uint32_t of[4] = {a[i][0][2 * step], a[i][1][2 * step], a[i][0][2 * step + 1], a[i][1][2 * step + 1]};
#pragma unroll
        for (int j = 0; j < kRanks; ++j) mma_bf16(acc[i][j], of, b[j][2 * step], b[j][2 * step + 1]);
      }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i)
#pragma unroll
    for (int j = 0; j < kRanks; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[warp][16 * i + 8 * (c / 2) + g][kRanks * (2 * t + c % 2) + j] = acc[i][j][c];
  __syncthreads();
  for (int at = threadIdx.x; at < kRows * kColumns; at += kDownThreads) {
    const int row = at / kColumns, column = at % kColumns;
    if (row0 + row >= d.n) break;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kDownWarps; ++w) sum += sums[w][row][column];
    if (rank0 + column < padded_rank(d.rank)) put_down<Bf16>(d, row0 + row, rank0 + column, d.scale * sum);
  }
  if (kColumns == 8) {  // ranks 8.. are padding
    for (int at = threadIdx.x; at < kRows * 8; at += kDownThreads)
      if (row0 + at / 8 < d.n) put_down<Bf16>(d, row0 + at / 8, 8 + at % 8, 0.0f);
  }
}

// By FMAs: a warp has kFmaRows rows and 16 ranks, its lanes stride along K.
constexpr int kFmaRows = 4, kFmaRanks = 16;
template <class T> __global__ void __launch_bounds__(kDownThreads) down_fma(Down d, int64_t product_blocks) {
  if (blockIdx.x >= product_blocks) {
    if (blockIdx.y == 0) pad<T>(d, blockIdx.x - product_blocks);
    return;
  }
  const int lane = threadIdx.x % kWarp;
  const int64_t row0 = (static_cast<int64_t>(blockIdx.x) * kDownWarps + threadIdx.x / kWarp) * kFmaRows;
  const int rank0 = blockIdx.y * kFmaRanks;
  if (row0 >= d.n) return;
  const T* x = static_cast<const T*>(d.x);
  const Mask mask(d.dropout);
  float acc[kFmaRows][kFmaRanks] = {};
  for (int64_t k = lane; k < d.k; k += kWarp) {
    float v[kFmaRows];
#pragma unroll
    for (int i = 0; i < kFmaRows; ++i) {
      v[i] = row0 + i < d.n ? to_float(x[(row0 + i) * d.k + k]) : 0.0f;
      if (d.dropout.key) v[i] = rounded(v[i] * mask.factor(row0 + i, k), T{});
    }
#pragma unroll
    for (int r = 0; r < kFmaRanks; ++r) {
      const int64_t rank = rank0 + r;
      const float f = rank < d.rank ? rounded(__ldg(d.factor + (d.factor_is_kr ? k * d.rank + rank : rank * d.k + k)), T{}) : 0.0f;
#pragma unroll
      for (int i = 0; i < kFmaRows; ++i) acc[i][r] = fmaf(v[i], f, acc[i][r]);
    }
  }
#pragma unroll
  for (int i = 0; i < kFmaRows; ++i)
#pragma unroll
    for (int r = 0; r < kFmaRanks; ++r) {
      const float sum = warp_sum(acc[i][r]);
      if (lane == r && row0 + i < d.n) put_down<T>(d, row0 + i, rank0 + r, d.scale * sum);
    }
}

// ---- through: dx (+)= drop'(V A) --------------------------------------------------------------------------------------

constexpr int kThroughThreads = 128, kThroughRows = 16, kThroughColumns = 4, kThroughRanks = 16;

template <class T> __global__ void __launch_bounds__(kThroughThreads)
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
#pragma unroll
      for (int j = 0; j < kThroughColumns; ++j)
        f[j] = column0 + j < columns ? rounded(__ldg(a + (rank0 + r) * columns + column0 + j), T{}) : 0.0f;
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
#pragma unroll
    for (int j = 0; j < kThroughColumns; ++j) {
      if (column0 + j >= columns) break;
      T* to = dx + (row0 + i) * columns + column0 + j;
      *to = from_float<T>(accumulate ? to_float(*to) + acc[i][j] : acc[i][j]);
    }
  }
}

// ---- sums over rows: partial = M^T F of a stretch of rows ------------------------------------------------------------------

struct SumPart {
  const void* m;
  const void* factor;     // nullptr: ones
  bool factor_is_f32, rank_first, wide;
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
  if (p.factor_is_f32) return rounded(__ldg(static_cast<const float*>(p.factor) + row * p.ld + rank), T{});
  return to_float(static_cast<const T*>(p.factor)[row * p.ld + rank]);
}

// A block has 128 columns of M, 16 for each warp, and up to 16 * kPairs ranks; M passes through shared memory 32 rows at a time,
// where ldmatrix turns it.
constexpr int kSumThreads = 256;
constexpr int kSumColumns = 128, kSumRows = 32;
constexpr int kSumStageBytes = kSumRows * kSumColumns * 2;

template <int kPairs> __global__ void __launch_bounds__(kSumThreads) sums_mma(const __grid_constant__ SumJob job) {
#if __CUDA_ARCH__ >= 800
  constexpr int kRanks = 16 * kPairs, kSumStages = kPairs < 4 ? 4 : 3;  // within 48 KiB
  __shared__ __align__(128) unsigned char m_of[kSumStages][kSumStageBytes];
  __shared__ __align__(16) Bf16 f_of[kSumStages][kSumRows][kRanks + 8];
  const SumPart& p = part_of(job, blockIdx.x);
  const int64_t column0 = static_cast<int64_t>(blockIdx.x - p.first_block) * kSumColumns;
  const int rank0 = blockIdx.z * kRanks;
  if (rank0 >= p.rank) return;
  const int64_t row_begin = blockIdx.y * job.stretch, row_end = min(job.n, row_begin + job.stretch);
  const int steps = static_cast<int>(ceil_div(row_end - row_begin, kSumRows));
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Bf16* m = static_cast<const Bf16*>(p.m);
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
      const int stage = step % kSumStages;
      const int64_t row0 = row_begin + step * kSumRows;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        int row, column;
        const int at = chunk_of(i, &row, &column);
        const int64_t there = row0 + row < row_end ? p.columns - (column0 + column) : 0;
        const Bf16* from = m + (there > 0 ? (row0 + row) * p.columns + column0 + column : 0);
        if (p.wide) {
          copy_async_16(shared_address(m_of[stage]) + at, from, there >= 8 ? 16 : there > 0 ? static_cast<int>(there) * 2 : 0);
        } else {
#pragma unroll
          for (int e = 0; e < 8; ++e) reinterpret_cast<Bf16*>(m_of[stage] + at)[e] = e < there ? from[e] : from_float<Bf16>(0);
        }
      }
      for (int at = threadIdx.x; at < kSumRows * kRanks; at += kSumThreads) {
        const int row = at / kRanks, rank = at % kRanks;
        f_of[stage][row][rank] = from_float<Bf16>(row0 + row < row_end ? factor_at<Bf16>(p, row0 + row, rank0 + rank) : 0.0f);
      }
    }
    copy_async_commit();
  };
  for (int step = 0; step < kSumStages - 1; ++step) fetch(step);
  float acc[2 * kPairs][4] = {};
  const int low = lane % 8, high = lane / 8 % 2 * 8, far = lane / 16 * 8;
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kSumStages - 2>();
    const int stage = step % kSumStages;
    if (p.dropout.key) {  // each thread masks what it has copied itself
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        int row, column;
        Bf16* at = reinterpret_cast<Bf16*>(m_of[stage] + chunk_of(i, &row, &column));
        auto v = load_lanes<8>(at);
        mask.apply4(row_begin + step * kSumRows + row, (column0 + column) / 4, v.v);
        mask.apply4(row_begin + step * kSumRows + row, (column0 + column) / 4 + 1, v.v + 4);
        store_lanes(at, v);
      }
    }
    __syncthreads();
    fetch(step + kSumStages - 1);
#pragma unroll
    for (int k = 0; k < kSumRows; k += 16) {
      uint32_t a[4];
      const int row = k + low + far, column = warp * 16 + high;
      load_matrices_turned(a, shared_address(m_of[stage]) + row * 256 + ((column / 8) ^ (row & 7)) * 16);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        uint32_t b[4];
        load_matrices_turned(b, shared_address(&f_of[stage][k + low + high][16 * j + far]));
        mma_bf16(acc[2 * j], a, b[0], b[1]);
        mma_bf16(acc[2 * j + 1], a, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 2 * kPairs; ++j)
#pragma unroll
    for (int c = 0; c < 4; ++c)
      put_partial(p, blockIdx.y, column0 + warp * 16 + lane / 4 + 8 * (c / 2), rank0 + 8 * j + lane % 4 * 2 + c % 2, acc[j][c]);
#endif
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
      if (p.dropout.key) v = rounded(v * mask.factor(row0 + i, column), T{});
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

bool uses_mma(DType dtype) { return dtype == DType::BF16 && device().capability() >= 80; }

using DownKernel = void (*)(Down, int64_t);
template <int kTiles, int kRanks> DownKernel down_of(bool factor_kr, bool wide) {
  if (factor_kr) return wide ? down_mma<kTiles, kRanks, true, true> : down_mma<kTiles, kRanks, true, false>;
  return wide ? down_mma<kTiles, kRanks, false, true> : down_mma<kTiles, kRanks, false, false>;
}

constexpr int64_t kSumStretch = 32;     // rows at least
constexpr int64_t kMostStretches = 16;

int64_t stretch_of(int64_t n) { return std::max(kSumStretch, ceil_div(ceil_div(n, kMostStretches), kSumStretch) * kSumStretch); }

}  // namespace

void adapter_down(const OpCall& call, const Down& d) {
  if (d.n == 0 && !d.pad_to) return;
  const int64_t pads = d.pad_to ? ceil_div(d.to_rows * d.to_columns, kPadded) : 0;
  const int64_t rank = padded_rank(d.rank);
  int64_t blocks, ranks;
  DownKernel kernel;
  if (uses_mma(d.dtype)) {
    const int64_t tiles = d.rank <= 8 ? 1 : d.rank <= 16 ? 2 : d.rank <= 32 ? 4 : 8;
    const bool wide = d.k % 32 == 0 && d.rank % (8 * tiles) == 0 && all_aligned(16, d.x, d.factor);
    kernel = tiles == 1 ? down_of<2, 1>(d.factor_is_kr, wide) : tiles == 2 ? down_of<2, 2>(d.factor_is_kr, wide)
           : tiles == 4 ? down_of<2, 4>(d.factor_is_kr, wide) : down_of<1, 8>(d.factor_is_kr, wide);
    blocks = ceil_div(d.n, tiles == 8 ? 16 : 32);
    ranks = tiles == 1 ? 1 : ceil_div(rank, 8 * tiles);
  } else {
    kernel = d.dtype == DType::BF16 ? down_fma<Bf16> : down_fma<float>;
    blocks = ceil_div(d.n, kDownWarps * kFmaRows);
    ranks = rank / kFmaRanks;
  }
  if (blocks + pads == 0 || ranks == 0) return;
  kernel<<<dim3(static_cast<unsigned>(blocks + pads), static_cast<unsigned>(ranks)), kDownThreads, 0, stream_of(call)>>>(d, blocks);
  check_launch(call);
}

void adapter_through(const OpCall& call, DType dtype, int64_t n, int64_t columns, int64_t rank, const void* v, const float* a,
                     const Dropout& dropout, bool accumulate, void* dx) {
  if (n == 0 || columns == 0) return;
  with_activation(dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int64_t kMostRows = int64_t{65535} * kThroughRows;
    VLTUNE_CHECK(n <= kMostRows, "ERR_SHAPE", "%s: more than %lld rows", call.op, static_cast<long long>(kMostRows));
    const dim3 grid(static_cast<unsigned>(ceil_div(columns, kThroughThreads * kThroughColumns)), static_cast<unsigned>(ceil_div(n, kThroughRows)));
    through<T><<<grid, kThroughThreads, 0, stream_of(call)>>>(n, columns, rank, static_cast<const T*>(v), a, dropout, accumulate, static_cast<T*>(dx));
    check_launch(call);
  });
}

size_t adapter_sums_workspace(int64_t n, const Sum* sums, int count) {
  size_t elements = 0;
  for (int i = 0; i < count; ++i) elements += static_cast<size_t>(sums[i].columns * sums[i].rank);
  return elements * 4 * static_cast<size_t>(std::min(kMostStretches, ceil_div(n, kSumStretch)));
}

void adapter_sums(const OpCall& call, DType dtype, int64_t n, const Sum* sums, int count, void* workspace) {
  const bool mma = uses_mma(dtype);
  SumJob job{};
  job.n = n;
  job.stretch = stretch_of(n);
  job.stretches = static_cast<int>(ceil_div(n, job.stretch));
  float* partial = static_cast<float*>(workspace);
  int64_t blocks = 0, rank = 0, size = 0;
  for (int i = 0; i < count; ++i) {
    const Sum& s = sums[i];
    if (s.columns == 0 || s.rank == 0) continue;
    job.parts[job.count++] = {s.m, s.factor, s.factor_dtype == DType::F32, s.rank_first, s.columns % 8 == 0 && all_aligned(16, s.m),
                              s.columns, s.rank, s.ld, s.dropout, partial, s.sums, static_cast<int>(blocks)};
    partial += job.stretches * s.columns * s.rank;
    blocks += ceil_div(s.columns, kSumColumns);
    rank = std::max(rank, s.rank);
    size += s.columns * s.rank;
  }
  if (n == 0 || job.count == 0) return;
  static_assert(kSumColumns == kFmaSumThreads);
  const int64_t ranks = mma ? (rank <= 16 ? 16 : rank <= 32 ? 32 : 64) : kFmaRanks;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(job.stretches), static_cast<unsigned>(ceil_div(rank, ranks)));
  if (!mma && dtype == DType::BF16) sums_fma<Bf16><<<grid, kFmaSumThreads, 0, stream_of(call)>>>(job);
  else if (!mma) sums_fma<float><<<grid, kFmaSumThreads, 0, stream_of(call)>>>(job);
  else if (ranks == 16) sums_mma<1><<<grid, kSumThreads, 0, stream_of(call)>>>(job);
  else if (ranks == 32) sums_mma<2><<<grid, kSumThreads, 0, stream_of(call)>>>(job);
  else sums_mma<4><<<grid, kSumThreads, 0, stream_of(call)>>>(job);
  check_launch(call);
  add_partials<<<static_cast<unsigned>(ceil_div(size, kAddThreads)), kAddThreads, 0, stream_of(call)>>>(job);
  check_launch(call);
}

}  // namespace vltune::cuda
