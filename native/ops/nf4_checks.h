// The operands of native/ops/nf4.h, on either device.
#pragma once
#include "check.h"
#include "nf4.h"

namespace vltune {

[[maybe_unused]] static void check_nf4_quantize(const OpCall& call, const Tensor& x, const Tensor& codes, const Tensor& absmax) {
  check_present(call, x, "x");
  check_dtype(call, x, "x", kIsFloat);
  const int64_t n = x.numel();
  check_operand(call, codes, "codes", kIsU8, {(n + 1) / 2});
  check_operand(call, absmax, "absmax", kIsF32, {(n + kNf4Block - 1) / kNf4Block});
}

[[maybe_unused]] static void check_nf4_quantize_absmax(const OpCall& call, const Tensor& absmax, const Tensor& codes, const Tensor& nested,
                                                       const Tensor& offset) {
  check_operand(call, absmax, "absmax", kIsF32, {kAny});
  const int64_t n = absmax.dim(0);
  check_operand(call, codes, "absmax_u8", kIsU8, {n});
  check_operand(call, nested, "nested_absmax", kIsF32, {(n + kNf4NestedBlock - 1) / kNf4NestedBlock});
  check_operand(call, offset, "offset", kIsF32, {1});
}

[[maybe_unused]] static void check_nf4_dequantize(const OpCall& call, const Tensor& x, const Tensor& y) {
  check_present(call, x, "x");
  check_present(call, y, "y");
  check_dtype(call, x, "x", kIsNf4);
  check_dtype(call, y, "y", kIsActivation);
  check_numel(call, y, "y", x.numel());
}

[[maybe_unused]] static void check_dynamic_map(const OpCall& call, const Tensor& of_signed, const Tensor& of_unsigned) {
  check_operand(call, of_signed, "signed", kIsF32, {256});
  check_operand(call, of_unsigned, "unsigned", kIsF32, {256});
}

}  // namespace vltune
