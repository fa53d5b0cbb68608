// The operands of native/ops/qkv_rope.h, on either device.
#pragma once
#include "check.h"
#include "qk_norm_rope_checks.h"
#include "qkv_rope.h"

namespace vltune {

struct QkvPart {
  const char* name;
  const Tensor& tensor;
};

// Of qkv [n, 3 * heads * dim], and of the parts that stand beside it, each [n, heads * dim].
[[maybe_unused]] static Heads check_qkv_heads(const OpCall& call, const Tensor& qkv, const char* name, const Tensor& cos, const Tensor& sin,
                                              std::initializer_list<QkvPart> parts) {
  check_operand(call, qkv, name, kIsActivation, {kAny, kAny});
  const int64_t n = qkv.dim(0), columns = qkv.dim(1), dim = check_head_dim(call);
  VLTUNE_CHECK(columns % 3 == 0 && columns / 3 % dim == 0, "ERR_SHAPE",
               "%s: %s has %lld columns, expected a multiple of 3 times head_dim %lld", call.op, name, static_cast<long long>(columns),
               static_cast<long long>(dim));
  check_operand(call, cos, "cos", kIsF32, {n, dim / 2});
  check_operand(call, sin, "sin", kIsF32, {n, dim / 2});
  for (const QkvPart& part : parts) check_operand(call, part.tensor, part.name, dtype_bit(qkv.dtype), {n, columns / 3});
  return {n, columns / 3 / dim, dim, dim / 2};
}

[[maybe_unused]] static Heads check_qkv_rope(const OpCall& call) {
  return check_qkv_heads(call, input(call, 0), "qkv", input(call, 1), input(call, 2),
                         {{"q", output(call, 0)}, {"k", output(call, 1)}, {"v", output(call, 2)}});
}

[[maybe_unused]] static Heads check_qkv_rope_backward(const OpCall& call) {
  return check_qkv_heads(call, output(call, 0), "dqkv", input(call, 3), input(call, 4),
                         {{"dq", input(call, 0)}, {"dk", input(call, 1)}, {"dv", input(call, 2)}});
}

}  // namespace vltune
