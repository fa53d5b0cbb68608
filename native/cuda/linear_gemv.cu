#include "linear_gemv.h"

#include <algorithm>

#include "launch.cuh"
#include "mma.cuh"
#include "nf4.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = static_cast<int>(kGemvRows);

// What a kernel is told: Gemv with the weight's own pointers.
struct Job {
  int64_t n, in, out, rank;
  const void* x;
  const void* weight;
  Nf4State nf4;
  const void* bias;
  DType bias_dtype;
  const float *a, *b;
  float scale;
  Dropout dropout;
  float* u;
  void* y;
};


// ---- u = scale * drop(x) A^T: a block a rank ------------------------------------------------------------------------------

template <class T, int N> __global__ void __launch_bounds__(kThreads) down(Job job) {
  __shared__ float sums[kWarps][kRows];
  let_next_start();
  const T* x = static_cast<const T*>(job.x);
  const float* a = job.a + blockIdx.x * job.in;
  const Mask mask(job.dropout);
  float acc[kRows] = {};
  for (int64_t k = static_cast<int64_t>(threadIdx.x) * N; k < job.in; k += kThreads * N) {
    Lanes<N> f = load_lanes<N, Use::Constant>(a + k);
#pragma unroll
    for (int j = 0; j < N; ++j) f[j] = rounded<T>(f[j]);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i >= job.n) break;
      Lanes<N> v = load_lanes<N>(x + i * job.in + k);
      if (job.dropout.key) {
        if constexpr (N % 4 == 0) {
#pragma unroll
          for (int j = 0; j < N; j += 4) mask.apply4(i, (k + j) / 4, v.v + j);
        } else {
          v[0] *= mask.factor(i, k);
        }
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = rounded<T>(v[j]);
      }
#pragma unroll
      for (int j = 0; j < N; ++j) acc[i] = fmaf(v[j], f[j], acc[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const float sum = warp_sum(acc[i]);
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp][i] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= job.n) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += sums[w][threadIdx.x];
  job.u[threadIdx.x * job.rank + blockIdx.x] = job.scale * sum;
}

// y[row][column] of the sum over the weight, with bias and adapter; `u` and `b` are the row's and the column's.
template <class T, class U, class B> __device__ inline void finish(const Job& job, int64_t row, int64_t column, float sum, U&& u, B&& b) {
  if (job.bias) sum += element_of(job.bias, job.bias_dtype, column);
  for (int r = 0; r < job.rank; ++r) sum = fmaf(u(r), b(r), sum);
  static_cast<T*>(job.y)[row * job.out + column] = from_float<T>(sum);
}
template <class T> __device__ inline void finish(const Job& job, int64_t row, int64_t column, float sum) {
  finish<T>(job, row, column, sum, [&](int r) { return rounded<T>(__ldcg(job.u + row * job.rank + r)); },
            [&](int r) { return rounded<T>(__ldg(job.b + column * job.rank + r)); });
}

// The adapter's factors of a block's columns, on their way while the weight is; u when the previous kernel has ended.
constexpr int kGemvColumns = 16;  // of y, rows of the weight, a block
constexpr int kHeldRank = 32;     // longer ones are read where they lie
template <class T> struct Held {
  float b[kGemvColumns * kHeldRank], u[kRows * kHeldRank];
  __device__ void fetch_b(const Job& job, int64_t row0) {
    if (job.rank > kHeldRank) return;
    const int count = static_cast<int>(min(job.out - row0, int64_t{kGemvColumns}) * job.rank);
    for (int i = threadIdx.x; i < count; i += kThreads) b[i] = rounded<T>(__ldg(job.b + row0 * job.rank + i));
  }
  // Behind the barrier, thread i of the first 128 has `sum_of` its row and column to finish.
  template <class SumOf> __device__ void finish_all(const Job& job, int64_t row0, SumOf&& sum_of) {
    wait_for_previous();
    if (job.rank <= kHeldRank)
      for (int i = threadIdx.x; i < job.n * job.rank; i += kThreads) u[i] = rounded<T>(__ldcg(job.u + i));
    __syncthreads();
    if (threadIdx.x >= kGemvColumns * kRows) return;
    const int column = threadIdx.x % kGemvColumns, row = threadIdx.x / kGemvColumns, rank = static_cast<int>(job.rank);
    if (row >= job.n || row0 + column >= job.out) return;
    const float sum = sum_of(row, column);
    if (rank > kHeldRank) finish<T>(job, row, row0 + column, sum);
    else finish<T>(job, row, row0 + column, sum, [&](int r) { return u[row * rank + r]; }, [&](int r) { return b[column * rank + r]; });
  }
};

