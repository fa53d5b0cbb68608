// The operands of native/ops/linear.h, on either device.
#pragma once
#include "check.h"
#include "linear.h"

namespace vltune {

[[maybe_unused]] static double dropout_probability(const OpCall& call) {
  const double p = call.attrs->number("dropout", 0);
  VLTUNE_CHECK(p >= 0 && p < 1, "ERR_ARGUMENT", "%s: dropout must be at least 0 and below 1, got %g", call.op, p);
  return p;
}

// The adapter's rank; 0 without one.
[[maybe_unused]] static int64_t check_adapter(const OpCall& call, const Tensor& a, const Tensor& b, int64_t in, int64_t out) {
  if (!a.present()) {
    check_absent(call, b, "lora_b", "without lora_a");
    return 0;
  }
  check_operand(call, a, "lora_a", kIsF32, {kAny, in});
  check_operand(call, b, "lora_b", kIsF32, {out, a.shape[0]});
  return a.shape[0];
}

struct LinearForward {
  Tensor x, weight, bias, a, b, rng, y, u;
  int64_t n, in, out, rank;  // rank: 0 without an adapter
};

[[maybe_unused]] static LinearForward check_linear(const OpCall& call) {
  LinearForward f{input(call, 0), input(call, 1),  input(call, 2),  input(call, 3), input(call, 4),
                  input(call, 5), output(call, 0), output(call, 1), 0,              0,              0, 0};
  check_operand(call, f.x, "x", kIsActivation, {kAny, kAny});
  f.n = f.x.shape[0];
  f.in = f.x.shape[1];
  check_operand(call, f.weight, "weight", kIsFloat | kIsNf4, {kAny, f.in});
  f.out = f.weight.shape[0];
  if (f.bias.present()) check_operand(call, f.bias, "bias", kIsActivation, {f.out});
  f.rank = check_adapter(call, f.a, f.b, f.in, f.out);
  if (f.a.present()) check_operand(call, f.u, "u", kIsF32, {f.n, f.rank});
  else check_absent(call, f.u, "u", "without lora_a");
  if (f.rng.present()) check_operand(call, f.rng, "rng", kIsI32, {2});
  check_operand(call, f.y, "y", dtype_bit(f.x.dtype), {f.n, f.out});
  return f;
}

struct LinearBackward {
  Tensor dy, x, weight, a, b, u, rng, dx, dweight, dbias, da, db;
  int64_t n, in, out, rank;  // rank: 0 without an adapter
};

[[maybe_unused]] static LinearBackward check_linear_backward(const OpCall& call) {
  LinearBackward f{input(call, 0),  input(call, 1),  input(call, 2),  input(call, 3),  input(call, 4), input(call, 5), input(call, 6),
                   output(call, 0), output(call, 1), output(call, 2), output(call, 3), output(call, 4), 0,             0, 0, 0};
  check_operand(call, f.dy, "dy", kIsActivation, {kAny, kAny});
  f.n = f.dy.shape[0];
  f.out = f.dy.shape[1];
  check_operand(call, f.weight, "weight", kIsFloat | kIsNf4, {f.out, kAny});
  f.in = f.weight.shape[1];
  f.rank = check_adapter(call, f.a, f.b, f.in, f.out);
  const unsigned same = dtype_bit(f.dy.dtype);
  if (f.x.present() || f.dweight.present() || f.da.present()) check_operand(call, f.x, "x", same, {f.n, f.in});
  if (f.u.present() || f.db.present()) check_operand(call, f.u, "u", kIsF32, {f.n, f.rank});
  if (f.rng.present()) check_operand(call, f.rng, "rng", kIsI32, {2});
  if (f.dx.present()) check_operand(call, f.dx, "dx", same, {f.n, f.in});
  if (f.dweight.present()) check_operand(call, f.dweight, "dweight", kIsF32, {f.out, f.in});
  if (f.dbias.present()) check_operand(call, f.dbias, "dbias", kIsF32, {f.out});
  if (!f.a.present()) {
    check_absent(call, f.da, "da", "without lora_a");
    check_absent(call, f.db, "db", "without lora_a");
  }
  if (f.da.present()) check_operand(call, f.da, "da", kIsF32, {f.rank, f.in});
  if (f.db.present()) check_operand(call, f.db, "db", kIsF32, {f.out, f.rank});
  return f;
}

}  // namespace vltune
