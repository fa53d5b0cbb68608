// What the attention ops have in common: their attributes, and the sequences' bounds.
#pragma once
#include "../../ops/attention_checks.h"

namespace vltune::cpu::VLTUNE_ISA::attn {

struct Shape : AttentionShape {
  int64_t group() const { return heads / kv_heads; }
  int64_t q_stride() const { return heads * head_dim; }
  int64_t kv_stride() const { return kv_heads * head_dim; }
};

// Number of sequences. The last check of a run: data is read only after all shapes hold.
inline int64_t read_bounds(const OpCall& call, const Tensor& bounds, int64_t tokens) {
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
