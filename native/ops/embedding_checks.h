// The operands of native/ops/embedding.h, on either device.
#pragma once
#include "check.h"
#include "embedding.h"

namespace vltune {

// What ids holds is looked at where it is read.
[[maybe_unused]] static void check_embedding(const OpCall& call, const Tensor& ids, const Tensor& weight, const Tensor& y) {
  check_operand(call, ids, "ids", kIsI32, {kAny});
  check_operand(call, weight, "weight", kIsFloat, {kAny, kAny});
  check_operand(call, y, "y", kIsActivation, {ids.dim(0), weight.dim(1)});
}

[[maybe_unused]] static void check_embedding_backward(const OpCall& call, const Tensor& ids, const Tensor& dy, const Tensor& dweight) {
  check_operand(call, ids, "ids", kIsI32, {kAny});
  check_operand(call, dy, "dy", kIsActivation, {ids.dim(0), kAny});
  check_operand(call, dweight, "dweight", kIsF32, {kAny, dy.dim(1)});
}

}  // namespace vltune
