// The 8-bit dynamic data type of bitsandbytes (Dettmers 2022; functional.py: create_dynamic_map), and the code nearest to a value.
#pragma once
#include "../ops/code_tables.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// nearest(x) is the code that bitsandbytes' binary search (dQuantize, quantize_2D) ends at, for |x| <= 1: nearest by F32
// midpoints, a tie goes to the even code, and NaN is code 0.
//
// The search is replaced by a table over the top bits of x: sign, exponent and the first bits of the mantissa. Such a cell is
// narrower than two midpoints are apart, so it holds the code at its lower end and the one value, if any, above which the code
// is the next.
class DynamicMap {
 public:
  DynamicMap(const float* map, bool is_signed) {
    mantissa_bits_ = is_signed ? 6 : 7;
    cells_ = (kExponents << mantissa_bits_) + 1;
    const uint32_t first = static_cast<uint32_t>(127 - kExponents) << 23;
    for (int sign = 0; sign <= (is_signed ? 1 : 0); ++sign)
      for (int c = 0; c < cells_; ++c) {
        // Magnitudes of the cell, as bits: the first takes all that are smaller, the last is 1 alone.
        const uint32_t near = c == 0 ? 0 : first + (static_cast<uint32_t>(c) << shift());
        const uint32_t far = c == cells_ - 1 ? near : first + (static_cast<uint32_t>(c + 1) << shift()) - 1;
        const float low = sign ? -bits_float(far) : bits_float(near), high = sign ? -bits_float(near) : bits_float(far);
        const int code = search(map, low);
        Cell& cell = table_[sign * cells_ + c];
        cell.code = code;
        cell.above = search(map, high) == code ? 2.0f : last_of(map, code);
      }
    if (!is_signed)  // no value is negative; -0 reads as 0
      for (int c = 0; c < cells_; ++c) table_[cells_ + c] = {2.0f, 0};
  }

  uint8_t nearest(float x) const {
    const uint32_t bits = float_bits(x), magnitude = bits & 0x7fffffff;
    const uint32_t first = static_cast<uint32_t>(127 - kExponents) << 23;
    uint32_t cell = magnitude <= first ? 0 : (magnitude - first) >> shift();
    if (cell >= static_cast<uint32_t>(cells_)) cell = static_cast<uint32_t>(cells_) - 1;
    const Cell& entry = table_[(bits >> 31 ? cells_ : 0) + static_cast<int>(cell)];
    return magnitude > 0x7f800000 ? 0 : static_cast<uint8_t>(entry.code + (x > entry.above));
  }

  // The same for n elements, x[i] * scale.
  void nearest(const float* x, float scale, int n, uint8_t* codes) const {
    int i = 0;
#if defined(__AVX512F__)
    const __m512i first = _mm512_set1_epi32((127 - kExponents) << 23), last = _mm512_set1_epi32(cells_ - 1);
    const __m128i count = _mm_cvtsi32_si128(shift());
    for (; i + 16 <= n; i += 16) {
      const Vec value = load(x + i) * broadcast(scale);
      const __m512i bits = _mm512_castps_si512(value.v), magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
      __m512i cell = _mm512_sub_epi32(_mm512_max_epi32(magnitude, first), first);
      cell = _mm512_min_epi32(_mm512_srl_epi32(cell, count), last);
      cell = _mm512_mask_add_epi32(cell, _mm512_movepi32_mask(bits), cell, _mm512_set1_epi32(cells_));
      const __m512 above = _mm512_i32gather_ps(cell, &table_[0].above, sizeof(Cell));
      __m512i code = _mm512_i32gather_epi32(cell, &table_[0].code, sizeof(Cell));
      code = _mm512_mask_add_epi32(code, _mm512_cmp_ps_mask(value.v, above, _CMP_GT_OQ), code, _mm512_set1_epi32(1));
      code = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(value.v, value.v, _CMP_ORD_Q), code);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(code));
    }
#endif
    for (; i < n; ++i) codes[i] = nearest(x[i] * scale);
  }

 private:
  static constexpr int kExponents = 24;  // from 2^-24, below half of the smallest code of either map
  struct Cell {
    float above;
    int32_t code;
  };
  int shift() const { return 23 - mantissa_bits_; }

  static int search(const float* map, float x) {
    int low = 0, high = 255;  // code `low` or above, `high` or below
    while (low < high) {
      const int middle = (low + high) / 2;
      if (x > last_of(map, middle)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  // The largest x whose code is k or less: the midpoint, or, since a tie goes to the even code, the float just below it.
  static float last_of(const float* map, int k) {
    const float midpoint = (map[k] + map[k + 1]) * 0.5f;
    if (k % 2 == 0) return midpoint;
    const uint32_t bits = float_bits(midpoint);
    return bits_float(bits >> 31 ? bits + 1 : bits - 1);
  }

  int mantissa_bits_, cells_;
  Cell table_[2 * ((kExponents << 7) + 1)];
};

// Made on first use, not at start: that would run this instruction set's code on any machine.
inline const DynamicMap& signed_dynamic_map() {
  static const DynamicMap map(kDynamicMapSigned, true);
  return map;
}
inline const DynamicMap& unsigned_dynamic_map() {
  static const DynamicMap map(kDynamicMapUnsigned, false);
  return map;
}

}  // namespace vltune::cpu::VLTUNE_ISA
