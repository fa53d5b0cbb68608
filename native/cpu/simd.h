// Vectors of F32, written once and compiled for each instruction set: 16 lanes with AVX-512, 8 with AVX2, 4 with NEON, and 4
// in plain C++ elsewhere. Everything here lives in the namespace of the instruction set, so that no inline function compiled
// for one is ever linked into another.
//
//   zero, broadcast(x)                     every lane the same
//   load(p), store(p, v)                   kLanes elements of float, Bf16 or (load only) F16; no alignment is asked for
//   load_n(p, n), store_n(p, v, n)         the first n, 0 <= n <= kLanes; other lanes read 0, memory past n is not touched
//   + - * /, sqrt, abs, min, max           min and max return b where a or b is NaN (AArch64: NaN)
//   fma(a, b, c) = a*b + c                 one rounding where the machine has it, else two; fnma(a, b, c) = c - a*b
//   fma_once(a, b, c)                      a*b + c with one rounding on every machine, however slow: where bits must agree
//   less(a, b), select(m, a, b)            comparison; a where m, else b
//   reduce_add(v), reduce_max(v)           over the lanes, always in the same order: halves are folded onto each other
//   exp(v)                                 within 1.1 ulp; 0 below -104, inf above 88.73, NaN stays NaN; subnormals included
//   sigmoid(v)                             1/(1 + exp(-v)), within 3 ulp; below -87 it may be 0
//   sigmoid_for(v, T{})                    the same where the result is to be rounded to T: for Bf16 within 2^-13
//
//   each_vector(n, step), load_part, store_part   loops over n elements of which the last vector may be short
//   first_lanes_of(v, n)                          0 in the lanes past the first n
//   sum_row(n, step)                              the sum of all lanes of step(i, count) over n elements
//   convert(from, to, n)                          elements of one type to another
//   prefetch(p, n)                                asks for elements that will be read soon
//
// Bf16 is rounded to nearest even; NaN becomes 0x7fc0.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
// GCC 12 takes the deliberately undefined pass-through operands inside its own AVX-512 header for mistakes (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#else
#include <cmath>
#endif

