#include "../ops/adamw.h"

#include <cfloat>
#include <cmath>

#include "../ops/adamw_checks.h"
#include "../ops/code_tables.h"
#include "device.h"
#include "fast_math.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

// ---- norm -----------------------------------------------------------------------------------------------------------

constexpr int kNormThreads = 512;
constexpr int kRanges = 1024;                // partial sums, of equal ranges but for the last
constexpr int64_t kLeastRange = 16 * 1024;   // elements

int64_t norm_range(int64_t n) {
  const int64_t range = ceil_div(ceil_div(n, kRanges), kNormThreads * 4) * (kNormThreads * 4);
  return range > kLeastRange ? range : kLeastRange;
}

// Thread 0 has the sum, added in an order that the number of threads fixes.
__device__ double block_sum_f64(double sum, double* shared) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kNormThreads / kWarp; ++w) sum += shared[w];
  __syncthreads();
  return sum;
}

__device__ inline double add_square(double sum, float x) { return fma(static_cast<double>(x), static_cast<double>(x), sum); }

__device__ double sum_of_squares(const float* g, int64_t n, bool is_aligned) {
  double sum[4] = {0, 0, 0, 0};
  int64_t i = threadIdx.x * 4;
  if (is_aligned) {
#pragma unroll 4
    for (; i + 3 < n; i += kNormThreads * 4) {
      const float4 v = __ldg(reinterpret_cast<const float4*>(g + i));
      sum[0] = add_square(sum[0], v.x);
      sum[1] = add_square(sum[1], v.y);
      sum[2] = add_square(sum[2], v.z);
      sum[3] = add_square(sum[3], v.w);
    }
  }
  for (; i < n; i += kNormThreads * 4)
    for (int k = 0; k < 4 && i + k < n; ++k) sum[k] = add_square(sum[k], g[i + k]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// What is made of the sum of squares: native/ops/adamw.h. `scale` is nullptr where there is none.
struct Norm {
  float most;
  const float* scale;
  float *norm, *clip;
};

__device__ void finish_norm(const double* partial, int ranges, const Norm& of, double* shared) {
  double sum = 0;
  for (int r = threadIdx.x; r < ranges; r += kNormThreads) sum += partial[r];
  sum = block_sum_f64(sum, shared);
  if (threadIdx.x != 0) return;
  const float by = of.scale ? *of.scale : 1.0f, length = __fdiv_rn(static_cast<float>(::sqrt(sum)), by);
  *of.norm = length;
  const float coefficient = of.most > 0 ? __fdiv_rn(of.most, __fadd_rn(length, 1e-6f)) : 1.0f;
  *of.clip = length < INFINITY ? __fdiv_rn(coefficient > 1.0f ? 1.0f : coefficient, by) : 0.0f;
}

__global__ void __launch_bounds__(kNormThreads) add_ranges(const float* g, int64_t n, int64_t range, bool is_aligned, double* partial) {
  __shared__ double shared[kNormThreads / kWarp];
  const int64_t first = blockIdx.x * range;
  const double sum = block_sum_f64(sum_of_squares(g + first, n - first < range ? n - first : range, is_aligned), shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kNormThreads) add_partials(const double* partial, int ranges, Norm of) {
  __shared__ double shared[kNormThreads / kWarp];
  finish_norm(partial, ranges, of, shared);
}

// Both by one block, to the same bits: for short lists, and where there is no workspace.
__global__ void __launch_bounds__(kNormThreads) norm_of(const float* g, int64_t n, int64_t range, bool is_aligned, Norm of) {
  __shared__ double shared[kNormThreads / kWarp];
  __shared__ double partial[kRanges];
  int ranges = 0;
  for (int64_t first = 0; first < n; first += range, ++ranges) {
    const double sum = block_sum_f64(sum_of_squares(g + first, n - first < range ? n - first : range, is_aligned), shared);
    if (threadIdx.x == 0) partial[ranges] = sum;
  }
  __syncthreads();
  finish_norm(partial, ranges, of, shared);
}

// ---- codes of 8-bit state -------------------------------------------------------------------------------------------

constexpr int kStateBlock = kAdamwBlock;

// The code that bitsandbytes' search (quantize_2D) ends at: the nearest by F32 midpoints, a tie goes to the even code.
//
// The search is a look-up by the upper bits of a magnitude, exponent and first bits of the mantissa. Such a cell is narrower than two
// midpoints are apart, so its entry holds what it needs: the code at the cell's lower end, in the upper 8 bits, and in the lower 24
// what the rest of the mantissa is added to, so that it carries where the code is the next. Codes are counted from zero up; the signed
// map's negative half is its positive one mirrored, but for 1, which it has not.
template <bool kIsSigned> struct MapCells {
  static constexpr int kExponents = kIsSigned ? 22 : 23;  // from 2^-kExponents, below half of the smallest code
  static constexpr int kMantissaBits = kIsSigned ? 6 : 7;
  static constexpr int kShift = 23 - kMantissaBits;
  static constexpr int kCells = (kExponents << kMantissaBits) + 1;
  static constexpr uint32_t kFirst = static_cast<uint32_t>(127 - kExponents) << 23, kRest = (1u << kShift) - 1;
  static constexpr int kNegativeCodes = kIsSigned ? 127 : 0, kMost = 255 - kNegativeCodes;
  uint32_t entry[kCells];
  bool sound;

  // The largest magnitude, as bits, that has code k or less.
  static constexpr uint32_t last_of(int k) {
    const float* map = kIsSigned ? kDynamicMapSigned + kNegativeCodes : kDynamicMapUnsigned;
    const uint32_t midpoint = __builtin_bit_cast(uint32_t, (map[k] + map[k + 1]) * 0.5f);
    return (k + kNegativeCodes) % 2 == 0 ? midpoint : midpoint - 1;
  }
  constexpr MapCells() : entry{}, sound(true) {
    int k = 0;
    uint32_t last = last_of(0);
    for (int c = 0; c < kCells; ++c) {
      const uint32_t near = kFirst + (static_cast<uint32_t>(c) << kShift);
      while (k < kMost && last < near) last = ++k < kMost ? last_of(k) : 0xffffffffu;
      entry[c] = static_cast<uint32_t>(k) << 24 | (0xffffffu - (last - near < kRest ? last - near : kRest));
      if (k + 1 < kMost && last_of(k + 1) - near < kRest) sound = false;
    }
  }
};
constexpr MapCells<true> kSignedCells;
constexpr MapCells<false> kUnsignedCells;
static_assert(kSignedCells.sound && kUnsignedCells.sound);
__device__ const MapCells<true> kSignedCellsOfDevice;
__device__ const MapCells<false> kUnsignedCellsOfDevice;

struct Tables {
  uint32_t signed_cells[MapCells<true>::kCells], unsigned_cells[MapCells<false>::kCells];
  float signed_map[256], unsigned_map[256];
};

// NaN counts as 1.
template <bool kIsSigned> __device__ inline uint32_t code_from_zero(const uint32_t* cells, float x) {
  using Cells = MapCells<kIsSigned>;
  const uint32_t bits = __float_as_uint(fmaxf(fminf(fabsf(x), 1.0f), __uint_as_float(Cells::kFirst)));
  return (cells[(bits >> Cells::kShift) - (Cells::kFirst >> Cells::kShift)] + (bits & Cells::kRest)) >> 24;
}

// The code of m = x * absmax, whose sign the code must have: zero's code counts as positive. x is a number.
__device__ inline uint32_t plain_signed_code(const Tables& tables, float x) {
  const uint32_t k = code_from_zero<true>(tables.signed_cells, x);
  return __float_as_int(x) < 0 ? 127 - min(max(k, 1u), 127u) : 127 + k;
}

// NaN has code 0 of either map, and then moves by one if m has another sign, in 8 bits. (A block of zeros: 0 * inf is NaN, code 0; one
// less is 255, whose value, 1.0 * absmax, is 0 again.)
__device__ inline uint32_t signed_code(const Tables& tables, float m, float inverse) {
  const float x = fast::mul(inverse, m);
  if (x == x) return plain_signed_code(tables, x);
  return __float_as_int(m) < 0 ? 0 : m > 0.0f ? 1 : 255;
}
__device__ inline uint32_t unsigned_code(const Tables& tables, float v, float inverse) {
  const float x = fast::mul(inverse, v);
  return x == x ? code_from_zero<false>(tables.unsigned_cells, x) : 0;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kBlocksPerMultiprocessor = 3;  // 80 registers a thread: with four blocks there are 64, and some spill
constexpr int kQuads = kStateBlock / (kWarp * 4);  // a warp takes kStateBlock elements, a lane as many vectors of 4, kWarp * 4 apart

struct Arrays {
  float* params;
  const float* grads;
  uint8_t *m8, *v8;
  float *m8_absmax, *v8_absmax, *m32, *v32;
  const float *clip, *hyper;
  const int32_t* segments;
  int64_t total, size8, size32, count;  // of params, of 8-bit and 32-bit state, of segments
  bool is_aligned;                      // vectors of 4 may be read where a block of elements starts
  Fault* fault;
};

struct Segment {
  int64_t offset, numel, state;
  bool is_8bit, decays;
};

__device__ Segment read_segment(const int32_t* segments, int64_t k) {
  const int32_t* row = segments + k * 6;
  return {int64_t{row[0]} * kStateBlock, row[1], int64_t{row[2]} * kStateBlock, row[3] != 0, row[4] != 0};
}

template <bool kIsTorch> __device__ bool is_sound(const Arrays& a, const Segment& s) {
  return s.offset >= 0 && s.numel >= 0 && s.state >= 0 && s.offset + s.numel <= a.total &&
         s.state + s.numel <= (s.is_8bit ? a.size8 : a.size32) && !(kIsTorch && s.is_8bit);
}

// Blocks of elements; none for a segment outside its arrays.
template <bool kIsTorch> __device__ int64_t blocks_of(const Arrays& a, const Segment& s) {
  return is_sound<kIsTorch>(a, s) ? (s.numel + kStateBlock - 1) / kStateBlock : 0;
}

// Scalars of one step, in F32 as the kernels take them.
struct Step {
  float clip, beta1, beta2;
  float one_minus_beta1, one_minus_beta2;
  float step_size;  // -lr * c2 / c1 (bitsandbytes), -lr / c1 (torch)
  float eps, c2;
  float decay;      // 1 - lr * weight_decay
  bool decays;
};

// F32 hyperparameters come from decimal numbers. torch computes 1 - beta and the like in F64 from those, so take the number of
// seven digits that rounds to this F32 if there is one, else the F32 itself.
__device__ double as_written(float x) {
  const double value = fabs(static_cast<double>(x));
  if (!(value > 1e-15 && value < 1e15)) return x;
  double scale = 1;  // a power of ten, exact
  bool is_divided = false;
  while (value * scale < 1e6) scale *= 10;
  if (value >= 1e7) {
    is_divided = true;
    while (value / scale >= 1e7) scale *= 10;
  }
  const double digits = rint(is_divided ? value / scale : value * scale);
  const double decimal = is_divided ? digits * scale : digits / scale;
  return static_cast<float>(decimal) == fabsf(x) ? copysign(decimal, static_cast<double>(x)) : static_cast<double>(x);
}

template <bool kIsTorch> __device__ Step make_step(const float* hyper, float clip) {
  Step step;
  const float lr = hyper[0], weight_decay = hyper[4], t = hyper[5];
  step.clip = clip;
  step.beta1 = hyper[1];
  step.beta2 = hyper[2];
  step.eps = hyper[3];
  step.decays = weight_decay > 0;
  if constexpr (kIsTorch) {
    const double b1 = as_written(step.beta1), b2 = as_written(step.beta2), rate = as_written(lr);
    const double c1 = 1 - ::pow(b1, static_cast<double>(t)), c2 = ::sqrt(1 - ::pow(b2, static_cast<double>(t)));
    step.one_minus_beta1 = static_cast<float>(1 - b1);
    step.one_minus_beta2 = static_cast<float>(1 - b2);
    step.step_size = static_cast<float>(-(rate / c1));
    step.c2 = static_cast<float>(c2);
    step.decay = static_cast<float>(1 - __dmul_rn(rate, as_written(weight_decay)));
  } else {
    const float c1 = fast::sub(1.0f, fast::pow(step.beta1, t));
    step.c2 = fast::sqrt(fast::sub(1.0f, fast::pow(step.beta2, t)));
    step.one_minus_beta1 = fast::sub(1.0f, step.beta1);
    step.one_minus_beta2 = fast::sub(1.0f, step.beta2);
    step.step_size = fast::mul(fast::mul(step.c2, lr), -fast::reciprocal(c1));
    step.decay = fast::fma(-lr, weight_decay, 1.0f);
  }
  return step;
}

// What bitsandbytes' CUDA kernels compute (csrc/kernels.cu: kOptimizer32bit2State, kOptimizerStatic8bit2StateBlockwise), instruction
// by instruction as its published binaries do.
__device__ inline float update_bitsandbytes(float p, float m, float v, const Step& step, bool decays) {
  const float inverse = fast::reciprocal(fast::fma(step.c2, step.eps, fast::sqrt(v)));
  p = fast::fma(step.step_size, fast::mul(m, inverse), p);
  return decays ? fast::mul(p, step.decay) : p;
}

// A lane's elements of a block of n: element j of quad q is q * kWarp * 4 + lane * 4 + j. What lies beyond n reads as `none`.
template <class T> struct QuadOf;
template <> struct QuadOf<float> { using Word = float4; };
template <> struct QuadOf<uint8_t> { using Word = uint32_t; };

template <class T> __device__ void load_quad(const T* from, int i, int n, bool is_aligned, T none, T (&to)[4]) {
  using Word = typename QuadOf<T>::Word;
  if (is_aligned && i + 4 <= n) {
    *reinterpret_cast<Word*>(to) = *reinterpret_cast<const Word*>(from + i);
  } else {
    for (int j = 0; j < 4; ++j) to[j] = i + j < n ? from[i + j] : none;
  }
}
template <class T> __device__ void store_quad(T* to, int i, int n, bool is_aligned, const T (&from)[4]) {
  using Word = typename QuadOf<T>::Word;
  if (is_aligned && i + 4 <= n) {
    *reinterpret_cast<Word*>(to + i) = *reinterpret_cast<const Word*>(from);
  } else {
    for (int j = 0; j < 4; ++j)
      if (i + j < n) to[i + j] = from[j];
  }
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fast::max(__shfl_xor_sync(kAllLanes, x, offset), x);
  return x;
}

// A block of 256 in the plain case, which nearly all are: vectors are aligned, every gradient and scale is a number, and neither state
// is zero throughout. False, and nothing written, if it is not.
__device__ bool step_8bit_plain(const Arrays& a, const Tables& tables, const Step& step, bool decays, int64_t at, int64_t state) {
  const int lane = threadIdx.x % kWarp;
  const auto* grads = reinterpret_cast<const float4*>(a.grads + at) + lane;
  auto* params = reinterpret_cast<float4*>(a.params + at) + lane;
  auto* m8 = reinterpret_cast<uint32_t*>(a.m8 + state) + lane;
  auto* v8 = reinterpret_cast<uint32_t*>(a.v8 + state) + lane;
  float g[kQuads][4], p[kQuads][4], v[kQuads][4];
  uint32_t m_word[kQuads], v_word[kQuads];
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    m_word[q] = m8[q * kWarp];
    v_word[q] = v8[q * kWarp];
    *reinterpret_cast<float4*>(g[q]) = __ldg(grads + q * kWarp);
  }
  float* m_absmax = a.m8_absmax + state / kStateBlock;
  float* v_absmax = a.v8_absmax + state / kStateBlock;
  const float m_scale = *m_absmax, v_scale = *v_absmax;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) *reinterpret_cast<float4*>(p[q]) = params[q * kWarp];
  float m_largest = 0, v_largest = 0;
  bool is_plain = m_scale < INFINITY && v_scale < INFINITY;
  float(&m)[kQuads][4] = g;
#pragma unroll
  for (int q = 0; q < kQuads; ++q)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      is_plain = is_plain && fabsf(g[q][j]) < INFINITY;
      const float grad = fast::mul(g[q][j], step.clip);
      const float m_old = fast::mul(fast::mul(m_scale, tables.signed_map[m_word[q] >> (8 * j) & 255]), step.beta1);
      const float v_old = fast::mul(fast::mul(v_scale, tables.unsigned_map[v_word[q] >> (8 * j) & 255]), step.beta2);
      m[q][j] = fast::fma(grad, step.one_minus_beta1, m_old);
      v[q][j] = fast::fma(grad, fast::mul(step.one_minus_beta2, grad), v_old);
      m_largest = fast::max(fabsf(m[q][j]), m_largest);
      v_largest = fast::max(fabsf(v[q][j]), v_largest);
    }
  m_largest = warp_max(m_largest);
  v_largest = warp_max(v_largest);
  is_plain = is_plain && m_largest > 0 && m_largest < INFINITY && v_largest > 0 && v_largest < INFINITY;
  if (!__all_sync(kAllLanes, is_plain)) return false;
  const float m_inverse = fast::reciprocal(m_largest), v_inverse = fast::reciprocal(v_largest);
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    m_word[q] = v_word[q] = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      p[q][j] = update_bitsandbytes(p[q][j], m[q][j], v[q][j], step, decays);
      m_word[q] |= plain_signed_code(tables, fast::mul(m_inverse, m[q][j])) << (8 * j);
      v_word[q] |= code_from_zero<false>(tables.unsigned_cells, fast::mul(v_inverse, v[q][j])) << (8 * j);
    }
    params[q * kWarp] = *reinterpret_cast<const float4*>(p[q]);
    m8[q * kWarp] = m_word[q];
    v8[q * kWarp] = v_word[q];
  }
  if (lane == 0) {
    *m_absmax = m_largest;
    *v_absmax = v_largest;
  }
  return true;
}

