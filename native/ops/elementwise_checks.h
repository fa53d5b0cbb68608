// The operands of native/ops/elementwise.h, on either device.
#pragma once
#include "check.h"
#include "elementwise.h"

namespace vltune {

[[maybe_unused]] static void check_add(const OpCall& call, const Tensor& a, const Tensor& b, const Tensor& y) {
  check_present(call, a, "a");
  check_present(call, b, "b");
  check_present(call, y, "y");
  check_dtype(call, a, "a", kIsActivation);
  check_dtype(call, b, "b", dtype_bit(a.dtype));
  check_dtype(call, y, "y", dtype_bit(a.dtype));
  check_numel(call, b, "b", a.numel());
  check_numel(call, y, "y", a.numel());
}

[[maybe_unused]] static void check_cast(const OpCall& call, const Tensor& x, const Tensor& y) {
  check_present(call, x, "x");
  check_present(call, y, "y");
  check_dtype(call, x, "x", kIsFloat | kIsNf4);
  check_dtype(call, y, "y", kIsActivation);
  check_numel(call, y, "y", x.numel());
}

[[maybe_unused]] static void check_fill(const OpCall& call, const Tensor& y) {
  check_present(call, y, "y");
  check_dtype(call, y, "y", kIsF32);
}

// What rows holds is looked at where it is read.
[[maybe_unused]] static void check_select_rows(const OpCall& call, const Tensor& x, const Tensor& rows, const Tensor& y) {
  check_operand(call, x, "x", kIsActivation, {kAny, kAny});
  check_operand(call, rows, "rows", kIsI32, {kAny});
  check_operand(call, y, "y", dtype_bit(x.dtype), {rows.dim(0), x.dim(1)});
}

[[maybe_unused]] static void check_copy(const OpCall& call, const Tensor& x, const Tensor& y) {
  check_operand(call, x, "x", kIsU8, {kAny});
  check_operand(call, y, "y", kIsU8, {x.dim(0)});
}

}  // namespace vltune
