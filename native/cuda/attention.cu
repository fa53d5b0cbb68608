// Attention on CUDA: the ops of native/ops/attention.h. Here are the checks and the choice among the ways to compute: wgmma and TMA on
// Hopper, mma.sync where it takes the dtype, plain FMAs otherwise; and for a few tokens against a cache a way of its own.
#include <algorithm>

#include "attention/shape.h"
#include "attention/sm90.h"

namespace vltune::cuda {

namespace {

using namespace attn;

bool is_for_sm90(const Shape& s) { return device().sm90a() && s.dtype == DType::BF16 && (s.head_dim == 64 || s.head_dim == 128); }

}  // namespace

size_t attention_workspace(const OpCall& call) { return attention_forward_sm90_workspace(call); }

void attention(const OpCall& call) {
  const Shape s{check_attention(call)};
  const int64_t sequences = input(call, 3).shape[0] - 1;
  if (s.tokens == 0) return;
  if (is_for_sm90(s) && attention_forward_sm90(call)) return;
  const Forward pass{s, call.in[0].data, call.in[1].data, call.in[2].data, call.out[0].data, call.out[1].as<float>(),
                     call.in[3].as<int32_t>(), sequences, nullptr, 0};
  if (!forward_mma(call, pass)) forward_plain(call, pass);
}

size_t attention_backward_workspace(const OpCall& call) {
  const Shape s{attention_shape(call, input(call, 1))};
  return std::max(attention_backward_sm90_workspace(call), sizeof(float) * static_cast<size_t>(s.heads * s.tokens));
}

void attention_backward(const OpCall& call) {
  const Shape s{check_attention_backward(call)};
  const int64_t sequences = input(call, 6).shape[0] - 1;
  if (s.tokens == 0) return;
  if (is_for_sm90(s) && attention_backward_sm90(call)) return;
  const Backward pass{s,
                      call.in[0].data,
                      call.in[1].data,
                      call.in[2].data,
                      call.in[3].data,
                      call.in[4].data,
                      call.in[5].as<float>(),
                      call.in[6].as<int32_t>(),
                      sequences,
                      call.out[0].data,
                      call.out[1].data,
                      call.out[2].data,
                      static_cast<float*>(call.workspace)};
  if (!backward_mma(call, pass)) backward_plain(call, pass);
}

size_t attention_cached_workspace(const OpCall& call) {
  const Shape s{attention_shape(call, input(call, 0))};
  check_keys(call, output(call, 1), "k_cache", s, kAny);
  return decode_workspace(s, output(call, 1).shape[0]);
}

void attention_cached(const OpCall& call) {
  const Shape s{check_attention_cached(call)};
  const int64_t capacity = output(call, 1).shape[0];
  if (s.tokens == 0) return;
  const Cached pass{s, call.in[0].data, call.in[1].data, call.in[2].data, call.in[3].as<int32_t>(), call.out[0].data, call.out[1].data,
                    call.out[2].data, capacity};
  if (s.tokens <= kDecodeTokens) return decode(call, pass);
  append_to_cache(call, pass);
  Shape causal = s;
  causal.causal = true;
  const Forward forward{causal, pass.q, pass.k_cache, pass.v_cache, pass.o, nullptr, nullptr, 1, pass.past, capacity};
  if (!forward_mma(call, forward)) forward_plain(call, forward);
}

}  // namespace vltune::cuda
