// What the attention ops have in common: their attributes, and the sequences' bounds. Every error names the op, the
// operand or attribute, what was expected and what came.
#pragma once
#include "../../ops/attention.h"
#include "../../ops/check.h"
#include "tile.h"

namespace vltune::cpu::VLTUNE_ISA::attn {

struct Shape {
  int64_t tokens = 0, heads = 0, kv_heads = 0;
  int head_dim = 0;
  float scale = 1;
  bool causal = true;
  DType dtype = DType::F32;

  int64_t group() const { return heads / kv_heads; }
  int64_t q_stride() const { return heads * head_dim; }
  int64_t kv_stride() const { return kv_heads * head_dim; }
};

// Reads the attributes; tokens and dtype are those of q.
inline Shape shape_of(const OpCall& call, const Tensor& q) {
  Shape s;
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
  VLTUNE_CHECK(s.heads % s.kv_heads == 0, "ERR_ARGUMENT",
               "%s: attribute heads is %lld, expected a multiple of kv_heads, %lld", call.op,
               static_cast<long long>(s.heads), static_cast<long long>(s.kv_heads));
  // Positive, because the running maximum of the scores is taken before they are scaled.
  const double scale = attribute("scale");
  VLTUNE_CHECK(scale > 0 && scale < 3e38, "ERR_ARGUMENT", "%s: attribute scale is %g, expected a positive number",
               call.op, scale);
  s.scale = static_cast<float>(scale);
  s.causal = call.attrs->flag("causal");
  check_operand(call, q, "q", kIsActivation, {kAny, s.q_stride()});
  s.tokens = q.shape[0];
  s.dtype = q.dtype;
  return s;
}

inline void check_queries(const OpCall& call, const Tensor& tensor, const char* name, const Shape& s) {
  check_operand(call, tensor, name, dtype_bit(s.dtype), {s.tokens, s.q_stride()});
}
inline void check_keys(const OpCall& call, const Tensor& tensor, const char* name, const Shape& s, int64_t rows) {
  check_operand(call, tensor, name, dtype_bit(s.dtype), {rows, s.kv_stride()});
}

// Number of sequences. The last check of a run: data is read only after all shapes hold.
inline int64_t check_bounds(const OpCall& call, const Tensor& bounds, int64_t tokens) {
  check_operand(call, bounds, "bounds", kIsI32, {kAny});
  VLTUNE_CHECK(bounds.shape[0] >= 1, "ERR_SHAPE",
               "%s: bounds has shape [0], expected one more than there are sequences", call.op);
  const int32_t* b = bounds.as<int32_t>();
  const int64_t sequences = bounds.shape[0] - 1;
  VLTUNE_CHECK(b[0] == 0, "ERR_ARGUMENT", "%s: bounds[0] is %d, expected 0", call.op, b[0]);
  for (int64_t s = 1; s <= sequences; ++s)
    VLTUNE_CHECK(b[s] >= b[s - 1], "ERR_ARGUMENT", "%s: bounds[%lld] is %d, expected at least bounds[%lld], %d",
                 call.op, static_cast<long long>(s), b[s], static_cast<long long>(s - 1), b[s - 1]);
  VLTUNE_CHECK(b[sequences] == tokens, "ERR_ARGUMENT", "%s: bounds[%lld] is %d, expected the number of tokens, %lld",
               call.op, static_cast<long long>(sequences), b[sequences], static_cast<long long>(tokens));
  return sequences;
}

}  // namespace vltune::cpu::VLTUNE_ISA::attn