// State is code * absmax. A gradient that is NaN or infinite zeroes its state and leaves its parameter alone. Elements that a short
// block lacks hold code 128 of m in bitsandbytes' kernel, and so count in its absmax.
__device__ __noinline__ void step_8bit(const Arrays& a, const Tables& tables, const Step& step, bool decays, int64_t at, int64_t state,
                                       int n) {
  const int lane = threadIdx.x % kWarp;
  alignas(16) float g[kQuads][4], p[kQuads][4];
  alignas(4) uint8_t m8[kQuads][4], v8[kQuads][4];
  float m[kQuads][4], v[kQuads][4];
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int i = (q * kWarp + lane) * 4;
    load_quad(a.m8 + state, i, n, a.is_aligned, uint8_t{128}, m8[q]);
    load_quad(a.v8 + state, i, n, a.is_aligned, uint8_t{0}, v8[q]);
    load_quad(a.grads + at, i, n, a.is_aligned, 0.0f, g[q]);
    load_quad(static_cast<const float*>(a.params) + at, i, n, a.is_aligned, 0.0f, p[q]);
  }
  float* m_absmax = a.m8_absmax + state / kStateBlock;
  float* v_absmax = a.v8_absmax + state / kStateBlock;
  const float m_scale = *m_absmax, v_scale = *v_absmax;
  float m_largest = -FLT_MAX, v_largest = -FLT_MAX;
