// Philox4x32-10 (Salmon et al. 2011), the counter-based generator behind dropout: a word depends on its counter and the key
// alone, so a mask is made again wherever it is needed, in any order, on any device.
#pragma once
#include <cstdint>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace vltune::cpu::VLTUNE_ISA {

struct Dropout {
  uint32_t key[2];
  uint32_t site;
  uint32_t threshold;  // keep if word >= threshold
  float scale;         // 1 / (1 - p)
};

// kPhiloxWide generators side by side: counters (row, block + l, site, 0), words[w][l].
constexpr int kPhiloxWide = 16;

// As many lanes as a register has, with the low and high halves of their products by a constant.
#if defined(__AVX512F__)
struct Words {
  static constexpr int kCount = 16;
  __m512i v;
};
inline Words words_of(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
inline Words words_from(uint32_t first) {
  return {_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))};
}
inline Words operator^(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline void product(Words a, uint32_t factor, Words* low, Words* high) {
  const __m512i f = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(a.v, f), odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), f);
  low->v = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  high->v = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
inline void put(uint32_t* to, Words a) { _mm512_storeu_si512(to, a.v); }
#elif defined(__AVX2__)
struct Words {
  static constexpr int kCount = 8;
  __m256i v;
};
inline Words words_of(uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x))}; }
inline Words words_from(uint32_t first) {
  return {_mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))};
}
inline Words operator^(Words a, Words b) { return {_mm256_xor_si256(a.v, b.v)}; }
inline void product(Words a, uint32_t factor, Words* low, Words* high) {
  const __m256i f = _mm256_set1_epi32(static_cast<int>(factor));
  const __m256i even = _mm256_mul_epu32(a.v, f), odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), f);
  low->v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high->v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
inline void put(uint32_t* to, Words a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.v); }
#else
struct Words {
  static constexpr int kCount = 1;
  uint32_t v;
};
inline Words words_of(uint32_t x) { return {x}; }
inline Words words_from(uint32_t first) { return {first}; }
inline Words operator^(Words a, Words b) { return {a.v ^ b.v}; }
inline void product(Words a, uint32_t factor, Words* low, Words* high) {
  const uint64_t p = static_cast<uint64_t>(a.v) * factor;
  *low = {static_cast<uint32_t>(p)};
  *high = {static_cast<uint32_t>(p >> 32)};
}
inline void put(uint32_t* to, Words a) { *to = a.v; }
#endif

inline void philox_wide(const Dropout& d, uint32_t row, uint32_t block, uint32_t words[4][kPhiloxWide]) {
  for (int l = 0; l < kPhiloxWide; l += Words::kCount) {
    Words x0 = words_of(row), x1 = words_from(block + static_cast<uint32_t>(l)), x2 = words_of(d.site), x3 = words_of(0);
    uint32_t k0 = d.key[0], k1 = d.key[1];
    for (int round = 0; round < 10; ++round) {
      Words low0, high0, low1, high1;
      product(x0, 0xD2511F53u, &low0, &high0);
      product(x2, 0xCD9E8D57u, &low1, &high1);
      x0 = high1 ^ x1 ^ words_of(k0);
      x1 = low1;
      x2 = high0 ^ x3 ^ words_of(k1);
      x3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    put(words[0] + l, x0);
    put(words[1] + l, x1);
    put(words[2] + l, x2);
    put(words[3] + l, x3);
  }
}

// factor[4 l + w] = words[w][l] >= threshold ? scale : 0.
inline void keep_factors(const Dropout& d, const uint32_t words[4][kPhiloxWide], float factor[4 * kPhiloxWide]) {
  float by_word[4][kPhiloxWide];
  for (int w = 0; w < 4; ++w)
    for (int l = 0; l < kPhiloxWide; ++l) by_word[w][l] = words[w][l] >= d.threshold ? d.scale : 0.0f;
#if defined(__AVX2__)
  for (int l = 0; l < kPhiloxWide; l += 4) {
    __m128 a = _mm_loadu_ps(by_word[0] + l), b = _mm_loadu_ps(by_word[1] + l), c = _mm_loadu_ps(by_word[2] + l), e = _mm_loadu_ps(by_word[3] + l);
    _MM_TRANSPOSE4_PS(a, b, c, e);
    _mm_storeu_ps(factor + 4 * l, a);
    _mm_storeu_ps(factor + 4 * l + 4, b);
    _mm_storeu_ps(factor + 4 * l + 8, c);
    _mm_storeu_ps(factor + 4 * l + 12, e);
  }
#else
  for (int l = 0; l < kPhiloxWide; ++l)
    for (int w = 0; w < 4; ++w) factor[4 * l + w] = by_word[w][l];
#endif
}

// values[j] *= keep(row, column + j) ? scale : 0.
inline void dropout_row(const Dropout& d, int64_t row, int64_t column, int64_t count, float* values) {
  int64_t j = 0;
  while (j < count) {
    uint32_t words[4][kPhiloxWide];
    const int64_t first = (column + j) / 4;
    philox_wide(d, static_cast<uint32_t>(row), static_cast<uint32_t>(first), words);
    float factor[4 * kPhiloxWide];
    keep_factors(d, words, factor);
    const int64_t skip = column + j - first * 4;
    int64_t take = 4 * kPhiloxWide - skip;
    if (take > count - j) take = count - j;
    for (int64_t i = 0; i < take; ++i) values[j + i] *= factor[skip + i];
    j += take;
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
