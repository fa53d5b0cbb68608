// The operands of native/ops/linear_cross_entropy.h, on either device.
#pragma once
#include "check.h"
#include "linear_cross_entropy.h"

namespace vltune {

struct LinearCrossEntropy {
  Tensor x, weight, targets, loss_scale, rows, loss, dx, dweight;
  int64_t n, d, vocab;
  bool trains;
};

// What targets and rows hold is looked at where they are read.
[[maybe_unused]] static LinearCrossEntropy check_linear_cross_entropy(const OpCall& call) {
  LinearCrossEntropy c{input(call, 0),  input(call, 1),  input(call, 2),  input(call, 3), input(call, 4),
                       output(call, 0), output(call, 1), output(call, 2), 0,              0,              0, false};
  check_operand(call, c.x, "x", kIsActivation, {kAny, kAny});
  c.n = c.x.shape[0];
  c.d = c.x.shape[1];
  check_operand(call, c.weight, "weight", kIsFloat | kIsNf4, {kAny, c.d});
  c.vocab = c.weight.shape[0];
  check_operand(call, c.targets, "targets", kIsI32, {c.n});
  check_operand(call, c.loss_scale, "loss_scale", kIsF32, {1});
  if (c.rows.present()) check_operand(call, c.rows, "rows", kIsI32, {kAny});
  check_operand(call, c.loss, "loss", kIsF32, {1});
  if (c.dx.present()) check_operand(call, c.dx, "dx", dtype_bit(c.x.dtype), {c.n, c.d});
  if (c.dweight.present()) check_operand(call, c.dweight, "dweight", kIsF32, {c.vocab, c.d});
  c.trains = c.dx.present() || c.dweight.present();
  return c;
}

}  // namespace vltune