#pragma unroll
  for (int q = 0; q < kQuads; ++q)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool is_finite = fabsf(g[q][j]) < INFINITY;
      const float grad = fast::mul(g[q][j], step.clip);
      const float m_old = fast::mul(fast::mul(m_scale, tables.signed_map[m8[q][j]]), step.beta1);
      const float v_old = fast::mul(fast::mul(v_scale, tables.unsigned_map[v8[q][j]]), step.beta2);
      m[q][j] = is_finite ? fast::fma(grad, step.one_minus_beta1, m_old) : 0.0f;
      v[q][j] = is_finite ? fast::fma(grad, fast::mul(step.one_minus_beta2, grad), v_old) : 0.0f;
      m_largest = fast::max(fabsf(m[q][j]), m_largest);
      v_largest = fast::max(fabsf(v[q][j]), v_largest);
      if (is_finite) p[q][j] = update_bitsandbytes(p[q][j], m[q][j], v[q][j], step, decays);
    }
  m_largest = warp_max(m_largest);
  v_largest = warp_max(v_largest);
  const float m_inverse = fast::reciprocal(m_largest), v_inverse = fast::reciprocal(v_largest);
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int i = (q * kWarp + lane) * 4;
    store_quad(a.params + at, i, n, a.is_aligned, p[q]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      m8[q][j] = static_cast<uint8_t>(signed_code(tables, m[q][j], m_inverse));
      v8[q][j] = static_cast<uint8_t>(unsigned_code(tables, v[q][j], v_inverse));
    }
    store_quad(a.m8 + state, i, n, a.is_aligned, m8[q]);
    store_quad(a.v8 + state, i, n, a.is_aligned, v8[q]);
  }
  if (lane == 0) {
    *m_absmax = m_largest;
    *v_absmax = v_largest;
  }
}

