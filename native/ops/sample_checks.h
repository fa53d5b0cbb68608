// The operands of native/ops/sample.h, on either device.
#pragma once
#include "check.h"
#include "sample.h"

namespace vltune {

[[maybe_unused]] static void check_sample(const OpCall& call) {
  const Tensor &logits = input(call, 0), &sampling = input(call, 1), &uniform = input(call, 2);
  check_operand(call, logits, "logits", kIsActivation, {1, kAny});
  check_operand(call, sampling, "sampling", kIsF32, {4});
  check_operand(call, uniform, "uniform", kIsF32, {kAny});
  const int64_t vocab = logits.dim(1), steps = uniform.dim(0);
  VLTUNE_CHECK(vocab > 0, "ERR_SHAPE", "%s: logits has no element", call.op);
  check_operand(call, output(call, 0), "seen", kIsU8, {vocab});
  check_operand(call, output(call, 1), "ids", kIsI32, {1});
  check_operand(call, output(call, 2), "positions", kIsI32, {3, 1});
  check_operand(call, output(call, 3), "past", kIsI32, {1});
  check_operand(call, output(call, 4), "tokens", kIsI32, {steps});
  check_operand(call, output(call, 5), "count", kIsI32, {1});
}

}  // namespace vltune
