#include "../ops/nf4.h"

#include "../ops/check.h"
#include "dispatch.h"
#include "dynamic_map.h"
#include "nf4.h"
#include "nf4_tables.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

// Code k + 1 rather than k above kThresholds[k], strictly: the F32 midpoints of the codes, as bitsandbytes' CPU backend takes them.
// The literals of its CUDA kernel, dQuantizeNF4, round to other floats in a few places, one unit in the last place away: some one
// value in a million gets the neighbouring code there.
constexpr float kThresholds[15] = {-0.8480963706970215f, -0.6106328964233398f, -0.4599952697753906f, -0.33967941999435425f,
                                   -0.23460739850997925f, -0.13791173696517944f, -0.045525018125772476f, 0.03979014977812767f,
                                   0.120255246758461f, 0.2035212516784668f, 0.2920137643814087f, 0.3893125355243683f,
                                   0.5016634464263916f, 0.6427869200706482f, 0.8614784479141235f};

// ---- quantise -------------------------------------------------------------------------------------------------------

constexpr int kBlock = static_cast<int>(kNf4Block);
constexpr int kVectors = kBlock / kLanes;

#if defined(__AVX512F__)

// [-1, 1] in 32 cells narrower than any two thresholds are apart: a value's cell gives a code and the one threshold that may lie
// in the cell, above which it is the next code. A value that rounding puts into the neighbouring cell gets the same code there,
// since no threshold is that near to a cell's edge.
constexpr float kCellsPerUnit = 15.9f;
struct Cells {
  alignas(64) float threshold[32];
  alignas(64) int32_t code[32];
  bool sound;
};
constexpr Cells make_cells() {
  Cells cells{};
  cells.sound = true;
  for (int c = 0; c < 32; ++c) {
    const double low = (c - 16) / static_cast<double>(kCellsPerUnit), high = (c - 15) / static_cast<double>(kCellsPerUnit);
    cells.threshold[c] = 2;  // above every value
    int inside = 0;
    for (int k = 0; k < 15; ++k) {
      const double t = static_cast<double>(kThresholds[k]);
      if (t < low) {
        ++cells.code[c];
      } else if (t < high) {
        cells.threshold[c] = kThresholds[k];
        ++inside;
      }
      const double to_low = t > low ? t - low : low - t, to_high = t > high ? t - high : high - t;
      if (to_low < 1e-5 || to_high < 1e-5) cells.sound = false;
    }
    if (inside > 1) cells.sound = false;
  }
  return cells;
}
constexpr Cells kCells = make_cells();
static_assert(kCells.sound);

// |x| <= 1, up to rounding, or NaN: that converts to an integer whose low five bits are 0, and compares false, so it is code 0.
inline __m512i codes_of(Vec x) {
  __m512i cell = _mm512_cvttps_epi32(fma(x, broadcast(kCellsPerUnit), broadcast(16.0f)).v);
  __m512 threshold = _mm512_permutex2var_ps(_mm512_load_ps(kCells.threshold), cell, _mm512_load_ps(kCells.threshold + 16));
  __m512i code = _mm512_permutex2var_epi32(_mm512_load_si512(kCells.code), cell, _mm512_load_si512(kCells.code + 16));
  __mmask16 above = _mm512_cmp_ps_mask(x.v, threshold, _CMP_GT_OQ);
  code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1));
  // The pair of a 64-bit lane in its low byte; the rest of the lane is of no use.
  return _mm512_or_si512(_mm512_slli_epi64(code, 4), _mm512_srli_epi64(code, 32));
}

inline void pack_codes(const Vec* scaled, uint8_t* to) {
  // Byte j of lane i is to become byte 8 * j + i: four vectors are laid over each other, then 8 x 4 bytes transposed.
  const __m512i byte = _mm512_set1_epi64(255);
  __m512i low = _mm512_ternarylogic_epi64(byte, codes_of(scaled[0]), _mm512_slli_epi64(codes_of(scaled[1]), 8), 0xca);
  __m512i high = _mm512_ternarylogic_epi64(byte, codes_of(scaled[2]), _mm512_slli_epi64(codes_of(scaled[3]), 8), 0xca);
  __m256i lanes = _mm512_cvtepi64_epi32(_mm512_ternarylogic_epi64(_mm512_set1_epi64(65535), low, _mm512_slli_epi64(high, 16), 0xca));
  const __m256i columns = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  lanes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(lanes, columns), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), lanes);
}

// max(|x|, most), dropping a NaN in x.
inline Vec larger_magnitude(Vec x, Vec most) { return {_mm512_range_ps(x.v, most.v, 0b1011)}; }

#else

inline Vec larger_magnitude(Vec x, Vec most) { return max(abs(x), most); }

