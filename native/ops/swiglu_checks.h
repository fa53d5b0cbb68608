// The operands of native/ops/swiglu.h, on either device.
#pragma once
#include "check.h"
#include "swiglu.h"

namespace vltune {

[[maybe_unused]] static void check_swiglu(const OpCall& call, const Tensor& gate, const Tensor& up, const Tensor& y) {
  check_operand(call, gate, "gate", kIsActivation, {kAny, kAny});
  const int64_t n = gate.dim(0), f = gate.dim(1);
  check_operand(call, up, "up", dtype_bit(gate.dtype), {n, f});
  check_operand(call, y, "y", dtype_bit(gate.dtype), {n, f});
}

[[maybe_unused]] static void check_swiglu_backward(const OpCall& call, const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                                                   const Tensor& dup) {
  check_operand(call, dy, "dy", kIsActivation, {kAny, kAny});
  const int64_t n = dy.dim(0), f = dy.dim(1);
  const unsigned dtype = dtype_bit(dy.dtype);
  check_operand(call, gate, "gate", dtype, {n, f});
  check_operand(call, up, "up", dtype, {n, f});
  check_operand(call, dgate, "dgate", dtype, {n, f});
  check_operand(call, dup, "dup", dtype, {n, f});
}

}  // namespace vltune
