// What an attention op was given, checked once: every error names the op, the operand, what was expected and what came.
#pragma once
#include <cinttypes>

#include "../../ops/attention.h"

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

inline void describe(const Tensor& t, char* text, size_t size) {
  if (!t.present()) {
    std::snprintf(text, size, "nothing");
    return;
  }
  int at = std::snprintf(text, size, "%s[", dtype_name(t.dtype));
  for (int i = 0; i < t.rank; ++i) at += std::snprintf(text + at, size - static_cast<size_t>(at), "%s%" PRId64, i ? "," : "", t.shape[i]);
  std::snprintf(text + at, size - static_cast<size_t>(at), "]");
}

inline void expect(const OpCall& call, const char* name, const Tensor& t, DType dtype, int64_t rows, int64_t columns = -1) {
  char got[128];
  describe(t, got, sizeof got);
  const bool shaped = columns < 0 ? t.rank == 1 && t.shape[0] == rows : t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns;
  if (columns < 0)
    VLTUNE_CHECK(shaped, "ERR_SHAPE", "%s: %s: expected %s[%" PRId64 "], got %s", call.op, name, dtype_name(dtype), rows, got);
  else
    VLTUNE_CHECK(shaped, "ERR_SHAPE", "%s: %s: expected %s[%" PRId64 ",%" PRId64 "], got %s", call.op, name, dtype_name(dtype), rows,
                 columns, got);
  VLTUNE_CHECK(t.dtype == dtype, "ERR_DTYPE", "%s: %s: expected %s, got %s", call.op, name, dtype_name(dtype), got);
}

inline void expect_counts(const OpCall& call, int in, int out) {
  VLTUNE_CHECK(call.in_count == in && call.out_count == out, "ERR_ARGUMENT", "%s: expected %d inputs and %d outputs, got %d and %d",
               call.op, in, out, call.in_count, call.out_count);
}

// Reads the attributes; tokens and dtype are those of q.
inline Shape shape_of(const OpCall& call, const Tensor& q) {
  Shape s;
  const auto count = [&](const char* name) {
    const double* value = call.attrs->find(name);
    VLTUNE_CHECK(value, "ERR_ARGUMENT", "%s: attribute %s is missing", call.op, name);
    VLTUNE_CHECK(*value >= 1 && *value <= 1 << 20 && *value == static_cast<int64_t>(*value), "ERR_ARGUMENT",
                 "%s: attribute %s: expected a whole number from 1, got %g", call.op, name, *value);
    return static_cast<int64_t>(*value);
  };
  s.heads = count("heads");
  s.kv_heads = count("kv_heads");
  VLTUNE_CHECK(s.heads % s.kv_heads == 0, "ERR_ARGUMENT",
               "%s: attribute heads: expected a multiple of kv_heads (%" PRId64 "), got %" PRId64, call.op, s.kv_heads, s.heads);
  const int64_t h = count("head_dim");
  VLTUNE_CHECK(h <= kMaxHeadDim, "ERR_ARGUMENT", "%s: attribute head_dim: expected 1 to %d, got %" PRId64, call.op, kMaxHeadDim, h);
  s.head_dim = static_cast<int>(h);
  const double* scale = call.attrs->find("scale");
  VLTUNE_CHECK(scale, "ERR_ARGUMENT", "%s: attribute scale is missing", call.op);
  // The running maximum is taken before the scale.
  VLTUNE_CHECK(*scale > 0 && *scale < 3e38, "ERR_ARGUMENT", "%s: attribute scale: expected a positive number, got %g", call.op, *scale);
  s.scale = static_cast<float>(*scale);
  s.causal = call.attrs->flag("causal");
  char got[128];
  describe(q, got, sizeof got);
  VLTUNE_CHECK(q.rank == 2, "ERR_SHAPE", "%s: q: expected f32 or bf16 [n,%" PRId64 "], got %s", call.op, s.q_stride(), got);
  VLTUNE_CHECK(q.dtype == DType::F32 || q.dtype == DType::BF16, "ERR_DTYPE", "%s: q: expected f32 or bf16, got %s", call.op, got);
  s.tokens = q.shape[0];
  s.dtype = q.dtype;
  return s;
}

// Number of sequences. The last check of a run: data is read only after all shapes hold.
inline int64_t check_bounds(const OpCall& call, const Tensor& bounds, int64_t tokens) {
  char got[128];
  describe(bounds, got, sizeof got);
  VLTUNE_CHECK(bounds.rank == 1 && bounds.shape[0] >= 1, "ERR_SHAPE", "%s: bounds: expected i32[sequences + 1], got %s", call.op, got);
  VLTUNE_CHECK(bounds.dtype == DType::I32, "ERR_DTYPE", "%s: bounds: expected i32, got %s", call.op, got);
  const int32_t* b = bounds.as<int32_t>();
  const int64_t sequences = bounds.shape[0] - 1;
  VLTUNE_CHECK(b[0] == 0, "ERR_ARGUMENT", "%s: bounds[0]: expected 0, got %d", call.op, b[0]);
  for (int64_t s = 0; s < sequences; ++s)
    VLTUNE_CHECK(b[s + 1] >= b[s], "ERR_ARGUMENT", "%s: bounds[%" PRId64 "]: expected at least bounds[%" PRId64 "] = %d, got %d", call.op,
                 s + 1, s, b[s], b[s + 1]);
  VLTUNE_CHECK(b[sequences] == tokens, "ERR_ARGUMENT", "%s: bounds[%" PRId64 "]: expected the number of tokens, %" PRId64 ", got %d",
               call.op, sequences, tokens, b[sequences]);
  return sequences;
}

}  // namespace vltune::cpu::VLTUNE_ISA::attn