inline void pack_codes(const Vec* scaled, uint8_t* to) {
  alignas(64) float x[kBlock];
  int32_t code[kBlock] = {};
  for (int v = 0; v < kVectors; ++v) store(x + v * kLanes, scaled[v]);
  for (float threshold : kThresholds)
    for (int i = 0; i < kBlock; ++i) code[i] += x[i] > threshold;
  for (int j = 0; j < kBlock / 2; ++j) to[j] = static_cast<uint8_t>(code[2 * j] << 4 | code[2 * j + 1]);
}

#endif

// bitsandbytes' CPU backend: the scale is the reciprocal of the absmax, or of 1e-38 where that is larger, so a block of zeros gets
// code 7. Comparisons drop NaN, as fmaxf does.
template <class T> inline void quantize_block(const T* x, uint8_t* codes, float* absmax) {
  Vec v[kVectors];
  Vec largest = zero();
  for (int i = 0; i < kVectors; ++i) {
    v[i] = load(x + i * kLanes);
    largest = larger_magnitude(v[i], largest);
  }
  *absmax = reduce_max(largest);
  const Vec scale = broadcast(1.0f / (*absmax > 1e-38f ? *absmax : 1e-38f));
  for (int i = 0; i < kVectors; ++i) v[i] = v[i] * scale;
  pack_codes(v, codes);
}

// A last block of fewer elements. bitsandbytes' CPU backend divides here where it multiplies elsewhere, and stores the 1e-38 that
// stands for the absmax of zeros. An odd count shows a zero as the low nibble of the last byte.
template <class T> void quantize_part(const T* x, int count, uint8_t* codes, float* absmax) {
  T padded[kBlock] = {};
  uint8_t all[kBlock / 2];
  std::memcpy(padded, x, static_cast<size_t>(count) * sizeof(T));
  Vec v[kVectors];
  Vec largest = broadcast(1e-38f);
  for (int i = 0; i < kVectors; ++i) {
    v[i] = load(padded + i * kLanes);
    largest = larger_magnitude(v[i], largest);
  }
  *absmax = reduce_max(largest);
  for (int i = 0; i < kVectors; ++i) v[i] = v[i] / broadcast(*absmax);
  pack_codes(v, all);
  std::memcpy(codes, all, static_cast<size_t>((count + 1) / 2));
}

// ---- dequantise -----------------------------------------------------------------------------------------------------

// The 16 values that a block can hold, rounded to T. Looking them up gives the same bits as multiplying element by element.
#if defined(__AVX512F__)

inline void read_block(const uint8_t* codes, float scale, float* to) {
  const __m512 values = (load(kNf4Code) * broadcast(scale)).v;
  for (int half = 0; half < 2; ++half) {
    // Nibbles in the order of the elements, one a byte; permutexvar looks at the low four bits alone.
    __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * half)), high = _mm_srli_epi16(low, 4);
    __m512i first = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, low)), second = _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(high, low));
    _mm512_storeu_ps(to + 32 * half, _mm512_permutexvar_ps(first, values));
    _mm512_storeu_ps(to + 32 * half + 16, _mm512_permutexvar_ps(second, values));
  }
}

inline void read_block(const uint8_t* codes, float scale, Bf16* to) {
  // Twice the table, so that the fifth bit of an index does not matter.
  const __m512i values = _mm512_broadcast_i64x4(narrow(load(kNf4Code) * broadcast(scale)));
  for (int half = 0; half < 2; ++half) {
    __m512i byte = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * half)));
    __m512i index = _mm512_or_si512(_mm512_srli_epi32(byte, 4), _mm512_slli_epi32(byte, 16));
    _mm512_storeu_si512(to + 32 * half, _mm512_permutexvar_epi16(index, values));
  }
}

#elif defined(__AVX2__)

inline void read_block(const uint8_t* codes, float scale, float* to) {
  const __m256 lower = (load(kNf4Code) * broadcast(scale)).v, upper = (load(kNf4Code + 8) * broadcast(scale)).v;
  for (int quarter = 0; quarter < 4; ++quarter) {
    __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + 8 * quarter));
    __m128i nibbles = _mm_and_si128(_mm_unpacklo_epi8(_mm_srli_epi16(low, 4), low), _mm_set1_epi8(15));
    for (int part = 0; part < 2; ++part) {
      __m256i index = _mm256_cvtepu8_epi32(part ? _mm_srli_si128(nibbles, 8) : nibbles);
      __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(lower, index), _mm256_permutevar8x32_ps(upper, index),
                                      _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
      _mm256_storeu_ps(to + 16 * quarter + 8 * part, value);
    }
  }
}