// kIsTorch: torch.optim.AdamW, single tensor on the CPU: decay, lerp, addcmul, addcdiv, each rounded as ATen rounds it.
template <bool kIsTorch> __device__ void step_32bit(const Arrays& a, const Step& step, bool decays, int64_t at, int64_t state, int n) {
  const int lane = threadIdx.x % kWarp;
  alignas(16) float g[kQuads][4], p[kQuads][4], m[kQuads][4], v[kQuads][4];
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int i = (q * kWarp + lane) * 4;
    load_quad(a.grads + at, i, n, a.is_aligned, 0.0f, g[q]);
    load_quad(static_cast<const float*>(a.params) + at, i, n, a.is_aligned, 0.0f, p[q]);
    load_quad(static_cast<const float*>(a.m32) + state, i, n, a.is_aligned, 0.0f, m[q]);
    load_quad(static_cast<const float*>(a.v32) + state, i, n, a.is_aligned, 0.0f, v[q]);
  }
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int i = (q * kWarp + lane) * 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (kIsTorch) {
        const float grad = __fmul_rn(g[q][j], step.clip);
        const float decayed = decays ? __fmul_rn(p[q][j], step.decay) : p[q][j];
        m[q][j] = __fmaf_rn(step.one_minus_beta1, __fsub_rn(grad, m[q][j]), m[q][j]);
        v[q][j] = __fmaf_rn(__fmul_rn(step.one_minus_beta2, grad), grad, __fmul_rn(v[q][j], step.beta2));
        const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v[q][j]), step.c2), step.eps);
        p[q][j] = __fadd_rn(decayed, __fdiv_rn(__fmul_rn(step.step_size, m[q][j]), denominator));
      } else {
        const float grad = fast::mul(g[q][j], step.clip);
        v[q][j] = fast::fma(v[q][j], step.beta2, fast::mul(step.one_minus_beta2, fast::mul(grad, grad)));
        m[q][j] = fast::fma(m[q][j], step.beta1, fast::mul(grad, step.one_minus_beta1));
        p[q][j] = update_bitsandbytes(p[q][j], m[q][j], v[q][j], step, decays);
      }
    }
    store_quad(a.params + at, i, n, a.is_aligned, p[q]);
    store_quad(a.m32 + state, i, n, a.is_aligned, m[q]);
    store_quad(a.v32 + state, i, n, a.is_aligned, v[q]);
  }
}