// ---- 16 bits by tensor cores ------------------------------------------------------------------------------------------------
// A warp multiplies 16 rows of the weight by up to 8 rows of x in one mma step; the block's warps take stretches along K in turn and
// their sums are added in order. A lane reads a piece of neighbours along K of two rows: which of K a step sees at which place does
// not matter as long as both factors agree, so the weight goes from memory to the tensor cores without a shuffle.

// Of a row of the weight W: kCount elements as pairs of T.
template <class T, class W> struct Piece {
  static constexpr int kCount = 16, kAhead = sizeof(W) == 2 ? 3 : 2;
  Packed<W, kCount> words;
  __device__ void load(const Job& job, int64_t row, int64_t k) {
    words = cuda::load<kCount, Use::Once>(static_cast<const W*>(job.weight) + row * job.in + k);
  }
  __device__ void pairs(uint32_t (&to)[kCount / 2], float) const {
    if constexpr (std::is_same_v<T, W>) {
#pragma unroll
      for (int i = 0; i < words.kWords; ++i) *reinterpret_cast<uint4*>(to + 4 * i) = words.words[i];
    } else {
      const Lanes<kCount> v = unpack(words);
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) to[i] = pack_pair<T>(v[2 * i], v[2 * i + 1]);
    }
  }
};
struct Nf4Codes {};
template <class T> struct Piece<T, Nf4Codes> {  // half a block
  static constexpr int kCount = 32, kAhead = 2;
  uint4 words;
  __device__ void load(const Job& job, int64_t row, int64_t k) {
    words = __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(job.weight) + (row * job.in + k) / 2));
  }
  __device__ void pairs(uint32_t (&to)[kCount / 2], float scale) const {
    const Nf4Values<T> values(scale);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t four[4];
      values.decode(word[i], four);
#pragma unroll
      for (int j = 0; j < 4; ++j) to[4 * i + j] = four[j];
    }
  }
};

template <class T, class W> __global__ void __launch_bounds__(kThreads, std::is_same_v<W, Nf4Codes> ? 3 : 2) gemv_mma(Job job) {
  if constexpr (!kHasMma<T>) return;
  using Of = Piece<T, W>;
  constexpr bool kIsNf4 = std::is_same_v<W, Nf4Codes>;
  constexpr int kCount = Of::kCount, kStep = 4 * kCount, kAhead = Of::kAhead;
  extern __shared__ float scales[];  // of NF4: of the block's rows
  __shared__ float sums[kWarps][kGemvColumns][kRows];
  __shared__ Held<T> held;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kGemvColumns;
  const int64_t low = min(row0 + g, job.out - 1), high = min(row0 + g + 8, job.out - 1);
  const int blocks = static_cast<int>(job.in / kNf4Block);  // of a row
  const T* x = static_cast<const T*>(job.x) + g * job.in;
  float acc[4] = {};
  const int in = static_cast<int>(job.in), stride = kWarps * kStep;
  Of piece[kAhead][2];
  const auto fetch = [&](int k0) {
#pragma unroll
    for (int s = 0; s < kAhead; ++s)
      if (const int k = k0 + s * stride; k < in) {
        piece[s][0].load(job, low, k);
        piece[s][1].load(job, high, k);
      }
  };
  int k0 = warp * kStep + t * kCount;
  fetch(k0);
  held.fetch_b(job, row0);
  if constexpr (kIsNf4) {  // while the codes are on their way
    const int count = static_cast<int>(min(job.out - row0, int64_t{kGemvColumns})) * blocks;
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += kThreads) scales[i] = nf4_scale(job.nf4, row0 * blocks + i);
    __syncthreads();
  }
  const float* low_scales = scales + (low - row0) * blocks;
  const float* high_scales = scales + (high - row0) * blocks;
  while (true) {
#pragma unroll
    for (int s = 0; s < kAhead; ++s) {
      const int k = k0 + s * stride;
      if (k >= in) break;  // the same for the whole warp
      uint4 factor[kCount / 8];
#pragma unroll
      for (int i = 0; i < kCount / 8; ++i)
        factor[i] = g < job.n ? __ldg(reinterpret_cast<const uint4*>(x + k) + i) : make_uint4(0, 0, 0, 0);
      uint32_t a[2][kCount / 2];
      piece[s][0].pairs(a[0], kIsNf4 ? low_scales[k / static_cast<int>(kNf4Block)] : 0.0f);
      piece[s][1].pairs(a[1], kIsNf4 ? high_scales[k / static_cast<int>(kNf4Block)] : 0.0f);
      const uint32_t* of = reinterpret_cast<const uint32_t*>(factor);
#pragma unroll
      for (int i = 0; i < kCount / 2; i += 2) {
        const uint32_t rows[4] = {a[0][i], a[1][i], a[0][i + 1], a[1][i + 1]};
        mma<T>(acc, rows, of[i], of[i + 1]);
      }
    }
    k0 += kAhead * stride;
    if (k0 - t * kCount >= in) break;
    fetch(k0);
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[warp][g + 8 * (c / 2)][2 * t + c % 2] = acc[c];
  held.finish_all(job, row0, [&](int row, int column) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][column][row];
    return sum;
  });
}

