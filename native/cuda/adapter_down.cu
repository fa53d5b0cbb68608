#include "adapter.h"

#include <algorithm>

#include "adapter_sm90.h"
#include "cluster.cuh"
#include "mma.cuh"
#include "nf4.cuh"
#include "vector.cuh"
#include "weight.h"

namespace vltune::cuda {
namespace {

// ---- down: result = scale * drop(x) F --------------------------------------------------------------------------------

constexpr int kDownThreads = 256;
constexpr int kDownWarps = kDownThreads / kWarp;

// All blocks share the padding; those behind the product's have nothing else to do.
template <class T> __device__ __noinline__ void pad(const Down& d) {
  if (blockIdx.y != 0) return;
#pragma unroll
  for (const Pad& p : d.pads) {
    if (!p.to) continue;
    const uint32_t count = static_cast<uint32_t>(p.to_rows * p.to_columns), columns = static_cast<uint32_t>(p.to_columns);
#pragma unroll 4
    for (uint32_t at = blockIdx.x * kDownThreads + threadIdx.x; at < count; at += gridDim.x * kDownThreads) {
      const uint32_t row = at / columns, column = at - row * columns;
      const bool inside = row < p.from_rows && column < p.from_columns;
      static_cast<T*>(p.to)[at] = from_float<T>(inside ? __ldg(p.from + row * p.from_columns + column) : 0.0f);
    }
  }
}
constexpr int64_t kPadded = int64_t{kDownThreads} * 4;  // elements of a block

// An NF4 weight on its way to T, both flat; all blocks share it. A warp's next words are on their way while it decodes.
struct Codes {
  const uint32_t* words;   // of 8 elements; nullptr: none
  int64_t count;
  Nf4State state;
  uint4* to;
};
template <class T> __device__ __noinline__ void decode(const Codes& c) {
  constexpr int kWords = 16, kBlocks = kWords * kNf4Word / static_cast<int>(kNf4Block);  // of a lane
  constexpr int kLanesOfBlock = static_cast<int>(kNf4Block) / kNf4Word;
  if (!c.words || blockIdx.y != 0) return;
  const int lane = threadIdx.x % kWarp;
  const float code = kNf4Code[lane % 16];
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kDownThreads * kWords;
  int64_t base = (static_cast<int64_t>(blockIdx.x) * kDownWarps + threadIdx.x / kWarp) * kWarp * kWords;
  uint32_t word[kWords];
  float scale[kBlocks];
  const auto fetch = [&](int64_t from, uint32_t (&words)[kWords], float (&scales)[kBlocks]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = from + i * kWarp + lane < c.count ? __ldcs(c.words + from + i * kWarp + lane) : 0;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const int64_t block = from / kLanesOfBlock + i * kWarp + lane;
      scales[i] = block * kLanesOfBlock < c.count ? nf4_scale(c.state, block) : 0.0f;
    }
  };
  fetch(base, word, scale);
  for (; base < c.count; base += stride) {
    uint32_t next_word[kWords];
    float next_scale[kBlocks];
    fetch(base + stride, next_word, next_scale);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int block = i * kWarp / kLanesOfBlock;  // and lane / kLanesOfBlock more: of the warp's blocks, lane l having l, 32 + l, ...
      const float of = __shfl_sync(kAllLanes, scale[block / kWarp], (block + lane / kLanesOfBlock) % kWarp);
      uint32_t pairs[4];
      nf4_decode<T>(word[i], of, code, pairs);
      if (base + i * kWarp + lane < c.count) c.to[base + i * kWarp + lane] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) word[i] = next_word[i];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) scale[i] = next_scale[i];
  }
}

// Of one row: `ranks` sums from rank `first` on, which is a multiple of 16, and zeros behind the last rank.
template <class T> __device__ inline void put_down(const Down& d, int64_t row, int64_t rank, float value) {
  if (rank < d.rank && d.result) d.result[row * d.rank + rank] = value;
  if (d.padded) static_cast<T*>(d.padded)[row * padded_rank(d.rank) + rank] = from_float<T>(rank < d.rank ? value : 0.0f);
}