// One launch for all tensors. Warps take blocks of elements in turn, counted through all segments; thread t has counted those of the
// segments t * run .. (t + 1) * run, so a block's segment is found among the threads' sums and then within a run.
template <bool kIsTorch, bool kHas8bit>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) update(const __grid_constant__ Arrays a) {
  __shared__ int64_t before[kThreads];  // blocks of elements in the segments before thread t's
  __shared__ int64_t warp_sums[kWarps];
  __shared__ Step shared_step;
  __shared__ Tables tables;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if constexpr (kHas8bit) {
    for (int i = threadIdx.x; i < MapCells<true>::kCells; i += kThreads) tables.signed_cells[i] = kSignedCellsOfDevice.entry[i];
    for (int i = threadIdx.x; i < MapCells<false>::kCells; i += kThreads) tables.unsigned_cells[i] = kUnsignedCellsOfDevice.entry[i];
    for (int i = threadIdx.x; i < 256; i += kThreads) {
      tables.signed_map[i] = kDynamicMapSigned[i];
      tables.unsigned_map[i] = kDynamicMapUnsigned[i];
    }
  }
  if (threadIdx.x == kThreads - 1) shared_step = make_step<kIsTorch>(a.hyper, *a.clip);
  const int64_t run = (a.count + kThreads - 1) / kThreads;
  int64_t sum = 0;
  for (int64_t k = threadIdx.x * run; k < a.count && k < (threadIdx.x + 1) * run; ++k) {
    const Segment s = read_segment(a.segments, k);
    sum += blocks_of<kIsTorch>(a, s);
    if (blockIdx.x == 0 && !is_sound<kIsTorch>(a, s)) report_fault(a.fault, FaultKind::Segment, k, a.segments[k * 6 + 1], a.total);
  }
  int64_t up_to = sum;  // in the warp
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, up_to, offset);
    if (lane >= offset) up_to += other;
  }
  if (lane == kWarp - 1) warp_sums[warp] = up_to;
  __syncthreads();
  int64_t blocks = 0, warps_before = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) warps_before += warp_sums[w];
    blocks += warp_sums[w];
  }
  before[threadIdx.x] = warps_before + up_to - sum;
  __syncthreads();

  const Step& step = shared_step;
  if (step.clip == 0) return;
  // No number comes from these that is none.
  const bool is_plain = a.is_aligned && fabsf(step.clip) < INFINITY && step.one_minus_beta1 > 0 && step.one_minus_beta2 > 0;
  int64_t begin = 0, end = 0;  // the segment's blocks
  Segment s{};
  for (int64_t block = int64_t{blockIdx.x} * kWarps + warp; block < blocks; block += int64_t{gridDim.x} * kWarps) {
    if (block >= end) {
      int t = 0;  // the last with before[t] <= block
#pragma unroll
      for (int half = kThreads / 2; half > 0; half /= 2)
        if (before[t + half] <= block) t += half;
      end = before[t];
      for (int64_t k = t * run; block >= end; ++k) {
        s = read_segment(a.segments, k);
        begin = end;
        end += blocks_of<kIsTorch>(a, s);
      }
    }
    const int64_t first = (block - begin) * kStateBlock, rest = s.numel - first;
    const int n = static_cast<int>(rest < kStateBlock ? rest : kStateBlock);
    const bool decays = step.decays && s.decays;
    if constexpr (kHas8bit) {
      if (s.is_8bit) {
        if (is_plain && n == kStateBlock && step_8bit_plain(a, tables, step, decays, s.offset + first, s.state + first)) continue;
        step_8bit(a, tables, step, decays, s.offset + first, s.state + first, n);
        continue;
      }
    }
    step_32bit<kIsTorch>(a, step, decays, s.offset + first, s.state + first, n);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

}  // namespace