// ---- NF4 by tensor cores, at the speed of memory ----------------------------------------------------------------------------
// What bounds the kernel above is making values of codes. Here a byte of codes is looked up as a pair of F16 in a table that has a copy
// for every bank, and a block's scale meets the block's sum: the codes are right to 12 bits and the products with their scales are not
// rounded, which is nearer to the exact sum than factors rounded to T are. x becomes F16 too, times a power of two for each row
// that puts its greatest value near the top of the range: elements below 2^-39 of it are lost.

constexpr int kTableBytes = 256 * kWarp * 4;
constexpr int kNf4Ahead = 8;
constexpr int kPadBytes = 16;    // behind a row of x, so that rows of x do not meet in a bank
constexpr int kNf4Lane = 16;     // elements of a block that a lane takes

// The factor that puts `highest` between 2^14 and 2^15.
__device__ inline float factor_for(float highest) {
  const int exponent = static_cast<int>(__float_as_uint(highest) >> 23 & 255);
  return __uint_as_float(static_cast<uint32_t>(min(254, 127 + 14 + 127 - exponent)) << 23);
}

template <class T> __global__ void __launch_bounds__(kThreads, 3) gemv_nf4(Job job) {
  if constexpr (!kHasMma<T>) return;
  static_assert(kThreads == 256 && kNf4Block == 4 * kNf4Lane);
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float sums[kWarps][kGemvColumns][kRows], highest_of[kRows][kWarps];
  __shared__ Held<T> held;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kGemvColumns;
  const int64_t low = min(row0 + g, job.out - 1), high = min(row0 + g + 8, job.out - 1);
  const int n = static_cast<int>(job.n), in = static_cast<int>(job.in), blocks = in / static_cast<int>(kNf4Block);
  const int row_bytes = in * 2 + kPadBytes;
  unsigned char* rows = shared + kTableBytes;
  float* scales = reinterpret_cast<float*>(rows + n * row_bytes);

  // A warp takes pairs of neighbouring blocks: 64 bytes of a row.
  const auto block_of = [&](int step) { return warp * 2 + step % 2 + step / 2 * (2 * kWarps); };
  const uint8_t* low_codes = static_cast<const uint8_t*>(job.weight) + (low * in + t * kNf4Lane) / 2;
  const uint8_t* high_codes = static_cast<const uint8_t*>(job.weight) + (high * in + t * kNf4Lane) / 2;
  uint2 piece[kNf4Ahead][2];
  const auto fetch = [&](int step0) {
#pragma unroll
    for (int s = 0; s < kNf4Ahead; ++s)
      if (const int block = block_of(step0 + s); block < blocks) {
        piece[s][0] = __ldcs(reinterpret_cast<const uint2*>(low_codes + block * (kNf4Block / 2)));
        piece[s][1] = __ldcs(reinterpret_cast<const uint2*>(high_codes + block * (kNf4Block / 2)));
      }
  };
  fetch(0);

  // While the codes are on their way: the table, the scales, the adapter's factor, and x.
  held.fetch_b(job, row0);
  {
    const __half2 pair = __floats2half2_rn(kNf4Code[threadIdx.x / 16], kNf4Code[threadIdx.x % 16]);
    const uint32_t word = *reinterpret_cast<const uint32_t*>(&pair);
#pragma unroll
    for (int i = 0; i < 8; ++i)  // of 16 bytes; neighbouring threads begin at different ones
      reinterpret_cast<uint4*>(shared)[threadIdx.x * 8 + (i + threadIdx.x) % 8] = make_uint4(word, word, word, word);
  }
  const int count = static_cast<int>(min(job.out - row0, int64_t{kGemvColumns})) * blocks;
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += kThreads) scales[i] = nf4_scale(job.nf4, row0 * blocks + i);
  const T* x = static_cast<const T*>(job.x);
  for (int i = 0; i < n; ++i) {
    float highest = 0;
    for (int j = threadIdx.x * 8; j < in; j += kThreads * 8) {
      const Lanes<8> v = load_lanes<8>(x + static_cast<int64_t>(i) * in + j);
#pragma unroll
      for (int e = 0; e < 8; ++e) highest = fmaxf(highest, fabsf(v[e]));
    }
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
    if (lane == 0) highest_of[i][warp] = highest;
  }
  __syncthreads();
  const auto factor_of = [&](int row) {
    float highest = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, highest_of[row][w]);
    return factor_for(highest);
  };
  for (int i = 0; i < n; ++i) {
    const float factor = factor_of(i);
    for (int j = threadIdx.x * 8; j < in; j += kThreads * 8) {
      Lanes<8> v = load_lanes<8>(x + static_cast<int64_t>(i) * in + j);
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] *= factor;
      store_lanes(reinterpret_cast<F16*>(rows + i * row_bytes) + j, v);
    }
  }
  __syncthreads();

  float acc[4] = {};
  const unsigned char* factors = rows + g * row_bytes + t * kNf4Lane * 2;
  const uint32_t own = lane * 4;
  const auto look_up = [&](uint32_t byte_times_128) {
    return *reinterpret_cast<const uint32_t*>(shared + ((byte_times_128 & 0x7f80u) | own));
  };
  for (int step0 = 0; block_of(step0) < blocks; step0 += kNf4Ahead) {
    if (step0 > 0) fetch(step0);
#pragma unroll
    for (int s = 0; s < kNf4Ahead; ++s) {
      const int block = block_of(step0 + s);
      if (block >= blocks) break;  // the same for the whole warp
      uint4 factor[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
      if (g < n) {
        const uint4* from = reinterpret_cast<const uint4*>(factors + block * (kNf4Block * 2));
        factor[0] = from[0];
        factor[1] = from[1];
      }
      float part[4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t a = half ? piece[s][0].y : piece[s][0].x, b = half ? piece[s][1].y : piece[s][1].x;
        const uint32_t first[4] = {look_up(a << 7), look_up(b << 7), look_up(a >> 1), look_up(b >> 1)};
        const uint32_t second[4] = {look_up(a >> 9), look_up(b >> 9), look_up(a >> 17), look_up(b >> 17)};
        mma<F16>(part, first, factor[half].x, factor[half].y);
        mma<F16>(part, second, factor[half].z, factor[half].w);
      }
      const float low_scale = scales[static_cast<int>(low - row0) * blocks + block];
      const float high_scale = scales[static_cast<int>(high - row0) * blocks + block];
      acc[0] = fmaf(part[0], low_scale, acc[0]);
      acc[1] = fmaf(part[1], low_scale, acc[1]);
      acc[2] = fmaf(part[2], high_scale, acc[2]);
      acc[3] = fmaf(part[3], high_scale, acc[3]);
    }
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[warp][g + 8 * (c / 2)][2 * t + c % 2] = acc[c];
  held.finish_all(job, row0, [&](int row, int column) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][column][row];
    return sum / factor_of(row);
  });
}