inline void read_block(const uint8_t* codes, float scale, Bf16* to) {
  // The low and the high bytes of the 16 values, each a table for pshufb.
  const __m128i first = narrow(load(kNf4Code) * broadcast(scale)), second = narrow(load(kNf4Code + 8) * broadcast(scale));
  const __m128i byte = _mm_set1_epi16(255), low_bytes = _mm_packus_epi16(_mm_and_si128(first, byte), _mm_and_si128(second, byte));
  const __m128i high_bytes = _mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8));
  for (int half = 0; half < 2; ++half) {
    __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * half)), high = _mm_srli_epi16(low, 4);
    low = _mm_and_si128(low, _mm_set1_epi8(15));
    high = _mm_and_si128(high, _mm_set1_epi8(15));
    for (int part = 0; part < 2; ++part) {
      __m128i index = part ? _mm_unpackhi_epi8(high, low) : _mm_unpacklo_epi8(high, low);
      __m128i a = _mm_shuffle_epi8(low_bytes, index), b = _mm_shuffle_epi8(high_bytes, index);
      __m128i* out = reinterpret_cast<__m128i*>(to + 32 * half + 16 * part);
      _mm_storeu_si128(out, _mm_unpacklo_epi8(a, b));
      _mm_storeu_si128(out + 1, _mm_unpackhi_epi8(a, b));
    }
  }
}

#else

template <class T> inline void read_block(const uint8_t* codes, float scale, T* to) {
  T values[16];
  for (int i = 0; i < 16; ++i) from_float(kNf4Code[i] * scale, values + i);
  for (int j = 0; j < kBlock / 2; ++j) {
    to[2 * j] = values[codes[j] >> 4];
    to[2 * j + 1] = values[codes[j] & 15];
  }
}

#endif

template <class T> void read(const Tensor& x, int64_t first, int64_t count, T* to) {
  const uint8_t* codes = x.as<uint8_t>();
  while (count > 0) {
    const int64_t block = first / kBlock, offset = first % kBlock;
    const int64_t part = count < kBlock - offset ? count : kBlock - offset;
    const float scale = nf4_scale(x.nf4, block);
    if (part == kBlock) {
      read_block(codes + first / 2, scale, to);
    } else {
      for (int64_t i = 0; i < part; ++i) {
        const uint8_t byte = codes[(first + i) / 2];
        from_float(kNf4Code[(first + i) % 2 ? byte & 15 : byte >> 4] * scale, to + i);
      }
    }
    first += part;
    to += part;
    count -= part;
  }
}

// Sums F32 as torch's CPU sum does on one thread of an x86 machine, with AVX2 and AVX-512 alike (ATen/native/cpu/SumKernel.cpp,
// cascade_sum): rows of 4 vectors of 8 are added level by level in blocks of 2^k rows, k from the number of rows; then the 4
// vectors, the rest, and at last the 8 lanes. Fewer numbers than one vector are summed as vectors of 1. With several threads
// torch's own bits differ for long lists; these are the same everywhere.
template <int kWidth> float cascade_sum(const float* x, int64_t n) {
  constexpr int kRow = 4 * kWidth, kLevels = 4;
  const int64_t vectors = n / kWidth, rows = vectors / 4;
  int64_t log2 = 0;
  while ((int64_t{1} << log2) < rows) ++log2;
  const int64_t power = log2 / kLevels > 4 ? log2 / kLevels : 4, step = int64_t{1} << power, mask = step - 1;
  float sums[kLevels][kRow] = {};
  auto add_row = [&](int64_t row) {
    for (int j = 0; j < kRow; ++j) sums[0][j] += x[row * kRow + j];
  };
  int64_t i = 0;
  while (i + step <= rows) {
    for (int64_t j = 0; j < step; ++j, ++i) add_row(i);
    for (int level = 1; level < kLevels; ++level) {
      for (int j = 0; j < kRow; ++j) {
        sums[level][j] += sums[level - 1][j];
        sums[level - 1][j] = 0;
      }
      if (i & (mask << (level * power))) break;
    }
  }
  for (; i < rows; ++i) add_row(i);
  for (int level = 1; level < kLevels; ++level)
    for (int j = 0; j < kRow; ++j) sums[0][j] += sums[level][j];
  float* lanes = sums[0];
  for (int64_t v = rows * 4; v < vectors; ++v)
    for (int j = 0; j < kWidth; ++j) lanes[j] += x[v * kWidth + j];
  for (int k = 1; k < 4; ++k)
    for (int j = 0; j < kWidth; ++j) lanes[j] += lanes[k * kWidth + j];
  float sum = 0;
  for (int64_t j = vectors * kWidth; j < n; ++j) sum += x[j];
  for (int j = 0; j < kWidth; ++j) sum += lanes[j];
  return sum;
}

}  // namespace

void nf4_read(const Tensor& x, int64_t first, int64_t count, float* to) { read(x, first, count, to); }
void nf4_read(const Tensor& x, int64_t first, int64_t count, Bf16* to) { read(x, first, count, to); }