// A block has 16 * kTiles rows and up to 8 * kRanks ranks; its warps take every eighth stretch of 32 along K, and their sums are
// added in order. Lane (g, t) reads 8 neighbours along K of row g: which of K an mma step sees at which place does not matter as long
// as both factors agree, so no operand passes through shared memory. Likewise column c of tile j is rank kRanks * c + j.
template <class T, int kTiles, int kRanks, bool kFactorKr>
__global__ void __launch_bounds__(kDownThreads) down_mma(Down d, int64_t product_blocks) {
  if constexpr (!kHasMma<T>) return;
  constexpr int kRows = 16 * kTiles, kColumns = 8 * kRanks;
  __shared__ float sums[kDownWarps][kRows][kColumns + 1];
  pad<T>(d);
  if (blockIdx.x >= product_blocks) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kRows;
  const int rank0 = blockIdx.y * kColumns;
  const T* x = static_cast<const T*>(d.x);
  const bool wide = d.k % 8 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;  // rows are whole vectors
  const Mask mask(d.dropout);
  const bool drops = d.dropout.key != nullptr;
  float acc[kTiles][kRanks][4] = {};
  for (int64_t step0 = warp * 32; step0 < d.k; step0 += kDownWarps * 32) {
    const int64_t k0 = step0 + t * 8;
    uint32_t a[kTiles][2][4];  // of rows g and g + 8
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = row0 + 16 * i + 8 * half + g;
        uint32_t* to = a[i][half];
        const bool in = row < d.n;
        if (wide) {
          const uint4* from = reinterpret_cast<const uint4*>(x + row * d.k + k0);
          const uint4 words = in && k0 < d.k ? __ldg(from) : make_uint4(0, 0, 0, 0);
          to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
          continue;
        }
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
          const T* from = x + row * d.k + k0 + e;
          to[e / 2] = pack_pair<T>(in && k0 + e < d.k ? to_float(from[0]) : 0.0f, in && k0 + e + 1 < d.k ? to_float(from[1]) : 0.0f);
        }
      }
    uint32_t b[kRanks][4];
    if constexpr (kFactorKr) {
      float f[8][kRanks];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float* from = d.factor + (k0 + e) * d.rank + rank0 + kRanks * g;
#pragma unroll
        for (int j = 0; j < kRanks; ++j) f[e][j] = k0 + e < d.k && rank0 + kRanks * g + j < d.rank ? from[j] : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kRanks; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) b[j][e] = pack_pair<T>(f[2 * e][j], f[2 * e + 1][j]);
    } else {
#pragma unroll
      for (int j = 0; j < kRanks; ++j) {
        const int rank = rank0 + kRanks * g + j;
        const float* from = d.factor + rank * d.k + k0;
#pragma unroll
        for (int e = 0; e < 4; ++e)
          b[j][e] = pack_pair<T>(rank < d.rank && k0 + 2 * e < d.k ? from[2 * e] : 0.0f,
                            rank < d.rank && k0 + 2 * e + 1 < d.k ? from[2 * e + 1] : 0.0f);
      }
    }
    if (drops) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float v[8];
#pragma unroll
          for (int e = 0; e < 8; ++e) v[e] = to_float(reinterpret_cast<const T*>(a[i][half])[e]);
          mask.apply4(row0 + 16 * i + 8 * half + g, k0 / 4, v);
          mask.apply4(row0 + 16 * i + 8 * half + g, k0 / 4 + 1, v + 4);
