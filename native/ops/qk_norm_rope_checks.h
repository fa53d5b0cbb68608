// The operands of native/ops/qk_norm_rope.h, on either device.
#pragma once
#include "check.h"
#include "qk_norm_rope.h"
#include "rope_sections.h"

namespace vltune {

[[maybe_unused]] static RopeSections check_rope_table(const OpCall& call) {
  const Tensor &positions = input(call, 0), &cos = output(call, 0), &sin = output(call, 1);
  check_operand(call, positions, "positions", kIsI32, {3, kAny});
  const int64_t n = positions.dim(1);
  check_operand(call, cos, "cos", kIsF32, {n, kAny});
  check_operand(call, sin, "sin", kIsF32, {n, cos.dim(1)});
  return rope_sections(call, cos.dim(1));
}

// Of a tensor [n, heads * dim]; half is dim / 2.
struct Heads {
  int64_t n, heads, dim, half;
};

[[maybe_unused]] static int64_t check_head_dim(const OpCall& call) {
  const int64_t dim = call.attrs->integer("head_dim", 0);
  VLTUNE_CHECK(dim > 0 && dim % 2 == 0, "ERR_ARGUMENT", "%s: head_dim is %lld, expected a positive even number", call.op,
               static_cast<long long>(dim));
  return dim;
}

[[maybe_unused]] static Heads check_heads(const OpCall& call, const Tensor& x, const char* name) {
  check_operand(call, x, name, kIsActivation, {kAny, kAny});
  const int64_t dim = check_head_dim(call);
  VLTUNE_CHECK(x.dim(1) % dim == 0, "ERR_SHAPE", "%s: %s has %lld columns, expected a multiple of head_dim %lld", call.op, name,
               static_cast<long long>(x.dim(1)), static_cast<long long>(dim));
  return {x.dim(0), x.dim(1) / dim, dim, dim / 2};
}

[[maybe_unused]] static Heads check_qk_norm_rope(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &cos = input(call, 2), &sin = input(call, 3);
  const Tensor &y = output(call, 0), &rstd = output(call, 1);
  const Heads heads = check_heads(call, x, "x");
  check_operand(call, cos, "cos", kIsF32, {heads.n, heads.half});
  check_operand(call, sin, "sin", kIsF32, {heads.n, heads.half});
  check_operand(call, y, "y", dtype_bit(x.dtype), {heads.n, x.dim(1)});
  if (weight.present()) {
    check_operand(call, weight, "weight", kIsNormWeight, {heads.dim});
    check_operand(call, rstd, "rstd", kIsF32, {heads.n, heads.heads});
  } else {
    check_absent(call, rstd, "rstd", "without weight");
  }
  return heads;
}

[[maybe_unused]] static Heads check_qk_norm_rope_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &x = input(call, 1), &weight = input(call, 2), &rstd = input(call, 3), &cos = input(call, 4),
               &sin = input(call, 5), &dx = output(call, 0), &dweight = output(call, 1);
  const Heads heads = check_heads(call, dy, "dy");
  const unsigned dtype = dtype_bit(dy.dtype);
  check_operand(call, x, "x", dtype, {heads.n, dy.dim(1)});
  if (weight.present()) {
    check_operand(call, weight, "weight", kIsNormWeight, {heads.dim});
    check_operand(call, rstd, "rstd", kIsF32, {heads.n, heads.heads});
  } else {
    check_absent(call, rstd, "rstd", "without weight");
    check_absent(call, dweight, "dweight", "without weight");
  }
  check_operand(call, cos, "cos", kIsF32, {heads.n, heads.half});
  check_operand(call, sin, "sin", kIsF32, {heads.n, heads.half});
  check_operand(call, dx, "dx", dtype, {heads.n, dy.dim(1)});
  if (dweight.present()) check_operand(call, dweight, "dweight", kIsF32, {heads.dim});
  return heads;
}

}  // namespace vltune
