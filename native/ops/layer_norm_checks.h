// The operands of native/ops/layer_norm.h, on either device.
#pragma once
#include "check.h"
#include "layer_norm.h"

namespace vltune {

[[maybe_unused]] static void check_layer_norm(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &bias = input(call, 2), &residual = input(call, 3);
  const Tensor &y = output(call, 0), &stats = output(call, 1), &sum = output(call, 2);
  check_operand(call, x, "x", kIsActivation, {kAny, kAny});
  const int64_t n = x.dim(0), d = x.dim(1);
  const unsigned dtype = dtype_bit(x.dtype);
  check_operand(call, weight, "weight", kIsActivation, {d});
  check_operand(call, bias, "bias", dtype_bit(weight.dtype), {d});
  check_operand(call, y, "y", dtype, {n, d});
  check_operand(call, stats, "stats", kIsF32, {n, 2});
  check_residual(call, residual, sum, dtype, {n, d});
}

[[maybe_unused]] static void check_layer_norm_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &s = input(call, 1), &weight = input(call, 2), &stats = input(call, 3), &dsum = input(call, 4);
  const Tensor &dx = output(call, 0), &dweight = output(call, 1), &dbias = output(call, 2);
  check_operand(call, dy, "dy", kIsActivation, {kAny, kAny});
  const int64_t n = dy.dim(0), d = dy.dim(1);
  const unsigned dtype = dtype_bit(dy.dtype);
  check_operand(call, s, "s", dtype, {n, d});
  check_operand(call, weight, "weight", kIsActivation, {d});
  check_operand(call, stats, "stats", kIsF32, {n, 2});
  if (dsum.present()) check_operand(call, dsum, "dsum", dtype, {n, d});
  check_operand(call, dx, "dx", dtype, {n, d});
  if (dweight.present()) check_operand(call, dweight, "dweight", kIsF32, {d});
  if (dbias.present()) check_operand(call, dbias, "dbias", kIsF32, {d});
}

}  // namespace vltune