void grad_norm(const OpCall& call) {
  const Tensor &grads = input(call, 0), &scale = input(call, 1), &norm = output(call, 0), &clip = output(call, 1);
  check_grad_norm(call, grads, scale, norm, clip);
  const int64_t n = grads.dim(0), range = norm_range(n);
  const Norm of{static_cast<float>(call.attrs->number("max_grad_norm", 0)), scale.as<float>(), norm.as<float>(), clip.as<float>()};
  const bool aligned = all_aligned(kVectorBytes, grads.data);
  const int ranges = static_cast<int>(ceil_div(n, range));
  if (ranges <= 1 || call.workspace_bytes < sizeof(double) * static_cast<size_t>(ranges)) {
    norm_of<<<1, kNormThreads, 0, stream_of(call)>>>(grads.as<float>(), n, range, aligned, of);
    check_launch(call);
    return;
  }
  auto* partial = static_cast<double*>(call.workspace);
  add_ranges<<<ranges, kNormThreads, 0, stream_of(call)>>>(grads.as<float>(), n, range, aligned, partial);
  check_launch(call);
  add_partials<<<1, kNormThreads, 0, stream_of(call)>>>(partial, ranges, of);
  check_launch(call);
}

size_t grad_norm_workspace(const OpCall&) { return sizeof(double) * kRanges; }

