// The operands and attributes of native/ops/gelu.h, on either device.
#pragma once
#include <type_traits>

#include "check.h"
#include "gelu.h"

namespace vltune {

[[maybe_unused]] static void check_gelu(const OpCall& call, const Tensor& x, const Tensor& y) {
  check_operand(call, x, "x", kIsActivation, {kAny, kAny});
  check_operand(call, y, "y", dtype_bit(x.dtype), {x.dim(0), x.dim(1)});
}

[[maybe_unused]] static void check_gelu_backward(const OpCall& call, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  check_operand(call, dy, "dy", kIsActivation, {kAny, kAny});
  const unsigned dtype = dtype_bit(dy.dtype);
  check_operand(call, x, "x", dtype, {dy.dim(0), dy.dim(1)});
  check_operand(call, dx, "dx", dtype, {dy.dim(0), dy.dim(1)});
}

// Calls body(std::bool_constant) for the way that attr tanh chooses.
template <class Body> static void with_gelu_way(const OpCall& call, Body&& body) {
  if (call.attrs->flag("tanh")) body(std::true_type{});
  else body(std::false_type{});
}

}  // namespace vltune