#pragma unroll
          for (int e = 0; e < 4; ++e) a[i][half][e] = pack_pair<T>(v[2 * e], v[2 * e + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const uint32_t of[4] = {a[i][0][2 * step], a[i][1][2 * step], a[i][0][2 * step + 1], a[i][1][2 * step + 1]};
#pragma unroll
        for (int j = 0; j < kRanks; ++j) mma<T>(acc[i][j], of, b[j][2 * step], b[j][2 * step + 1]);
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
    if (rank0 + column < padded_rank(d.rank)) put_down<T>(d, row0 + row, rank0 + column, d.scale * sum);
  }
  if (kColumns == 8) {  // ranks 8.. are padding
    for (int at = threadIdx.x; at < kRows * 8; at += kDownThreads)
      if (row0 + at / 8 < d.n) put_down<T>(d, row0 + at / 8, 8 + at % 8, 0.0f);
  }
}

// The same where rows are whole vectors and the rank fills its tiles, at the speed of memory: what a lane will read travels by cp.async
// into places of shared memory that are its own, several steps ahead, so there is nothing to wait for but its own copies. The factor
// is read again for every block's rows, so blocks have many rows and, from sm_90 on, share them along K in clusters of `split`.
template <int kTiles, int kRanks> struct Piped {
  static constexpr int kRows = 16 * kTiles, kColumns = 8 * kRanks;
  static constexpr int kStageBytes = (2 * kTiles + 2 * kRanks) * 16 * kDownThreads;
  static constexpr int kFit = (kTiles == 2 ? 96 : 200) * 1024 / kStageBytes;  // 96 KiB are there on any device from sm_80 on
  static constexpr int kStages = kFit < 2 ? 2 : kFit;
  static constexpr int kLine = kColumns + 1;
  static constexpr int kSumBytes = kDownWarps * kRows * kLine * 4;
  static constexpr int kBytes = kStages * kStageBytes > kSumBytes ? kStages * kStageBytes : kSumBytes;
};

template <class T, int kTiles, int kRanks, bool kFactorKr>
__global__ void __launch_bounds__(kDownThreads, 1) down_piped(Down d, int64_t product_blocks, int split, Codes codes) {
#if __CUDA_ARCH__ >= 800
  using P = Piped<kTiles, kRanks>;
  extern __shared__ __align__(128) unsigned char ring[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int share = static_cast<int>(blockIdx.x % split);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x / split) * P::kRows;
  const int rank0 = blockIdx.y * P::kColumns;
  const bool multiplies = blockIdx.x < product_blocks;
  const int first = share * kDownWarps + warp, stride = split * kDownWarps;  // in stretches of 32 along K
  const int steps = multiplies ? static_cast<int>((d.k / 32 - first + stride - 1) / stride) : 0;
  const T* x = static_cast<const T*>(d.x);
  const uint32_t own = shared_address(ring) + threadIdx.x * 16, factors = shared_address(ring) + 2 * kTiles * 16 * kDownThreads;
  constexpr int kNarrow = kFactorKr ? (kRanks < 4 ? 4 * kRanks : 16) : 16;  // bytes of one copy of the factor
  constexpr int kCopies = 8 * kRanks * 4 / kNarrow;
  const auto fetch = [&](int step) {
    if (step < steps) {
      const uint32_t stage = step % P::kStages * P::kStageBytes;
      const int64_t k0 = static_cast<int64_t>(first + step * stride) * 32 + t * 8;
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        const int64_t row = row0 + 8 * i + g;
        copy_async_16(own + stage + i * 16 * kDownThreads, x + (row < d.n ? row : 0) * d.k + k0, row < d.n ? 16 : 0);
      }
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const float* from;
        if constexpr (kFactorKr) {
          constexpr int kAcross = kRanks * 4 / kNarrow;  // copies of one k
          from = d.factor + (k0 + i / kAcross) * d.rank + rank0 + kRanks * g + i % kAcross * 4;
        } else {
          from = d.factor + (rank0 + kRanks * g + i / 2) * d.k + k0 + i % 2 * 4;
        }
        copy_async_small<kNarrow>(factors + stage + (i * kDownThreads + threadIdx.x) * kNarrow, from);
      }
    }
    copy_async_commit();
  };
  for (int step = 0; step < P::kStages; ++step) fetch(step);
  pad<T>(d);
  decode<T>(codes);
  if (!multiplies) return;  // all blocks of a cluster do
  const Mask mask(d.dropout);
  const bool drops = d.dropout.key != nullptr;
  float acc[kTiles][kRanks][4] = {};
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<P::kStages - 1>();
    const unsigned char* stage = ring + step % P::kStages * P::kStageBytes;
    const unsigned char* factor = stage + 2 * kTiles * 16 * kDownThreads;
    uint32_t b[kRanks][4];
    if constexpr (kFactorKr) {
      float f[8][kRanks];
      constexpr int kAcross = kRanks * 4 / kNarrow, kEach = kNarrow / 4;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const unsigned char* at = factor + (i * kDownThreads + threadIdx.x) * kNarrow;
        float v[kEach];
        if constexpr (kNarrow == 16) *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(at);
        else if constexpr (kNarrow == 8) *reinterpret_cast<float2*>(v) = *reinterpret_cast<const float2*>(at);
        else v[0] = *reinterpret_cast<const float*>(at);
#pragma unroll
        for (int j = 0; j < kEach; ++j) f[i / kAcross][i % kAcross * 4 + j] = v[j];
      }