// ---- any dtype and shape by FMAs: a warp a column of y ------------------------------------------------------------------------

template <class T, class W> __device__ inline float weight_at(const Job& job, int64_t at) {
  if constexpr (std::is_same_v<W, Nf4Codes>) {
    constexpr float kCode[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                                 -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                                 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                                 0.7229568362236023f, 1.0f};
    const uint32_t byte = __ldg(static_cast<const uint8_t*>(job.weight) + at / 2);
    const uint32_t code = at % 2 ? byte & 15 : byte >> 4;
    float value = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) value = code == i ? kCode[i] : value;
    return rounded<T>(__fmul_rn(value, nf4_scale(job.nf4, at / kNf4Block)));
  } else {
    return rounded<T>(to_float(static_cast<const W*>(job.weight)[at]));
  }
}

template <class T, class W> __global__ void __launch_bounds__(kThreads) gemv_fma(Job job) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  float acc[kRows] = {};
  if (column < job.out) {
    const T* x = static_cast<const T*>(job.x);
#pragma unroll 4
    for (int64_t k = lane; k < job.in; k += kWarp) {
      const float w = weight_at<T, W>(job, column * job.in + k);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (i < job.n) acc[i] = fmaf(to_float(x[i * job.in + k]), w, acc[i]);
    }
  }
  wait_for_previous();
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const float sum = warp_sum(acc[i]);
    if (lane == i && i < job.n && column < job.out) finish<T>(job, i, column, sum);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

