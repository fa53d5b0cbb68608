// The operands of native/ops/move.h, on either device.
#pragma once
#include "check.h"
#include "move.h"

namespace vltune {

constexpr unsigned kIsMovable = kIsF32 | kIsBf16 | kIsF16 | kIsI32 | kIsU8;

// The slot.
[[maybe_unused]] static int64_t check_move(const OpCall& call, const Tensor& x, const Tensor& y) {
  check_present(call, x, "x");
  check_dtype(call, x, "x", kIsMovable);
  check_present(call, y, "y");
  check_dtype(call, y, "y", dtype_bit(x.dtype));
  check_numel(call, y, "y", x.numel());
  const int64_t slot = call.attrs->integer("slot", 0);
  VLTUNE_CHECK(slot >= 0 && slot < kMostSlots, "ERR_ARGUMENT", "%s: slot is %lld, expected 0..%lld", call.op, static_cast<long long>(slot),
               static_cast<long long>(kMostSlots - 1));
  return slot;
}

}  // namespace vltune