#pragma unroll
      for (int j = 0; j < kRanks; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) b[j][e] = pack_pair<T>(f[2 * e][j], f[2 * e + 1][j]);
    } else {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const float4 v = *reinterpret_cast<const float4*>(factor + (i * kDownThreads + threadIdx.x) * 16);
        b[i / 2][i % 2 * 2] = pack_pair<T>(v.x, v.y);
        b[i / 2][i % 2 * 2 + 1] = pack_pair<T>(v.z, v.w);
      }
    }
    const int64_t k0 = static_cast<int64_t>(first + step * stride) * 32 + t * 8;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      uint4 a[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        a[half] = *reinterpret_cast<const uint4*>(stage + ((2 * i + half) * kDownThreads + threadIdx.x) * 16);
        if (drops) {
          float v[8];
          uint32_t* of = reinterpret_cast<uint32_t*>(&a[half]);
#pragma unroll
          for (int e = 0; e < 8; ++e) v[e] = to_float(reinterpret_cast<const T*>(of)[e]);
          mask.apply4(row0 + 16 * i + 8 * half + g, k0 / 4, v);
          mask.apply4(row0 + 16 * i + 8 * half + g, k0 / 4 + 1, v + 4);
#pragma unroll
          for (int e = 0; e < 4; ++e) of[e] = pack_pair<T>(v[2 * e], v[2 * e + 1]);
        }
      }
      const uint32_t low[4] = {a[0].x, a[1].x, a[0].y, a[1].y}, high[4] = {a[0].z, a[1].z, a[0].w, a[1].w};
#pragma unroll
      for (int j = 0; j < kRanks; ++j) {
        mma<T>(acc[i][j], low, b[j][0], b[j][1]);
        mma<T>(acc[i][j], high, b[j][2], b[j][3]);
      }
    }
    fetch(step + P::kStages);  // into the places just read
  }
  copy_async_wait<0>();
  __syncthreads();
  float* sums = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int i = 0; i < kTiles; ++i)