using Kernel = void (*)(Job);

template <class T> Kernel fma_for(DType weight) {
  if (weight == DType::NF4) return gemv_fma<T, Nf4Codes>;
  return weight == DType::F32 ? gemv_fma<T, float> : weight == DType::BF16 ? gemv_fma<T, Bf16> : gemv_fma<T, F16>;
}
template <class T> Kernel mma_for(DType weight) {
  if (weight == DType::NF4) return gemv_mma<T, Nf4Codes>;
  return weight == DType::F32 ? gemv_mma<T, float> : weight == DType::BF16 ? gemv_mma<T, Bf16> : gemv_mma<T, F16>;
}

enum class Way { Plain, Mma, LookUp };
template <class T> Kernel kernel_for(DType weight, Way way) {
  if constexpr (sizeof(T) == 2) {
    if (way == Way::LookUp) return gemv_nf4<T>;
    if (way == Way::Mma) return mma_for<T>(weight);
  }
  return fma_for<T>(weight);
}

template <class T> void launch_down(const OpCall& call, const Job& job) {
  constexpr int N = kVector<T>;
  const bool wide = job.in % N == 0 && all_aligned(kVectorBytes, job.x, job.a);
  const Kernel kernel = wide ? down<T, N> : down<T, 1>;
  kernel<<<static_cast<unsigned>(job.rank), kThreads, 0, stream_of(call)>>>(job);
  check_launch(call);
}

}  // namespace

void linear_gemv(const OpCall& call, const Gemv& g) {
  if (g.n == 0) return;
  const Job job{g.n, g.in, g.out, g.rank, g.x, g.weight->data, g.weight->nf4, g.bias, g.bias_dtype,
                g.a, g.b, g.scale, g.dropout, g.u, g.y};
  if (g.rank > 0) with_activation(g.dtype, [&](auto tag) { launch_down<decltype(tag)>(call, job); });
  if (g.out == 0) return;
  const bool is_nf4 = g.weight->dtype == DType::NF4;
  const int64_t step = is_nf4 ? 4 * Piece<F16, Nf4Codes>::kCount : 4 * Piece<F16, F16>::kCount;
  const int64_t scale_bytes = is_nf4 ? kGemvColumns * g.in / kNf4Block * 4 : 0;
  const int64_t nf4_bytes = kTableBytes + g.n * (2 * g.in + kPadBytes) + scale_bytes;
  constexpr int64_t kMostScales = 38 << 10;  // bytes, beside what is static in 48 KiB
  // Two blocks on a multiprocessor where it has as much, beside what is static.
  const int64_t most_nf4 = std::min<int64_t>(static_cast<int64_t>(device().shared_bytes), 112 << 10) - (8 << 10);
  const bool tensor_cores = has_mma(g.dtype, device().capability()) && g.in > 0 && g.in < INT32_MAX / 4 && all_aligned(16, g.x, job.weight);
  const bool looks_up = tensor_cores && is_nf4 && g.in % kNf4Block == 0 && nf4_bytes <= most_nf4;
  const bool mma = tensor_cores && !looks_up && g.in % step == 0 && scale_bytes <= kMostScales;
  const Way way = looks_up ? Way::LookUp : mma ? Way::Mma : Way::Plain;
  Kernel kernel = nullptr;
  with_activation(g.dtype, [&](auto tag) { kernel = kernel_for<decltype(tag)>(g.weight->dtype, way); });
  const int64_t shared = looks_up ? nf4_bytes : mma ? scale_bytes : 0;
  if (looks_up) allow_shared(reinterpret_cast<const void*>(kernel), static_cast<int>(most_nf4));
  LaunchConfig launch(stream_of(call), dim3(static_cast<unsigned>(ceil_div(g.out, looks_up || mma ? kGemvColumns : kWarps))), kThreads,
                      static_cast<size_t>(shared));
  if (g.rank > 0) launch.overlapping();
  VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, kernel, job));
  check_launch(call);
}

}  // namespace vltune::cuda
