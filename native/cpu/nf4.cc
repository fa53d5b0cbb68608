#include "../ops/nf4.h"

#include <type_traits>

#include "../ops/code_tables.h"
#include "../ops/nf4_checks.h"
#include "dispatch.h"
#include "dynamic_map.h"
#include "nf4.h"
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

inline void pack_codes(const Vec* scaled, uint8_t* to) {
  alignas(64) float x[kBlock];
  int32_t code[kBlock] = {};
  for (int v = 0; v < kVectors; ++v) store(x + v * kLanes, scaled[v]);
  for (float threshold : kThresholds)
    for (int i = 0; i < kBlock; ++i) code[i] += x[i] > threshold;
  for (int j = 0; j < kBlock / 2; ++j) to[j] = static_cast<uint8_t>(code[2 * j] << 4 | code[2 * j + 1]);
}

// bitsandbytes' CPU backend: the scale is the reciprocal of the absmax, or of 1e-38 where that is larger, so a block of zeros gets
// code 7. Comparisons drop NaN, as fmaxf does.
template <class T> inline void quantize_block(const T* x, uint8_t* codes, float* absmax) {
  Vec v[kVectors];
  Vec largest = zero();
  for (int i = 0; i < kVectors; ++i) {
    v[i] = load(x + i * kLanes);
    largest = max(abs(v[i]), largest);
  }
  *absmax = reduce_max(largest);
  const Vec scale = broadcast(1.0f / (*absmax > 1e-38f ? *absmax : 1e-38f));
  for (int i = 0; i < kVectors; ++i) v[i] = v[i] * scale;
  pack_codes(v, codes);
}

#if defined(__AVX512F__)

// Whole blocks, 16 at a time: one division makes their 16 scales, and codes are found on 16-bit words, 32 to a vector.
//
// A value is rounded to w = x * scale * kStep, a whole number. Its cell, w's upper five bits, holds at most one threshold; so one
// look-up by cell and one addition make a word whose upper four bits are the code: code * 4096 + (how far w is above the cell's
// threshold, or below the next code). Where w is the threshold's own step the lower twelve bits are 0, and its block is done again
// by quantize_block, which compares exactly; so are blocks whose absmax is no plain number. One block in some 60 is.
constexpr int kGroup = 16;
constexpr float kStep = 32700.0f;  // 32,768 would leave the words at 1, and puts thresholds nearer to the edges of steps
struct Cells {
  alignas(64) uint16_t add[32];
  bool sound;
};
constexpr Cells make_cells() {
  Cells cells{};
  cells.sound = true;
  int step[15] = {};
  for (int k = 0; k < 15; ++k) {
    const double exact = static_cast<double>(kThresholds[k]) * static_cast<double>(kStep);
    step[k] = static_cast<int>(exact < 0 ? exact - 0.5 : exact + 0.5);
    // Rounding of the scale and of products moves a value by less than 0.008 of a step.
    const double off = exact - step[k];
    if (off > 0.49 || off < -0.49) cells.sound = false;
  }
  for (int c = -16; c < 16; ++c) {
    const int low = c * 2048, high = low + 2048;
    int code = 0, inside = 0, origin = low - 1;  // a word of a cell without a threshold is never 0 in its lower twelve bits
    for (int k = 0; k < 15; ++k) {
      if (step[k] < high) ++code;
      if (step[k] >= low && step[k] < high) {
        origin = step[k];
        ++inside;
      }
    }
    if (inside > 1) cells.sound = false;
    cells.add[c & 31] = static_cast<uint16_t>(code * 4096 - origin);
  }
  return cells;
}
constexpr Cells kCells = make_cells();
static_assert(kCells.sound);

// The greatest magnitude of a block as F32 bits, in some of 16 lanes: bits of magnitudes are ordered as the magnitudes are, with
// NaN above all.
template <class T> inline __m512i largest_bits(const T* x) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i a = _mm512_castps_si512(load(x).v), b = _mm512_castps_si512(load(x + 16).v);
  __m512i c = _mm512_castps_si512(load(x + 32).v), d = _mm512_castps_si512(load(x + 48).v);
  a = _mm512_max_epu32(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude));
  c = _mm512_max_epu32(_mm512_and_si512(c, magnitude), _mm512_and_si512(d, magnitude));
  return _mm512_max_epu32(a, c);
}
template <class T> inline __m512i larger_bits(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }

