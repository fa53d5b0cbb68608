// The operands and attributes of native/ops/attention.h, on either device.
#pragma once
#include "attention.h"
#include "check.h"

namespace vltune {

struct AttentionShape {
  int64_t tokens = 0, heads = 0, kv_heads = 0;
  int head_dim = 0;
  float scale = 1;
  bool causal = true;
  DType dtype = DType::F32;
};

// Reads the attributes; tokens and dtype are those of q.
[[maybe_unused]] static AttentionShape attention_shape(const OpCall& call, const Tensor& q) {
  AttentionShape s;
  const auto attribute = [&](const char* name) {
    const double* value = call.attrs->find(name);
    VLTUNE_CHECK(value, "ERR_ARGUMENT", "%s: attribute %s is missing", call.op, name);
    return *value;
  };
  const auto count = [&](const char* name, int most) {
    const double value = attribute(name);
    VLTUNE_CHECK(value >= 1 && value <= most && value == static_cast<int>(value), "ERR_ARGUMENT",
                 "%s: attribute %s is %g, expected a whole number from 1 to %d", call.op, name, value, most);
    return static_cast<int>(value);
  };
  constexpr int kMostHeads = 1 << 16;
  s.heads = count("heads", kMostHeads);
  s.kv_heads = count("kv_heads", kMostHeads);
  s.head_dim = count("head_dim", kMaxHeadDim);
  VLTUNE_CHECK(s.heads % s.kv_heads == 0, "ERR_ARGUMENT", "%s: attribute heads is %lld, expected a multiple of kv_heads, %lld", call.op,
               static_cast<long long>(s.heads), static_cast<long long>(s.kv_heads));
  // Positive, because the running maximum of the scores is taken before they are scaled.
  const double scale = attribute("scale");
  VLTUNE_CHECK(scale > 0 && scale < 3e38, "ERR_ARGUMENT", "%s: attribute scale is %g, expected a positive number", call.op, scale);
  s.scale = static_cast<float>(scale);
  s.causal = call.attrs->flag("causal");
  check_operand(call, q, "q", kIsActivation, {kAny, s.heads * s.head_dim});
  s.tokens = q.shape[0];
  s.dtype = q.dtype;
  return s;
}

[[maybe_unused]] static void check_queries(const OpCall& call, const Tensor& tensor, const char* name, const AttentionShape& s) {
  check_operand(call, tensor, name, dtype_bit(s.dtype), {s.tokens, s.heads * s.head_dim});
}
[[maybe_unused]] static void check_keys(const OpCall& call, const Tensor& tensor, const char* name, const AttentionShape& s, int64_t rows) {
  check_operand(call, tensor, name, dtype_bit(s.dtype), {rows, s.kv_heads * s.head_dim});
}

// What bounds holds is looked at where it is read.
[[maybe_unused]] static void check_bounds(const OpCall& call, const Tensor& bounds) {
  check_operand(call, bounds, "bounds", kIsI32, {kAny});
  VLTUNE_CHECK(bounds.shape[0] >= 1, "ERR_SHAPE", "%s: bounds has shape [0], expected one more than there are sequences", call.op);
}

[[maybe_unused]] static AttentionShape check_attention(const OpCall& call) {
  const AttentionShape s = attention_shape(call, input(call, 0));
  check_keys(call, input(call, 1), "k", s, s.tokens);
  check_keys(call, input(call, 2), "v", s, s.tokens);
  check_queries(call, output(call, 0), "o", s);
  check_operand(call, output(call, 1), "lse", kIsF32, {s.heads, s.tokens});
  check_bounds(call, input(call, 3));
  return s;
}

[[maybe_unused]] static AttentionShape check_attention_backward(const OpCall& call) {
  const AttentionShape s = attention_shape(call, input(call, 1));
  check_queries(call, input(call, 0), "do", s);
  check_keys(call, input(call, 2), "k", s, s.tokens);
  check_keys(call, input(call, 3), "v", s, s.tokens);
  check_queries(call, input(call, 4), "o", s);
  check_operand(call, input(call, 5), "lse", kIsF32, {s.heads, s.tokens});
  check_queries(call, output(call, 0), "dq", s);
  check_keys(call, output(call, 1), "dk", s, s.tokens);
  check_keys(call, output(call, 2), "dv", s, s.tokens);
  check_bounds(call, input(call, 6));
  return s;
}

// What past holds is looked at where it is read.
[[maybe_unused]] static AttentionShape check_attention_cached(const OpCall& call) {
  const AttentionShape s = attention_shape(call, input(call, 0));
  check_keys(call, input(call, 1), "k", s, s.tokens);
  check_keys(call, input(call, 2), "v", s, s.tokens);
  check_operand(call, input(call, 3), "past", kIsI32, {1});
  check_queries(call, output(call, 0), "o", s);
  check_keys(call, output(call, 1), "k_cache", s, kAny);
  check_keys(call, output(call, 2), "v_cache", s, output(call, 1).shape[0]);
  return s;
}

}  // namespace vltune
