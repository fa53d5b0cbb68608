// Reading a stretch of a stored matrix's row as F32: whatever the storage (F32, BF16, F16, NF4), with rounding to BF16 and
// dropout on the way. Everything that packs or multiplies goes through here, so a factor has one value everywhere.
#pragma once
#include "../../runtime/tensor.h"
#include "../nf4_tables.h"
#include "../philox.h"
#include "../simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// A row-major matrix in memory; `transposed` says that the product uses it the other way round.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::F32;
  int64_t ld = 0;                    // elements from a stored row to the next
  bool transposed = false;
  Nf4State nf4;                      // for NF4; ld is then the whole row
  const Dropout* dropout = nullptr;  // of the stored (row, column)
};

inline float nf4_absmax(const Nf4State& s, int64_t block) {
  if (s.absmax) return s.absmax[block];
  // Two roundings, as bitsandbytes has them; the build forbids contraction into a fused multiply-add.
  const float scaled = kDynamicMapSigned[s.absmax_u8[block]] * s.nested_absmax[block / kNf4NestedBlock];
  return scaled + s.offset;
}

inline float rounded_to_bf16(float x) {
  Bf16 narrow;
  from_float(x, &narrow);
  return to_float(narrow);
}
inline Vec rounded_to_bf16(Vec x) {
  Bf16 narrow[kLanes];
  store(narrow, x);
  return load(narrow);
}

template <class T>
inline void convert_row(float* dst, const T* src, int64_t count, bool to_bf16) {
  int64_t i = 0;
  if (to_bf16) {
    for (; i + kLanes <= count; i += kLanes) store(dst + i, rounded_to_bf16(load(src + i)));
    for (; i < count; ++i) dst[i] = rounded_to_bf16(to_float(src[i]));
  } else {
    for (; i + kLanes <= count; i += kLanes) store(dst + i, load(src + i));
    for (; i < count; ++i) dst[i] = to_float(src[i]);
  }
}

// dst[0..count) = the elements from flat index `first` on.
inline void read_nf4(float* dst, const uint8_t* codes, const Nf4State& state, int64_t first, int64_t count, bool to_bf16) {
  int64_t i = first;
  const int64_t end = first + count;
  while (i < end) {
    const int64_t block = i / kNf4Block;
    const int64_t block_end = (block + 1) * kNf4Block < end ? (block + 1) * kNf4Block : end;
    alignas(64) float table[16];
    const float absmax = nf4_absmax(state, block);
    for (int c = 0; c < 16; ++c) table[c] = kNf4Code[c] * absmax;
    if (to_bf16)
      for (int c = 0; c < 16; ++c) table[c] = rounded_to_bf16(table[c]);
#if defined(__AVX512F__)
    const __m512 values = _mm512_load_ps(table);
    if (i % 2 == 0)
      for (; i + 16 <= block_end; i += 16) {
        uint64_t bytes;
        std::memcpy(&bytes, codes + i / 2, 8);
        // Element 2j lies in the high nibble of byte j: spread each byte over two lanes and shift.
        const __m512i wide = _mm512_cvtepu8_epi64(_mm_set_epi64x(0, static_cast<long long>(bytes)));
        const __m512i nibbles = _mm512_or_si512(_mm512_srli_epi64(wide, 4), _mm512_slli_epi64(wide, 32));
        _mm512_storeu_ps(dst + (i - first), _mm512_permutexvar_ps(nibbles, values));
      }
#endif
    for (; i < block_end; ++i) {
      const uint8_t byte = codes[i / 2];
      dst[i - first] = table[i % 2 ? byte & 15 : byte >> 4];
    }
  }
}

// dst[0..count) = row `row`, columns from `column` on.
inline void read_row(float* dst, const Operand& m, int64_t row, int64_t column, int64_t count, bool to_bf16) {
  const int64_t first = row * m.ld + column;
  switch (m.dtype) {
    case DType::F32:
      if (to_bf16) convert_row(dst, static_cast<const float*>(m.data) + first, count, true);
      else std::memcpy(dst, static_cast<const float*>(m.data) + first, static_cast<size_t>(count) * 4);
      break;
    case DType::BF16: convert_row(dst, static_cast<const Bf16*>(m.data) + first, count, false); break;
    case DType::F16: convert_row(dst, static_cast<const F16*>(m.data) + first, count, to_bf16); break;
    default: read_nf4(dst, static_cast<const uint8_t*>(m.data), m.nf4, first, count, to_bf16);
  }
  if (m.dropout) {
    dropout_row(*m.dropout, row, column, count, dst);
    if (to_bf16) convert_row(dst, dst, count, true);
  }
}

// Whether the stored floats can be used where they lie.
inline bool usable_in_place(const Operand& m, bool to_bf16) { return m.dtype == DType::F32 && !m.dropout && !to_bf16; }

}  // namespace vltune::cpu::VLTUNE_ISA