#pragma unroll
    for (int j = 0; j < kRanks; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        sums[(warp * P::kRows + 16 * i + 8 * (c / 2) + g) * P::kLine + kRanks * (2 * t + c % 2) + j] = acc[i][j][c];
  __syncthreads();
  // A block's own sum takes the place of its first warp's; of those, each block of the cluster adds up its share of rows.
  const auto of_block = [&](int at) {
    float* sum = sums + at / P::kColumns * P::kLine + at % P::kColumns;
    float total = *sum;
#pragma unroll
    for (int w = 1; w < kDownWarps; ++w) total += sum[w * P::kRows * P::kLine];
    return total;
  };
  if (split > 1) {
    for (int at = threadIdx.x; at < P::kRows * P::kColumns; at += kDownThreads)
      sums[at / P::kColumns * P::kLine + at % P::kColumns] = of_block(at);
    cluster_barrier();
  }
  const int rows = P::kRows / split, begin = share * rows * P::kColumns;
  for (int at = begin + static_cast<int>(threadIdx.x); at < begin + rows * P::kColumns; at += kDownThreads) {
    const int row = at / P::kColumns, column = at % P::kColumns;
    if (row0 + row >= d.n) break;
    float sum = 0;
    if (split > 1)
      for (int block = 0; block < split; ++block) sum += peer_float(sums + row * P::kLine + column, block);
    else
      sum = of_block(at);
    put_down<T>(d, row0 + row, rank0 + column, d.scale * sum);
  }
  if (kRanks == 1)  // ranks 8.. are padding
    for (int at = threadIdx.x; at < rows * 8; at += kDownThreads)
      if (const int64_t row = row0 + share * rows + at / 8; row < d.n) put_down<T>(d, row, 8 + at % 8, 0.0f);
  if (split > 1) cluster_barrier();  // no block leaves while others read its sums
#endif
}

// By FMAs: a warp has kFmaRows rows and 16 ranks, its lanes stride along K.
constexpr int kFmaRows = 4, kFmaRanks = 16;
template <class T> __global__ void __launch_bounds__(kDownThreads) down_fma(Down d, int64_t product_blocks) {
  pad<T>(d);
  if (blockIdx.x >= product_blocks) return;
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
      if (d.dropout.key) v[i] = rounded<T>(v[i] * mask.factor(row0 + i, k));
    }
#pragma unroll
    for (int r = 0; r < kFmaRanks; ++r) {
      const int64_t rank = rank0 + r;
      const float f = rank < d.rank ? rounded<T>(__ldg(d.factor + (d.factor_is_kr ? k * d.rank + rank : rank * d.k + k))) : 0.0f;
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

// ---------------------------------------------------------------------------------------------------------------------

using DownKernel = void (*)(Down, int64_t);
template <class T> DownKernel unaligned_down(int64_t tiles, bool kr) {
  if (tiles == 1) return kr ? down_mma<T, 2, 1, true> : down_mma<T, 2, 1, false>;
  if (tiles == 2) return kr ? down_mma<T, 2, 2, true> : down_mma<T, 2, 2, false>;
  if (tiles == 4) return kr ? down_mma<T, 2, 4, true> : down_mma<T, 2, 4, false>;
  return kr ? down_mma<T, 1, 8, true> : down_mma<T, 1, 8, false>;
}
struct PipedDown {
  void (*kernel)(Down, int64_t, int, Codes);
  int bytes, rows;
};
template <class T, int kTiles, int kRanks> PipedDown piped_of(bool kr) {
  using P = Piped<kTiles, kRanks>;
  return {kr ? down_piped<T, kTiles, kRanks, true> : down_piped<T, kTiles, kRanks, false>, P::kBytes, P::kRows};
}
template <class T, int kTiles> PipedDown piped_of(int64_t tiles, bool kr) {
  return tiles == 1   ? piped_of<T, kTiles, 1>(kr)
         : tiles == 2 ? piped_of<T, kTiles, 2>(kr)
         : tiles == 4 ? piped_of<T, kTiles, 4>(kr)
                      : piped_of<T, kTiles, 8>(kr);
}
PipedDown piped_down(DType dtype, int64_t tiles, bool kr, bool tall) {
  if (dtype == DType::F16) return piped_of<F16, 2>(tiles, kr);
  return tall ? piped_of<Bf16, 4>(tiles, kr) : piped_of<Bf16, 2>(tiles, kr);
}
// Blocks that share rows along K, for all multiprocessors to have work. A block fills its multiprocessor, and clusters of more than two
// would find too few of those side by side.
int split_of(int64_t row_blocks, int multiprocessors) { return row_blocks * 2 <= multiprocessors ? 2 : 1; }

// What down_piped decodes itself.
Codes codes_of(const Down& d) {
  if (!d.weight || d.weight->dtype != DType::NF4 || d.weight->numel() % kNf4Word != 0) return {};
  if (!all_aligned(4, d.weight->data) || !all_aligned(kVectorBytes, d.plain)) return {};
  return {d.weight->as<uint32_t>(), d.weight->numel() / kNf4Word, d.weight->nf4, static_cast<uint4*>(d.plain)};
}

}  // namespace

