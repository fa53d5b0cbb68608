#include "linear_gemv.h"

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
  bool bias_is_bf16;
  const float *a, *b;
  float scale;
  Dropout dropout;
  float* u;
  void* y;
};

template <class T> __device__ inline float rounded(float v) { return to_float(from_float<T>(v)); }

// The kernel that follows on the stream may start; it waits where it needs what this one writes.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

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

// y[row][column] of the sum over the weight, with bias and adapter.
template <class T> __device__ inline void finish(const Job& job, int64_t row, int64_t column, float sum) {
  if (job.bias && job.bias_is_bf16) sum += to_float(static_cast<const Bf16*>(job.bias)[column]);
  else if (job.bias) sum += static_cast<const float*>(job.bias)[column];
  const float* b = job.b + column * job.rank;
  for (int64_t r = 0; r < job.rank; ++r) sum = fmaf(rounded<T>(__ldcg(job.u + row * job.rank + r)), rounded<T>(__ldg(b + r)), sum);
  static_cast<T*>(job.y)[row * job.out + column] = from_float<T>(sum);
}

// ---- BF16 by tensor cores ---------------------------------------------------------------------------------------------------
// A warp multiplies 16 rows of the weight by up to 8 rows of x in one mma step; the block's warps take stretches along K in turn and
// their sums are added in order. A lane reads a piece of neighbours along K of two rows: which of K a step sees at which place does
// not matter as long as both factors agree, so the weight goes from memory to the tensor cores without a shuffle.

template <class W> struct Piece;  // of a row of the weight: kCount elements as pairs of BF16

template <> struct Piece<Bf16> {
  static constexpr int kCount = 16, kAhead = 3;
  uint4 words[2];
  __device__ void load(const Job& job, int64_t row, int64_t k) {
    const uint4* from = reinterpret_cast<const uint4*>(static_cast<const Bf16*>(job.weight) + row * job.in + k);
    words[0] = __ldcs(from);
    words[1] = __ldcs(from + 1);
  }
  __device__ void pairs(uint32_t (&to)[kCount / 2], float) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(to + 4 * i) = words[i];
  }
};
template <> struct Piece<F16> {
  static constexpr int kCount = 16, kAhead = 3;
  Packed<F16, 16> words;
  __device__ void load(const Job& job, int64_t row, int64_t k) {
    words = cuda::load<16, Use::Once>(static_cast<const F16*>(job.weight) + row * job.in + k);
  }
  __device__ void pairs(uint32_t (&to)[kCount / 2], float) const {
    const Lanes<16> v = unpack(words);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
  }
};
template <> struct Piece<float> {
  static constexpr int kCount = 16, kAhead = 2;
  Packed<float, 16> words;
  __device__ void load(const Job& job, int64_t row, int64_t k) {
    words = cuda::load<16, Use::Once>(static_cast<const float*>(job.weight) + row * job.in + k);
  }
  __device__ void pairs(uint32_t (&to)[kCount / 2], float) const {
    const Lanes<16> v = unpack(words);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
  }
};
struct Nf4Codes {};
template <> struct Piece<Nf4Codes> {  // half a block
  static constexpr int kCount = 32, kAhead = 2;
  uint4 words;
  __device__ void load(const Job& job, int64_t row, int64_t k) {
    words = __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(job.weight) + (row * job.in + k) / 2));
  }
  __device__ void pairs(uint32_t (&to)[kCount / 2], float scale) const {
    const Nf4Bf16Values values(scale);
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

constexpr int kGemvColumns = 16;  // of y, rows of the weight, a block

template <class W> __global__ void __launch_bounds__(kThreads, std::is_same_v<W, Nf4Codes> ? 3 : 2) gemv_mma(Job job) {
  using Of = Piece<W>;
  constexpr bool kIsNf4 = std::is_same_v<W, Nf4Codes>;
  constexpr int kCount = Of::kCount, kStep = 4 * kCount, kAhead = Of::kAhead;
  extern __shared__ float scales[];  // of NF4: of the block's rows
  __shared__ float sums[kWarps][kGemvColumns][kRows];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kGemvColumns;
  const int64_t low = min(row0 + g, job.out - 1), high = min(row0 + g + 8, job.out - 1);
  const int blocks = static_cast<int>(job.in / kNf4Block);  // of a row
  const Bf16* x = static_cast<const Bf16*>(job.x) + g * job.in;
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
        mma_bf16(acc, rows, of[i], of[i + 1]);
      }
    }
    k0 += kAhead * stride;
    if (k0 - t * kCount >= in) break;
    fetch(k0);
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[warp][g + 8 * (c / 2)][2 * t + c % 2] = acc[c];
  __syncthreads();
  wait_for_previous();
  if (threadIdx.x >= kGemvColumns * kRows) return;
  const int column = threadIdx.x % kGemvColumns, row = threadIdx.x / kGemvColumns;
  if (row >= job.n || row0 + column >= job.out) return;
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += sums[w][column][row];
  finish<Bf16>(job, row, row0 + column, sum);
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
Kernel mma_for(DType weight) {
  if (weight == DType::NF4) return gemv_mma<Nf4Codes>;
  return weight == DType::F32 ? gemv_mma<float> : weight == DType::BF16 ? gemv_mma<Bf16> : gemv_mma<F16>;
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
  const Job job{g.n, g.in, g.out, g.rank, g.x, g.weight->data, g.weight->nf4, g.bias, g.bias_dtype == DType::BF16,
                g.a, g.b, g.scale, g.dropout, g.u, g.y};
  const bool bf16 = g.dtype == DType::BF16;
  if (g.rank > 0) {
    if (bf16) launch_down<Bf16>(call, job);
    else launch_down<float>(call, job);
  }
  if (g.out == 0) return;
  const int64_t step = g.weight->dtype == DType::NF4 ? 4 * Piece<Nf4Codes>::kCount : 4 * Piece<Bf16>::kCount;  // a warp's along K
  const bool is_nf4 = g.weight->dtype == DType::NF4;
  constexpr int64_t kMostScales = 40 << 10;  // bytes, beside the sums in 48 KiB
  const int64_t scale_bytes = is_nf4 ? kGemvColumns * g.in / kNf4Block * 4 : 0;
  const bool fits = g.in % step == 0 && g.in > 0 && g.in < INT32_MAX / 2 && scale_bytes <= kMostScales && all_aligned(16, g.x, job.weight);
  const bool mma = bf16 && device().capability() >= 80 && fits;
  const Kernel kernel = mma ? mma_for(g.weight->dtype) : bf16 ? fma_for<Bf16>(g.weight->dtype) : fma_for<float>(g.weight->dtype);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(ceil_div(g.out, mma ? kGemvColumns : kWarps)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = mma ? static_cast<size_t>(scale_bytes) : 0;
  config.stream = stream_of(call);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = g.rank > 0 && device().capability() >= 90 ? 1 : 0;
  VLTUNE_CUDA(cudaLaunchKernelEx(&config, kernel, job));
  check_launch(call);
}

}  // namespace vltune::cuda