// Of Bf16 the upper and the lower half of a lane are elements of their own.
template <> inline __m512i largest_bits(const Bf16* x) {
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(x + 32);
  return _mm512_max_epu16(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude));
}
template <> inline __m512i larger_bits<Bf16>(__m512i a, __m512i b) { return _mm512_max_epu16(a, b); }

// Lane b: the greatest of vector b. Pairs of vectors are interleaved and folded, four times.
template <class T> inline __m512i largest_of_each(__m512i* v) {
  for (int i = 0; i < 8; ++i)
    v[i] = larger_bits<T>(_mm512_unpacklo_epi32(v[i], v[i + 8]), _mm512_unpackhi_epi32(v[i], v[i + 8]));
  for (int i = 0; i < 4; ++i)
    v[i] = larger_bits<T>(_mm512_unpacklo_epi32(v[i], v[i + 4]), _mm512_unpackhi_epi32(v[i], v[i + 4]));
  // Each 128 bits of v[i] now are of the vectors i, i + 4, i + 8 and i + 12.
  for (int i = 0; i < 2; ++i)
    v[i] = larger_bits<T>(_mm512_shuffle_i32x4(v[i], v[i + 2], 0x44), _mm512_shuffle_i32x4(v[i], v[i + 2], 0xee));
  v[0] = larger_bits<T>(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
  if (std::is_same_v<T, Bf16>) v[0] = _mm512_maskz_max_epu16(0xaaaaaaaa, v[0], _mm512_slli_epi32(v[0], 16));
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15), v[0]);
}

// Steps of 32 elements as words, neighbours side by side.
template <class T> inline __m512i steps_of(const T* x, __m512 scale) {
  __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(load(x).v, scale)), high = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + 16).v, scale));
  return _mm512_packs_epi32(low, high);
}
inline __m512i steps_of(const Bf16* x, __m512 scale) {
  // Added to 1.5 * 2^23, a number is rounded to a whole one, which is then the lower half of the sum's bits.
  const __m512 round = _mm512_set1_ps(0x1.8p23f);
  const __m512i v = _mm512_loadu_si512(x);
  __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
  __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  even = _mm512_fmadd_ps(even, scale, round);
  odd = _mm512_fmadd_ps(odd, scale, round);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_castps_si512(even), _mm512_slli_epi32(_mm512_castps_si512(odd), 16));
}

// Where packing has put each two bytes of two blocks, by whether steps_of keeps the order (Bf16) or not.
struct Order { alignas(64) uint16_t from[32]; };
template <class T> constexpr Order make_order() {
  constexpr bool kept = std::is_same_v<T, Bf16>;
  Order order{};
  for (int i = 0; i < 32; ++i) {
    const int block = i / 16, word = i % 16, half = word / 8;  // four elements a word
    const int lane = kept ? word % 8 / 2 : word % 4, within = kept ? word % 2 : word % 8 / 4;
    order.from[i] = static_cast<uint16_t>(lane * 8 + block * 4 + half * 2 + within);
  }
  return order;
}
template <class T> constexpr Order kOrder = make_order<T>();

// A block's codes, two to a byte, one byte to a word; *doubtful: bits set where a code may be wrong.
template <class T> inline __m512i words_of(const T* x, float scale, __mmask32* doubtful) {
  const __m512 s = _mm512_set1_ps(scale);
  const __m512i add = _mm512_load_si512(kCells.add), lower = _mm512_set1_epi16(0xfff);
  __m512i low = steps_of(x, s), high = steps_of(x + 32, s);
  low = _mm512_add_epi16(low, _mm512_permutexvar_epi16(_mm512_srli_epi16(low, 11), add));
  high = _mm512_add_epi16(high, _mm512_permutexvar_epi16(_mm512_srli_epi16(high, 11), add));
  *doubtful = _mm512_testn_epi16_mask(low, lower) | _mm512_testn_epi16_mask(high, lower);
  const __m512i codes = _mm512_packus_epi16(_mm512_srli_epi16(low, 12), _mm512_srli_epi16(high, 12));
  return _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0110));
}

