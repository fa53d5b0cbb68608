// The operands of native/ops/embedding_bag.h, on either device.
#pragma once
#include "check.h"
#include "embedding_bag.h"

namespace vltune {

// What ids holds is looked at where it is read.
[[maybe_unused]] static void check_bags(const OpCall& call, const Tensor& ids, const Tensor& weights) {
  check_operand(call, ids, "ids", kIsI32, {kAny, kAny});
  check_operand(call, weights, "weights", kIsF32, {ids.dim(0), ids.dim(1)});
}

[[maybe_unused]] static void check_embedding_bag(const OpCall& call, const Tensor& ids, const Tensor& weights, const Tensor& table,
                                                 const Tensor& x, const Tensor& y) {
  check_bags(call, ids, weights);
  check_operand(call, table, "table", kIsFloat, {kAny, kAny});
  const int64_t n = ids.dim(0), d = table.dim(1);
  check_operand(call, y, "y", kIsActivation, {n, d});
  if (x.present()) check_operand(call, x, "x", dtype_bit(y.dtype), {n, d});
}

[[maybe_unused]] static void check_embedding_bag_backward(const OpCall& call, const Tensor& ids, const Tensor& weights, const Tensor& dy,
                                                          const Tensor& dtable) {
  check_bags(call, ids, weights);
  check_operand(call, dy, "dy", kIsActivation, {ids.dim(0), kAny});
  check_operand(call, dtable, "dtable", kIsF32, {kAny, dy.dim(1)});
}

}  // namespace vltune
