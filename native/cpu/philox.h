// Philox4x32-10 (Salmon et al. 2011), the counter-based generator behind dropout: a word depends on its counter and the key
// alone, so a mask is made again wherever it is needed, in any order, on any device.
#pragma once
#include <cstdint>

namespace vltune::cpu::VLTUNE_ISA {

struct Dropout {
  uint32_t key[2];
  uint32_t site;
  uint32_t threshold;  // keep if word >= threshold
  float scale;         // 1 / (1 - p)
};

// kPhiloxWide generators side by side: counters (row, block + l, site, 0), words[w][l].
constexpr int kPhiloxWide = 16;

inline void philox_wide(const Dropout& d, uint32_t row, uint32_t block, uint32_t words[4][kPhiloxWide]) {
  uint32_t x0[kPhiloxWide], x1[kPhiloxWide], x2[kPhiloxWide], x3[kPhiloxWide];
  for (int l = 0; l < kPhiloxWide; ++l) {
    x0[l] = row;
    x1[l] = block + static_cast<uint32_t>(l);
    x2[l] = d.site;
    x3[l] = 0;
  }
  uint32_t k0 = d.key[0], k1 = d.key[1];
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kPhiloxWide; ++l) {
      const uint64_t p0 = static_cast<uint64_t>(x0[l]) * 0xD2511F53u, p1 = static_cast<uint64_t>(x2[l]) * 0xCD9E8D57u;
      x0[l] = static_cast<uint32_t>(p1 >> 32) ^ x1[l] ^ k0;
      x1[l] = static_cast<uint32_t>(p1);
      x2[l] = static_cast<uint32_t>(p0 >> 32) ^ x3[l] ^ k1;
      x3[l] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int l = 0; l < kPhiloxWide; ++l) {
    words[0][l] = x0[l];
    words[1][l] = x1[l];
    words[2][l] = x2[l];
    words[3][l] = x3[l];
  }
}

// values[j] *= keep(row, column + j) ? scale : 0.
inline void dropout_row(const Dropout& d, int64_t row, int64_t column, int64_t count, float* values) {
  int64_t j = 0;
  while (j < count) {
    uint32_t words[4][kPhiloxWide];
    const int64_t first = (column + j) / 4;
    philox_wide(d, static_cast<uint32_t>(row), static_cast<uint32_t>(first), words);
    float factor[4 * kPhiloxWide];
    for (int l = 0; l < kPhiloxWide; ++l)
      for (int w = 0; w < 4; ++w) factor[4 * l + w] = words[w][l] >= d.threshold ? d.scale : 0.0f;
    const int64_t skip = column + j - first * 4;
    int64_t take = 4 * kPhiloxWide - skip;
    if (take > count - j) take = count - j;
    for (int64_t i = 0; i < take; ++i) values[j + i] *= factor[skip + i];
    j += take;
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
