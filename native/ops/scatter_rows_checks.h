// The operands of native/ops/scatter_rows.h, on either device.
#pragma once
#include "check.h"
#include "scatter_rows.h"

namespace vltune {

// What rows holds is looked at where it is read.
[[maybe_unused]] static void check_scatter_rows(const OpCall& call, const Tensor& x, const Tensor& rows, const Tensor& values,
                                                const Tensor& y) {
  check_operand(call, x, "x", kIsActivation, {kAny, kAny});
  const int64_t n = x.dim(0), d = x.dim(1);
  const unsigned dtype = dtype_bit(x.dtype);
  check_operand(call, rows, "rows", kIsI32, {kAny});
  if (values.present() || call.attrs->flag("accumulate")) check_operand(call, values, "values", dtype, {rows.dim(0), d});
  check_operand(call, y, "y", dtype, {n, d});
}

}  // namespace vltune
