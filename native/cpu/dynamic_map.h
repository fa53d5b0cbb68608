// The 8-bit dynamic data type of bitsandbytes (Dettmers 2022; functional.py: create_dynamic_map), and the code nearest to a value.
#pragma once
#include "nf4_tables.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// Literals, because the last bits depend on how torch rounds linspace. The signed map is in nf4_tables.h.
alignas(64) static constexpr float kDynamicMapUnsigned[256] = {
    0.0f, 3.2500003e-07f, 7.75e-07f, 2.1249998e-06f, 4.3749997e-06f, 6.625e-06f, 8.874999e-06f, 1.5624999e-05f,
    2.6875001e-05f, 3.8125e-05f, 4.9374998e-05f, 6.0625003e-05f, 7.1875e-05f, 8.312499e-05f, 9.4375e-05f, 0.000128125f,
    0.000184375f, 0.00024062501f, 0.00029687502f, 0.00035312498f, 0.00040937503f, 0.00046562502f, 0.00052187504f, 0.000578125f,
    0.000634375f, 0.00069062505f, 0.000746875f, 0.0008031251f, 0.00085937505f, 0.000915625f, 0.00097187504f, 0.001140625f,
    0.001421875f, 0.001703125f, 0.001984375f, 0.002265625f, 0.0025468748f, 0.002828125f, 0.0031093748f, 0.0033906251f,
    0.003671875f, 0.003953125f, 0.0042343745f, 0.004515625f, 0.0047968747f, 0.005078125f, 0.005359375f, 0.0056406246f,
    0.005921875f, 0.0062031248f, 0.006484375f, 0.0067656254f, 0.0070468746f, 0.007328125f, 0.0076093744f, 0.007890625f,
    0.008171875f, 0.008453124f, 0.008734375f, 0.009015624f, 0.0092968745f, 0.009578126f, 0.009859375f, 0.010703126f,
    0.012109376f, 0.013515624f, 0.014921876f, 0.016328124f, 0.017734377f, 0.019140625f, 0.020546874f, 0.021953126f,
    0.023359375f, 0.024765624f, 0.026171876f, 0.027578129f, 0.028984373f, 0.030390626f, 0.031796873f, 0.033203125f,
    0.034609374f, 0.036015626f, 0.03742188f, 0.038828123f, 0.040234376f, 0.041640624f, 0.043046873f, 0.044453125f,
    0.045859374f, 0.047265626f, 0.04867187f, 0.050078124f, 0.051484372f, 0.052890625f, 0.054296877f, 0.05570313f,
    0.057109382f, 0.058515627f, 0.059921872f, 0.061328124f, 0.06273438f, 0.06414063f, 0.06554688f, 0.06695312f,
    0.068359375f, 0.06976563f, 0.07117188f, 0.072578125f, 0.07398438f, 0.07539063f, 0.07679688f, 0.07820313f,
    0.07960938f, 0.081015624f, 0.08242188f, 0.08382813f, 0.085234374f, 0.086640626f, 0.08804687f, 0.08945312f,
    0.090859376f, 0.09226563f, 0.09367188f, 0.095078126f, 0.09648438f, 0.09789063f, 0.099296875f, 0.103515625f,
    0.11054687f, 0.11757813f, 0.12460937f, 0.13164061f, 0.13867188f, 0.14570314f, 0.15273437f, 0.15976563f,
    0.16679686f, 0.17382812f, 0.18085939f, 0.18789062f, 0.19492188f, 0.20195311f, 0.20898438f, 0.21601564f,
    0.22304687f, 0.23007813f, 0.23710936f, 0.24414062f, 0.25117186f, 0.25820312f, 0.26523438f, 0.2722656f,
    0.27929688f, 0.28632814f, 0.29335937f, 0.3003906f, 0.30742186f, 0.31445312f, 0.3214844f, 0.32851562f,
    0.33554685f, 0.3425781f, 0.34960938f, 0.35664064f, 0.36367187f, 0.3707031f, 0.37773436f, 0.38476562f,
    0.3917969f, 0.39882812f, 0.40585935f, 0.4128906f, 0.41992188f, 0.42695314f, 0.43398437f, 0.4410156f,
    0.44804686f, 0.45507812f, 0.4621094f, 0.46914062f, 0.47617185f, 0.4832031f, 0.49023438f, 0.4972656f,
    0.5042969f, 0.5113281f, 0.51835936f, 0.5253906f, 0.5324218f, 0.53945315f, 0.54648435f, 0.5535157f,
    0.5605469f, 0.56757814f, 0.5746094f, 0.5816406f, 0.5886719f, 0.5957031f, 0.6027344f, 0.60976565f,
    0.61679685f, 0.6238282f, 0.6308594f, 0.63789064f, 0.6449219f, 0.6519531f, 0.6589844f, 0.6660156f,
    0.6730469f, 0.68007815f, 0.68710935f, 0.6941407f, 0.7011719f, 0.70820314f, 0.7152344f, 0.7222656f,
    0.7292969f, 0.7363281f, 0.7433594f, 0.75039065f, 0.75742185f, 0.7644532f, 0.7714844f, 0.7785156f,
    0.7855469f, 0.7925781f, 0.7996094f, 0.8066406f, 0.8136718f, 0.82070315f, 0.82773435f, 0.8347657f,
    0.8417969f, 0.8488281f, 0.8558594f, 0.8628906f, 0.8699219f, 0.8769531f, 0.8839843f, 0.89101565f,
    0.89804685f, 0.9050782f, 0.9121094f, 0.9191406f, 0.9261719f, 0.9332031f, 0.9402344f, 0.9472656f,
    0.9542968f, 0.96132815f, 0.96835935f, 0.9753907f, 0.9824219f, 0.9894531f, 0.9964844f, 1.0f,
};

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