void nf4_quantize(const OpCall& call) {
  const Tensor &x = input(call, 0), &codes = output(call, 0), &absmax = output(call, 1);
  check_present(call, x, "x");
  check_dtype(call, x, "x", kIsFloat);
  const int64_t n = x.numel(), blocks = (n + kBlock - 1) / kBlock;
  check_operand(call, codes, "codes", kIsU8, {(n + 1) / 2});
  check_operand(call, absmax, "absmax", kIsF32, {blocks});
  uint8_t* to = codes.as<uint8_t>();
  float* scale = absmax.as<float>();
  with_float(x.dtype, [&](auto tag) {
    const auto* from = x.as<decltype(tag)>();
    call.pool->parallel_for(blocks, kElementGrain / kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t first = b * kBlock;
        if (first + kBlock <= n) quantize_block(from + first, to + first / 2, scale + b);
        else quantize_part(from + first, static_cast<int>(n - first), to + first / 2, scale + b);
      }
    });
  });
}

namespace {

// The 8-bit codes as bitsandbytes' CPU library finds them: a value is rounded to one of 65,536 steps between -1 and 1, and the
// step's nearest code is taken. Near midpoints that is now and then the neighbour of the nearest code, which CUDA's search finds.
class SteppedCodes {
 public:
  SteppedCodes() {
    int code = 0;
    for (int i = 0; i < kSteps; ++i) {
      const double value = -1.0 + 2.0 * i / (kSteps - 1);
      while (code < 255 && kDynamicMapSigned[code + 1] - value < value - kDynamicMapSigned[code]) ++code;
      codes_[i] = static_cast<uint8_t>(code);
    }
  }
  // |x| <= 1. What is no number (0 / 0 in a block of equal scales) gets code 0.
  uint8_t nearest(float x) const {
    if (!(x >= -1.0f && x <= 1.0f)) return 0;
    return codes_[static_cast<int>((x + 1.0f) * 0.5f * (kSteps - 1) + 0.5f)];
  }

 private:
  static constexpr int kSteps = 65536;
  uint8_t codes_[kSteps];
};

const SteppedCodes& stepped_codes() {
  static const SteppedCodes codes;
  return codes;
}

}  // namespace

void nf4_quantize_absmax(const OpCall& call) {
  const Tensor &absmax = input(call, 0), &codes = output(call, 0), &nested = output(call, 1), &offset = output(call, 2);
  check_operand(call, absmax, "absmax", kIsF32, {kAny});
  const int64_t n = absmax.dim(0), blocks = (n + kNf4NestedBlock - 1) / kNf4NestedBlock;
  check_operand(call, codes, "absmax_u8", kIsU8, {n});
  check_operand(call, nested, "nested_absmax", kIsF32, {blocks});
  check_operand(call, offset, "offset", kIsF32, {1});
  if (n == 0) return;
  const float* x = absmax.as<float>();
  const float mean = (n < 8 ? cascade_sum<1>(x, n) : cascade_sum<8>(x, n)) / static_cast<float>(n);
  *offset.as<float>() = mean;
  const SteppedCodes& stepped = stepped_codes();
  call.pool->parallel_for(blocks, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kNf4NestedBlock, last = first + kNf4NestedBlock < n ? first + kNf4NestedBlock : n;
      float largest = 0;
      for (int64_t i = first; i < last; ++i) {
        const float magnitude = bits_float(float_bits(x[i] - mean) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
      }
      nested.as<float>()[b] = largest;
      const float scale = 1.0f / largest;
      for (int64_t i = first; i < last; ++i) codes.as<uint8_t>()[i] = stepped.nearest((x[i] - mean) * scale);
    }
  });
}

void nf4_dequantize(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_present(call, x, "x");
  check_present(call, y, "y");
  check_dtype(call, x, "x", kIsNf4);
  check_dtype(call, y, "y", kIsActivation);
  check_numel(call, y, "y", x.numel());
  with_activation(y.dtype, [&](auto tag) {
    auto* to = y.as<decltype(tag)>();
    call.pool->parallel_for(x.numel(), kElementGrain, [&](int64_t begin, int64_t end) { read(x, begin, end - begin, to + begin); });
  });
}

void dynamic_map(const OpCall& call) {
  const Tensor &of_signed = output(call, 0), &of_unsigned = output(call, 1);
  check_operand(call, of_signed, "signed", kIsF32, {256});
  check_operand(call, of_unsigned, "unsigned", kIsF32, {256});
  std::memcpy(of_signed.data, kDynamicMapSigned, sizeof kDynamicMapSigned);
  std::memcpy(of_unsigned.data, kDynamicMapUnsigned, sizeof kDynamicMapUnsigned);
}

}  // namespace vltune::cpu::VLTUNE_ISA