void adamw(const OpCall& call) {
  const Tensor &grads = input(call, 0), &clip = input(call, 1), &hyper = input(call, 2), &segments = input(call, 3);
  const AdamwSizes sizes = check_adamw(call);
  if (segments.dim(0) == 0) return;
  const Arrays a = {output(call, 0).as<float>(),
                    grads.as<float>(),
                    output(call, 1).as<uint8_t>(),
                    output(call, 2).as<uint8_t>(),
                    output(call, 3).as<float>(),
                    output(call, 4).as<float>(),
                    output(call, 5).as<float>(),
                    output(call, 6).as<float>(),
                    clip.as<float>(),
                    hyper.as<float>(),
                    segments.as<int32_t>(),
                    sizes.params,
                    sizes.state8,
                    sizes.state32,
                    segments.dim(0),
                    all_aligned(kVectorBytes, output(call, 0).data, grads.data, output(call, 5).data, output(call, 6).data) &&
                        all_aligned(4, output(call, 1).data, output(call, 2).data),
                    call.fault};
  const int64_t most = int64_t{device().multiprocessors} * kBlocksPerMultiprocessor;
  const int64_t needed = ceil_div(ceil_div(sizes.params, kStateBlock) + 1, kWarps);
  const auto blocks = static_cast<unsigned>(needed < most ? needed : most);
  const auto kernel = sizes.torch ? update<true, false> : sizes.state8 > 0 ? update<false, true> : update<false, false>;
  kernel<<<blocks, kThreads, 0, stream_of(call)>>>(a);
  check_launch(call);
}

}  // namespace vltune::cuda