template <class T> inline void quantize_group(const T* x, uint8_t* codes, float* absmax) {
  __m512i largest[kGroup];
  for (int b = 0; b < kGroup; ++b) largest[b] = largest_bits(x + b * kBlock);
  const __m512i bits = largest_of_each<T>(largest);
  _mm512_storeu_si512(absmax, bits);
  // 2^-97 to 2^97: no scale overflows, nor is one subnormal.
  const __mmask16 plain = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(bits, _mm512_set1_epi32(30 << 23)), _mm512_set1_epi32(194 << 23));
  alignas(64) float scale[kGroup];
  _mm512_store_ps(scale, _mm512_mul_ps(_mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_castsi512_ps(bits)), _mm512_set1_ps(kStep)));
  const __m512i order = _mm512_load_si512(kOrder<T>.from);
  for (int b = 0; b < kGroup; b += 2) {
    // What comes two groups later is fetched meanwhile: left to itself, the machine fetches while a group is first read, and waits.
    prefetch(x + (2 * kGroup + b) * kBlock, 2 * kBlock);
    __mmask32 first, second;
    __m512i packed = _mm512_packus_epi16(words_of(x + b * kBlock, scale[b], &first), words_of(x + (b + 1) * kBlock, scale[b + 1], &second));
    _mm512_storeu_si512(codes + b * kBlock / 2, _mm512_permutexvar_epi16(order, packed));
    if (first | second) {
      if (first) quantize_block(x + b * kBlock, codes + b * kBlock / 2, absmax + b);
      if (second) quantize_block(x + (b + 1) * kBlock, codes + (b + 1) * kBlock / 2, absmax + b + 1);
    }
  }
  if (plain != 0xffff) {
    for (int b = 0; b < kGroup; ++b)
      if (!(plain >> b & 1)) quantize_block(x + b * kBlock, codes + b * kBlock / 2, absmax + b);
  }
}

#endif

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
    largest = max(abs(v[i]), largest);
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
  check_nf4_quantize(call, x, codes, absmax);
  const int64_t n = x.numel(), blocks = absmax.dim(0);
  uint8_t* to = codes.as<uint8_t>();
  float* scale = absmax.as<float>();
  with_float(x.dtype, [&](auto tag) {
    const auto* from = x.as<decltype(tag)>();
    call.pool->parallel_for(blocks, kElementGrain / kBlock, [&](int64_t begin, int64_t end) {
      int64_t b = begin;
#if defined(__AVX512F__)
      for (; b + kGroup <= end && (b + kGroup) * kBlock <= n; b += kGroup)
        quantize_group(from + b * kBlock, to + b * kBlock / 2, scale + b);
#endif
      for (; b < end; ++b) {
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
  check_nf4_quantize_absmax(call, absmax, codes, nested, offset);
  const int64_t n = absmax.dim(0), blocks = nested.dim(0);
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
  check_nf4_dequantize(call, x, y);
  with_activation(y.dtype, [&](auto tag) {
    auto* to = y.as<decltype(tag)>();
    call.pool->parallel_for(x.numel(), kElementGrain, [&](int64_t begin, int64_t end) { read(x, begin, end - begin, to + begin); });
  });
}

void dynamic_map(const OpCall& call) {
  const Tensor &of_signed = output(call, 0), &of_unsigned = output(call, 1);
  check_dynamic_map(call, of_signed, of_unsigned);
  std::memcpy(of_signed.data, kDynamicMapSigned, sizeof kDynamicMapSigned);
  std::memcpy(of_unsigned.data, kDynamicMapUnsigned, sizeof kDynamicMapUnsigned);
}

}  // namespace vltune::cpu::VLTUNE_ISA