void adapter_down(const OpCall& call, const Down& d) {
  if (adapter_down_sm90(call, d)) return;
  int64_t pads = 0;
  for (const Pad& p : d.pads)
    if (p.to) {
      VLTUNE_CHECK(p.to_rows * p.to_columns <= INT32_MAX, "ERR_SHAPE", "%s: an adapter of more than 2^31 elements", call.op);
      pads += ceil_div(p.to_rows * p.to_columns, kPadded);
    }
  pads = std::min<int64_t>(pads, device().multiprocessors);
  const int64_t rank = padded_rank(d.rank), tiles = d.rank <= 8 ? 1 : d.rank <= 16 ? 2 : d.rank <= 32 ? 4 : 8;
  const bool mma = has_mma(d.dtype, device().capability());
  if (mma && device().capability() >= 80 && d.k % 32 == 0 && d.k > 0 && d.rank % (8 * tiles) == 0 && all_aligned(16, d.x, d.factor)) {
    const bool clusters = device().capability() >= 90;
    const bool tall = clusters && d.n > 32 * device().multiprocessors / 2;
    const PipedDown piped = piped_down(d.dtype, tiles, d.factor_is_kr, tall);
    if (static_cast<size_t>(piped.bytes) <= device().shared_bytes) {
      allow_shared(reinterpret_cast<const void*>(piped.kernel), piped.bytes);
      const Codes codes = codes_of(d);
      if (d.weight && !codes.words) weight_as(call, *d.weight, d.dtype, d.plain);
      if (codes.words) pads = device().multiprocessors;
      if (d.n == 0 && pads == 0) return;
      const int64_t row_blocks = ceil_div(d.n, piped.rows);
      const int split = clusters ? split_of(row_blocks, device().multiprocessors) : 1;
      const int64_t blocks = std::max(row_blocks * split, ceil_div(pads, split) * split);
      const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(d.rank / (8 * tiles)));
      LaunchConfig launch(stream_of(call), grid, kDownThreads, static_cast<size_t>(piped.bytes));
      launch.in_clusters(dim3(static_cast<unsigned>(split)));
      VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, piped.kernel, d, row_blocks * split, split, codes));
      check_launch(call);
      return;
    }
  }
  if (d.weight) weight_as(call, *d.weight, d.dtype, d.plain);
  if (d.n == 0 && pads == 0) return;
  int64_t blocks, ranks;
  DownKernel kernel;
  if (mma) {
    kernel = d.dtype == DType::F16 ? unaligned_down<F16>(tiles, d.factor_is_kr) : unaligned_down<Bf16>(tiles, d.factor_is_kr);
    blocks = ceil_div(d.n, tiles == 8 ? 16 : 32);
    ranks = tiles == 1 ? 1 : ceil_div(rank, 8 * tiles);
  } else {
    kernel = d.dtype == DType::BF16 ? down_fma<Bf16> : down_fma<float>;  // F16 is multiplied by every device
    blocks = ceil_div(d.n, kDownWarps * kFmaRows);
    ranks = rank / kFmaRanks;
  }
  if (ranks == 0) return;
  const dim3 grid(static_cast<unsigned>(std::max(blocks, pads)), static_cast<unsigned>(ranks));
  kernel<<<grid, kDownThreads, 0, stream_of(call)>>>(d, blocks);
  check_launch(call);
}
}  // namespace vltune::cuda
