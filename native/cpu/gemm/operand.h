// Reading a stretch of a stored matrix's row as F32: whatever the storage (F32, BF16, F16, NF4), with rounding to BF16 and
// dropout on the way. Everything that packs or multiplies goes through here, so a factor has one value everywhere.
#pragma once
#include "../../runtime/tensor.h"
#include "../nf4.h"
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

inline Tensor nf4_tensor(const Operand& m) {
  Tensor t;
  t.data = const_cast<void*>(m.data);
  t.dtype = DType::NF4;
  t.nf4 = m.nf4;
  return t;
}

inline float rounded_to_bf16(float x) {
  Bf16 narrow;
  from_float(x, &narrow);
  return to_float(narrow);
}
inline Vec rounded_to_bf16(Vec x) {
#if defined(__AVX2__) || (defined(__ARM_NEON) && defined(__aarch64__))
  return widen(narrow(x));
#else
  Bf16 rounded[kLanes];
  store(rounded, x);
  return load(rounded);
#endif
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
    default:
      nf4_read(nf4_tensor(m), first, count, dst);
      if (to_bf16) convert_row(dst, dst, count, true);
  }
  if (m.dropout) {
    dropout_row(*m.dropout, row, column, count, dst);
    if (to_bf16) convert_row(dst, dst, count, true);
  }
}

// Whether the stored floats can be used where they lie.
inline bool usable_in_place(const Operand& m, bool to_bf16) { return m.dtype == DType::F32 && !m.dropout && !to_bf16; }

}  // namespace vltune::cpu::VLTUNE_ISA
