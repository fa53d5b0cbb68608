// The ops of one token on the CPU: those that they are made of, one after the other.
#include "../ops/decode.h"

#include "../ops/attention.h"
#include "../ops/decode_parts.h"
#include "../ops/linear.h"
#include "../ops/qk_norm_rope.h"
#include "../ops/rms_norm.h"
#include "../ops/swiglu.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

struct Ops {
  static constexpr OpRun rms_norm = VLTUNE_ISA::rms_norm, linear = VLTUNE_ISA::linear, swiglu = VLTUNE_ISA::swiglu,
                         qk_norm_rope = VLTUNE_ISA::qk_norm_rope, attention_cached = VLTUNE_ISA::attention_cached,
                         linears_one = VLTUNE_ISA::linears_one, attention_one = VLTUNE_ISA::attention_one;
  static constexpr OpWorkspace linear_workspace = VLTUNE_ISA::linear_workspace,
                               attention_cached_workspace = VLTUNE_ISA::attention_cached_workspace,
                               linears_one_workspace = VLTUNE_ISA::linears_one_workspace,
                               attention_one_workspace = VLTUNE_ISA::attention_one_workspace;
};

}  // namespace

size_t linears_one_workspace(const OpCall& call) { return parts::linears<Ops>(call, linears_of(call), false); }
void linears_one(const OpCall& call) { parts::linears<Ops>(call, linears_of(call), true); }

size_t attention_one_workspace(const OpCall& call) { return parts::attention<Ops>(call, false); }
void attention_one(const OpCall& call) { parts::attention<Ops>(call, true); }

size_t layers_one_workspace(const OpCall& call) { return parts::layers<Ops>(call, false); }
void layers_one(const OpCall& call) { parts::layers<Ops>(call, true); }

}  // namespace vltune::cpu::VLTUNE_ISA
