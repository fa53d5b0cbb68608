// The operands of native/ops/adamw.h, on either device.
#pragma once
#include "check.h"
#include "adamw.h"

namespace vltune {

constexpr int64_t kAdamwBlock = 256;  // elements that share an absmax; bitsandbytes' blockwise optimizers

struct AdamwSizes {
  int64_t params, state8, state32;  // elements
  bool torch;                       // variant 1
};

[[maybe_unused]] static void check_grad_norm(const OpCall& call, const Tensor& grads, const Tensor& scale, const Tensor& norm,
                                             const Tensor& clip) {
  check_operand(call, grads, "grads", kIsF32, {kAny});
  if (scale.present()) check_operand(call, scale, "scale", kIsF32, {1});
  check_operand(call, norm, "norm", kIsF32, {1});
  check_operand(call, clip, "clip", kIsF32, {1});
}

// What segments holds is looked at where it is read.
[[maybe_unused]] static AdamwSizes check_adamw(const OpCall& call) {
  const Tensor &grads = input(call, 0), &clip = input(call, 1), &hyper = input(call, 2), &segments = input(call, 3);
  const char* const names[] = {"params", "m8", "v8", "m8_absmax", "v8_absmax", "m32", "v32"};
  check_operand(call, grads, "grads", kIsF32, {kAny});
  const int64_t total = grads.dim(0);
  check_operand(call, clip, "clip", kIsF32, {1});
  check_operand(call, hyper, "hyper", kIsF32, {8});
  check_operand(call, segments, "segments", kIsI32, {kAny, 6});
  check_operand(call, output(call, 0), names[0], kIsF32, {total});
  for (int i = 1; i < 7; ++i) {  // a state that no segment uses may be absent or empty
    const Tensor& state = output(call, i);
    if (!state.present()) continue;
    check_dtype(call, state, names[i], i <= 2 ? kIsU8 : kIsF32);
    check_shape(call, state, names[i], {kAny});
  }
  const int64_t size8 = output(call, 1).numel(), size32 = output(call, 5).numel();
  check_numel(call, output(call, 2), names[2], size8);
  check_numel(call, output(call, 3), names[3], (size8 + kAdamwBlock - 1) / kAdamwBlock);
  check_numel(call, output(call, 4), names[4], (size8 + kAdamwBlock - 1) / kAdamwBlock);
  check_numel(call, output(call, 6), names[6], size32);
  const int64_t variant = call.attrs->integer("variant", 0);
  VLTUNE_CHECK(variant == 0 || variant == 1, "ERR_ARGUMENT", "%s: variant is %lld, expected 0 (bitsandbytes) or 1 (torch)", call.op,
               static_cast<long long>(variant));
  return {total, size8, size32, variant == 1};
}

}  // namespace vltune