namespace vltune::cpu::VLTUNE_ISA {

struct Bf16 { uint16_t bits; };
struct F16 { uint16_t bits; };

// ---- one element ----------------------------------------------------------------------------------------------------

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(F16 x) {
  uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return bits_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // Times 2^112 moves the exponent's bias from 15 to 127, and makes subnormals normal; exact.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * 0x1p112f));
}
inline void from_float(float x, float* to) { *to = x; }
inline void from_float(float x, Bf16* to) {
  uint32_t bits = float_bits(x);
  to->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// ---- kLanes elements ------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)

constexpr int kLanes = 16;
struct Vec { __m512 v; };
struct Mask { __mmask16 m; };

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }

// One permutation of 16-bit words each way: into, or out of, the upper half of each lane.
inline Vec widen(__m256i bf16) {
  const __m512i from = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
  return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, from, _mm512_castsi256_si512(bf16)))};
}
inline __m256i narrow(Vec a) {
  const __m512i upper = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  const __m512i bits = _mm512_castps_si512(a.v);
  const __mmask16 number = _mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q);
  const __mmask16 odd = _mm512_mask_test_epi32_mask(number, bits, _mm512_set1_epi32(0x10000));
  __m512i rounded = _mm512_mask_add_epi32(_mm512_set1_epi32(0x7fc00000), number, bits, _mm512_set1_epi32(0x7fff));
  rounded = _mm512_mask_add_epi32(rounded, odd, bits, _mm512_set1_epi32(0x8000));
  return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, rounded));
}
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load(const Bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load(const F16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline Vec load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline Vec load_n(const Bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline Vec load_n(const F16* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store(Bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
inline void store_n(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline void store_n(Bf16* p, Vec a, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(a)); }

inline float reduce_add(Vec a) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
inline float reduce_max(Vec a) {
  __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
inline Vec round_even(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

#elif defined(__AVX2__)

constexpr int kLanes = 8;
struct Vec { __m256 v; };
struct Mask { __m256 m; };

inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Vec select(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }

inline Vec widen(__m128i bf16) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16))}; }
inline __m128i narrow(Vec a) {
  __m256i bits = _mm256_castps_si256(a.v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  bits = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fc0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}
template <class T> inline __m128i load_halves(const T* p, int n) {
  alignas(16) uint16_t bits[8] = {};
  std::memcpy(bits, p, static_cast<size_t>(n) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bits));
}
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec load(const Bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec load(const F16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline Vec load_n(const float* p, int n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
inline Vec load_n(const Bf16* p, int n) { return widen(load_halves(p, n)); }
inline Vec load_n(const F16* p, int n) { return {_mm256_cvtph_ps(load_halves(p, n))}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void store(Bf16* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
inline void store_n(float* p, Vec a, int n) { _mm256_maskstore_ps(p, first_lanes(n), a.v); }
inline void store_n(Bf16* p, Vec a, int n) {
  alignas(16) uint16_t bits[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(bits), narrow(a));
  std::memcpy(p, bits, static_cast<size_t>(n) * 2);
}

inline float reduce_add(Vec a) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
inline float reduce_max(Vec a) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
inline Vec round_even(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// In two steps, so that neither factor leaves the range of normal numbers.
inline Vec scale_by_power(Vec a, Vec n) {
  __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, first), second)};
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

constexpr int kLanes = 4;
struct Vec { float32x4_t v; };
struct Mask { uint32x4_t m; };

inline Vec zero() { return {vdupq_n_f32(0)}; }
inline Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
inline Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
inline Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
inline Mask less(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
inline Vec select(Mask m, Vec a, Vec b) { return {vbslq_f32(m.m, a.v, b.v)}; }

inline Vec widen(uint16x4_t bf16) { return {vreinterpretq_f32_u32(vshll_n_u16(bf16, 16))}; }
inline uint16x4_t narrow(Vec a) {
  uint32x4_t bits = vreinterpretq_u32_f32(a.v);
  uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  bits = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
  return vmovn_u32(vbslq_u32(vceqq_f32(a.v, a.v), bits, vdupq_n_u32(0x7fc0)));
}
inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline Vec load(const Bf16* p) { return widen(vld1_u16(&p->bits)); }
inline Vec load(const F16* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)))}; }
template <class T> inline Vec load_n(const T* p, int n) {
  float lanes[4] = {};
  for (int i = 0; i < n; ++i) lanes[i] = to_float(p[i]);
  return load(lanes);
}
inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
inline void store(Bf16* p, Vec a) { vst1_u16(&p->bits, narrow(a)); }
template <class T> inline void store_n(T* p, Vec a, int n) {
  float lanes[4];
  store(lanes, a);
  for (int i = 0; i < n; ++i) from_float(lanes[i], p + i);
}

inline float reduce_add(Vec a) {
  float32x2_t h = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
  return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
inline float reduce_max(Vec a) { return vmaxvq_f32(a.v); }
inline Vec round_even(Vec a) { return {vrndnq_f32(a.v)}; }
inline Vec scale_by_power(Vec a, Vec n) {
  int32x4_t whole = vcvtq_s32_f32(n.v), half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
  float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
  float32x4_t second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23));
  return {vmulq_f32(vmulq_f32(a.v, first), second)};
}

#else

constexpr int kLanes = 4;
struct Vec { float v[4]; };
struct Mask { bool m[4]; };

// Written out rather than looped: compilers turn this into vector code of the base instruction set more reliably.
#define VLTUNE_EACH(expression) \
  [&] { auto f = [&](int i) { return (expression); }; return Vec{{f(0), f(1), f(2), f(3)}}; }()
inline Vec zero() { return {{0, 0, 0, 0}}; }
inline Vec broadcast(float x) { return {{x, x, x, x}}; }
inline Vec operator+(Vec a, Vec b) { return VLTUNE_EACH(a.v[i] + b.v[i]); }
inline Vec operator-(Vec a, Vec b) { return VLTUNE_EACH(a.v[i] - b.v[i]); }
inline Vec operator*(Vec a, Vec b) { return VLTUNE_EACH(a.v[i] * b.v[i]); }
inline Vec operator/(Vec a, Vec b) { return VLTUNE_EACH(a.v[i] / b.v[i]); }
inline Vec fma(Vec a, Vec b, Vec c) { return VLTUNE_EACH(a.v[i] * b.v[i] + c.v[i]); }
inline Vec fnma(Vec a, Vec b, Vec c) { return VLTUNE_EACH(c.v[i] - a.v[i] * b.v[i]); }
inline Vec sqrt(Vec a) { return VLTUNE_EACH(::sqrtf(a.v[i])); }
inline Vec abs(Vec a) { return VLTUNE_EACH(bits_float(float_bits(a.v[i]) & 0x7fffffff)); }
inline Vec min(Vec a, Vec b) { return VLTUNE_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline Vec max(Vec a, Vec b) { return VLTUNE_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline Mask less(Vec a, Vec b) { return {{a.v[0] < b.v[0], a.v[1] < b.v[1], a.v[2] < b.v[2], a.v[3] < b.v[3]}}; }
inline Vec select(Mask m, Vec a, Vec b) { return VLTUNE_EACH(m.m[i] ? a.v[i] : b.v[i]); }
template <class T> inline Vec load(const T* p) { return VLTUNE_EACH(to_float(p[i])); }
template <class T> inline Vec load_n(const T* p, int n) { return VLTUNE_EACH(i < n ? to_float(p[i]) : 0.0f); }
template <class T> inline void store_n(T* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) from_float(a.v[i], p + i);
}
template <class T> inline void store(T* p, Vec a) { store_n(p, a, 4); }
inline float reduce_add(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float reduce_max(Vec a) {
  float x = a.v[0] > a.v[2] ? a.v[0] : a.v[2], y = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return x > y ? x : y;
}
// Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 to the nearest whole number; exp's range is far inside.
inline Vec round_even(Vec a) { return VLTUNE_EACH((a.v[i] + 0x1.8p23f) - 0x1.8p23f); }
inline Vec scale_by_power(Vec a, Vec n) {
  auto scale = [&](int i) {
    // Beyond these every result is 0 or infinite, and two factors of 2^127 are enough; NaN is a's as well.
    const float within = n.v[i] >= -252 ? (n.v[i] <= 254 ? n.v[i] : 254) : n.v[i] < -252 ? -252 : 0;
    int whole = static_cast<int>(within), half = whole >> 1;
    return a.v[i] * bits_float(static_cast<uint32_t>(half + 127) << 23) * bits_float(static_cast<uint32_t>(whole - half + 127) << 23);
  };
  return {{scale(0), scale(1), scale(2), scale(3)}};
}
#undef VLTUNE_EACH

#endif

#if defined(__AVX512F__) || defined(__AVX2__) || (defined(__ARM_NEON) && defined(__aarch64__))
inline Vec fma_once(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#else
inline Vec fma_once(Vec a, Vec b, Vec c) {
  return {{::fmaf(a.v[0], b.v[0], c.v[0]), ::fmaf(a.v[1], b.v[1], c.v[1]), ::fmaf(a.v[2], b.v[2], c.v[2]), ::fmaf(a.v[3], b.v[3], c.v[3])}};
}
#endif

// ---- written once ---------------------------------------------------------------------------------------------------

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2)/2; ln 2 in two parts, whose first has so few bits that n times it is
// exact. (exp(r) - 1 - r) / r^2 is a polynomial of degree 4, fitted at Chebyshev nodes; exp(r) errs by 2^-27.5.
inline Vec exp_between(Vec x) {  // -104 <= x <= 89
  Vec n = round_even(x * broadcast(1.44269504f));
  Vec r = fnma(n, broadcast(0.693359375f), x);
  r = fnma(n, broadcast(-2.12194440e-4f), r);
  Vec p = fma(broadcast(1.3946550898e-3f), r, broadcast(8.3692232147e-3f));
  p = fma(p, r, broadcast(4.1666261852e-2f));
  p = fma(p, r, broadcast(1.6666515172e-1f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  return scale_by_power(p, n);
}
// Operands in this order let NaN through min and max.
inline Vec exp(Vec x) { return exp_between(max(broadcast(-104.0f), min(broadcast(89.0f), x))); }

#if defined(__AVX512F__)
// A division of 16 lanes takes half as long as the rest of this. Instead: an estimate to 14 bits, and Newton's step. It needs a
// finite divisor, and below -87 the result is next to nothing.
inline Vec sigmoid(Vec x) {
  Vec divisor = broadcast(1.0f) + exp_between(max(broadcast(-104.0f), min(broadcast(87.0f), zero() - x)));
  Vec r = {_mm512_rcp14_ps(divisor.v)};
  r = fma(r, fnma(divisor, r, broadcast(1.0f)), r);
  return {_mm512_mask_mov_ps(r.v, _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.0f), _CMP_LT_OQ), _mm512_setzero_ps())};
}
// Rounding to Bf16 errs by up to 2^-9, so an estimate of the reciprocal to 14 bits will do, and a polynomial of degree 4 for 2^f,
// 0 <= f < 1 (fitted at Chebyshev nodes, within 2^-17.8). The instructions themselves take care of what is out of range.
inline Vec sigmoid_for(Vec x, Bf16) {
  const Vec t = x * broadcast(-1.44269504f), f = {_mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  Vec p = fma(broadcast(0.0136703094f), f, broadcast(0.0517449975f));
  p = fma(p, f, broadcast(0.241604358f));
  p = fma(p, f, broadcast(0.692972898f));
  p = fma(p, f, broadcast(1.00000346f));
  return {_mm512_rcp14_ps((broadcast(1.0f) + Vec{_mm512_scalef_ps(p.v, t.v)}).v)};
}
inline Vec sigmoid_for(Vec x, float) { return sigmoid(x); }
#else
inline Vec sigmoid(Vec x) { return broadcast(1.0f) / (broadcast(1.0f) + exp(zero() - x)); }
template <class T> inline Vec sigmoid_for(Vec x, T) { return sigmoid(x); }
#endif

// Calls step(i, count) for every vector of n elements; count is kLanes but for the last.
template <class Step> inline void each_vector(int64_t n, Step&& step) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) step(i, kLanes);
  if (i < n) step(i, static_cast<int>(n - i));
}
// Whole vectors by load and store, a last part by load_n and store_n; after inlining into each_vector there is no branch.
template <class T> inline Vec load_part(const T* p, int n) { return n == kLanes ? load(p) : load_n(p, n); }
template <class T> inline void store_part(T* p, Vec a, int n) { n == kLanes ? store(p, a) : store_n(p, a, n); }

// The first n lanes of a; 0 in those past them.
inline Vec first_lanes_of(Vec a, int n) {
  float lanes[kLanes];
  store(lanes, a);
  return load_n(lanes, n);
}

// The sum over a row of n elements of what step(i, count) makes of them, in four independent sums so that additions overlap.
template <class Step> inline float sum_row(int64_t n, Step&& step) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) sums[k] = sums[k] + step(i + k * kLanes, kLanes);
  each_vector(n - i, [&](int64_t j, int count) { sums[0] = sums[0] + step(i + j, count); });
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Asks for n elements that will be read soon; they need not be memory that may be read.
template <class T> inline void prefetch(const T* p, int64_t n) {
  const char* at = reinterpret_cast<const char*>(p);
  for (int64_t i = 0; i < n * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(at + i);
}

template <class From, class To> inline void convert(const From* from, To* to, int64_t n) {
  each_vector(n, [&](int64_t i, int count) { store_part(to + i, load_part(from + i, count), count); });
}

}  // namespace vltune::cpu::VLTUNE_ISA
