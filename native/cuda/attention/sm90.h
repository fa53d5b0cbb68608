// Attention for Hopper (sm_90a), in the manner of FlashAttention-3 (Shah 2024): TMA and wgmma, a warpgroup that loads beside two that
// compute. BF16, head_dim 64 or 128, packed sequences, causal or full, grouped heads. Operands as in native/ops/attention.h, checked by the
// caller. false: this device, dtype, head_dim or alignment is not taken, and nothing was put on the stream.
#pragma once
#include "../device.h"

namespace vltune::cuda {

bool attention_forward_sm90(const OpCall& call);
size_t attention_forward_sm90_workspace(const OpCall& call);
// The same bits at every run: the parts of dQ are added in a fixed order.
bool attention_backward_sm90(const OpCall& call);
size_t attention_backward_sm90_workspace(const OpCall& call);

}  // namespace vltune::cuda
