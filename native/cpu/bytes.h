// Vectors of 32-bit integers made from bytes and made into bytes again, written once and compiled for each instruction set, beside
// the vectors of F32 in simd.h.
//
//   broadcast_int(x)            every lane the same
//   load_bytes(p)               kLanes bytes, 0 to 255; no alignment is asked for
//   multiply_add(a, b, c)       a * b + c, the low 32 bits
//   store_shifted(p, a, shift)  a >> shift (rounded down), clipped to 0 .. 255, as kLanes bytes
//
//   transpose_block(from, from_stride, to, to_stride)   to[x, y] = from[y, x] for 16 x 16 bytes
#pragma once
#include "simd.h"

#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace vltune::cpu::VLTUNE_ISA {

#if defined(__AVX512F__)

struct Ints { __m512i v; };
inline Ints broadcast_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints load_bytes(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline Ints multiply_add(Ints a, Ints b, Ints c) { return {_mm512_add_epi32(_mm512_mullo_epi32(a.v, b.v), c.v)}; }
inline void store_shifted(uint8_t* p, Ints a, int shift) {
  const __m512i shifted = _mm512_sra_epi32(a.v, _mm_cvtsi32_si128(shift));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_max_epi32(shifted, _mm512_setzero_si512())));
}

#elif defined(__AVX2__)

struct Ints { __m256i v; };
inline Ints broadcast_int(int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Ints load_bytes(const uint8_t* p) { return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))}; }
inline Ints multiply_add(Ints a, Ints b, Ints c) { return {_mm256_add_epi32(_mm256_mullo_epi32(a.v, b.v), c.v)}; }
inline void store_shifted(uint8_t* p, Ints a, int shift) {
  const __m256i shifted = _mm256_sra_epi32(a.v, _mm_cvtsi32_si128(shift));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(shifted), _mm256_extracti128_si256(shifted, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

struct Ints { int32x4_t v; };
inline Ints broadcast_int(int32_t x) { return {vdupq_n_s32(x)}; }
inline Ints load_bytes(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))))};
}
inline Ints multiply_add(Ints a, Ints b, Ints c) { return {vmlaq_s32(c.v, a.v, b.v)}; }
inline void store_shifted(uint8_t* p, Ints a, int shift) {
  const uint16x4_t words = vqmovun_s32(vshlq_s32(a.v, vdupq_n_s32(-shift)));
  const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
  std::memcpy(p, &four, 4);
}

#else

struct Ints { int32_t v[4]; };
inline Ints broadcast_int(int32_t x) { return {{x, x, x, x}}; }
inline Ints load_bytes(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline Ints multiply_add(Ints a, Ints b, Ints c) {
  for (int i = 0; i < 4; ++i) c.v[i] += a.v[i] * b.v[i];
  return c;
}
inline void store_shifted(uint8_t* p, Ints a, int shift) {
  for (int i = 0; i < 4; ++i) {
    const int32_t x = a.v[i] >> shift;
    p[i] = static_cast<uint8_t>(x < 0 ? 0 : x > 255 ? 255 : x);
  }
}

#endif

#if defined(__SSE2__) || defined(__AVX2__)
using Sixteen = __m128i;
inline Sixteen load_sixteen(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store_sixteen(uint8_t* p, Sixteen a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
inline Sixteen interleave_low(Sixteen a, Sixteen b) { return _mm_unpacklo_epi8(a, b); }
inline Sixteen interleave_high(Sixteen a, Sixteen b) { return _mm_unpackhi_epi8(a, b); }
#elif defined(__ARM_NEON) && defined(__aarch64__)
using Sixteen = uint8x16_t;
inline Sixteen load_sixteen(const uint8_t* p) { return vld1q_u8(p); }
inline void store_sixteen(uint8_t* p, Sixteen a) { vst1q_u8(p, a); }
inline Sixteen interleave_low(Sixteen a, Sixteen b) { return vzip1q_u8(a, b); }
inline Sixteen interleave_high(Sixteen a, Sixteen b) { return vzip2q_u8(a, b); }
#else
#define VLTUNE_NO_SIXTEEN
inline void transpose_block(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride) {
  for (int x = 0; x < 16; ++x)
    for (int y = 0; y < 16; ++y) to[x * to_stride + y] = from[y * from_stride + x];
}
#endif

#ifndef VLTUNE_NO_SIXTEEN
// Four times the rows are dealt like a pack of cards: after that the index of a byte in its row is that of the row it came from.
inline void transpose_block(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride) {
  Sixteen rows[16], dealt[16];
  for (int i = 0; i < 16; ++i) rows[i] = load_sixteen(from + i * from_stride);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      dealt[2 * i] = interleave_low(rows[i], rows[i + 8]);
      dealt[2 * i + 1] = interleave_high(rows[i], rows[i + 8]);
    }
    for (int i = 0; i < 16; ++i) rows[i] = dealt[i];
  }
  for (int i = 0; i < 16; ++i) store_sixteen(to + i * to_stride, rows[i]);
}
#endif
#undef VLTUNE_NO_SIXTEEN

}  // namespace vltune::cpu::VLTUNE_ISA
