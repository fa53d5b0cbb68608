// Attention on CUDA: the ops of native/ops/attention.h. Here are the checks and the choice among the ways to compute: wgmma and TMA on
// Hopper, mma.sync from sm_80, plain FMAs otherwise; and for a few tokens against a cache a way of its own.
#include <algorithm>

#include "attention/shape.h"
#include "attention/sm90.h"

namespace vltune::cuda {

namespace attn {

Shape shape_of(const OpCall& call, const Tensor& q) {
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
  VLTUNE_CHECK(s.heads % s.kv_heads == 0, "ERR_ARGUMENT", "%s: attribute heads is %lld, expected a multiple of kv_heads, %lld", call.op,
               static_cast<long long>(s.heads), static_cast<long long>(s.kv_heads));
  // Positive, because the running maximum of the scores is taken before they are scaled.
  const double scale = attribute("scale");
  VLTUNE_CHECK(scale > 0 && scale < 3e38, "ERR_ARGUMENT", "%s: attribute scale is %g, expected a positive number", call.op, scale);
  s.scale = static_cast<float>(scale);
  s.causal = call.attrs->flag("causal");
  check_operand(call, q, "q", kIsActivation, {kAny, s.q_stride()});
  s.tokens = q.shape[0];
  s.dtype = q.dtype;
  return s;
}

}  // namespace attn

namespace {

using namespace attn;

void check_queries(const OpCall& call, const Tensor& tensor, const char* name, const Shape& s) {
  check_operand(call, tensor, name, dtype_bit(s.dtype), {s.tokens, s.q_stride()});
}
void check_keys(const OpCall& call, const Tensor& tensor, const char* name, const Shape& s, int64_t rows) {
  check_operand(call, tensor, name, dtype_bit(s.dtype), {rows, s.kv_stride()});
}

// Number of sequences.
int64_t check_bounds(const OpCall& call, const Tensor& bounds) {
  check_operand(call, bounds, "bounds", kIsI32, {kAny});
  VLTUNE_CHECK(bounds.shape[0] >= 1, "ERR_SHAPE", "%s: bounds has shape [0], expected one more than there are sequences", call.op);
  return bounds.shape[0] - 1;
}

bool is_for_sm90(const Shape& s) { return device().sm90a() && s.dtype == DType::BF16 && (s.head_dim == 64 || s.head_dim == 128); }

}  // namespace

size_t attention_workspace(const OpCall& call) { return attention_forward_sm90_workspace(call); }

void attention(const OpCall& call) {
  const Shape s = shape_of(call, input(call, 0));
  check_keys(call, input(call, 1), "k", s, s.tokens);
  check_keys(call, input(call, 2), "v", s, s.tokens);
  check_queries(call, output(call, 0), "o", s);
  check_operand(call, output(call, 1), "lse", kIsF32, {s.heads, s.tokens});
  const int64_t sequences = check_bounds(call, input(call, 3));
  if (s.tokens == 0) return;
  if (is_for_sm90(s) && attention_forward_sm90(call)) return;
  const Forward pass{s, call.in[0].data, call.in[1].data, call.in[2].data, call.out[0].data, call.out[1].as<float>(),
                     call.in[3].as<int32_t>(), sequences, nullptr, 0};
  if (!forward_mma(call, pass)) forward_plain(call, pass);
}

size_t attention_backward_workspace(const OpCall& call) {
  const Shape s = shape_of(call, input(call, 1));
  return std::max(attention_backward_sm90_workspace(call), sizeof(float) * static_cast<size_t>(s.heads * s.tokens));
}

void attention_backward(const OpCall& call) {
  const Shape s = shape_of(call, input(call, 1));
  check_queries(call, input(call, 0), "do", s);
  check_keys(call, input(call, 2), "k", s, s.tokens);
  check_keys(call, input(call, 3), "v", s, s.tokens);
  check_queries(call, input(call, 4), "o", s);
  check_operand(call, input(call, 5), "lse", kIsF32, {s.heads, s.tokens});
  check_queries(call, output(call, 0), "dq", s);
  check_keys(call, output(call, 1), "dk", s, s.tokens);
  check_keys(call, output(call, 2), "dv", s, s.tokens);
  const int64_t sequences = check_bounds(call, input(call, 6));
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
  const Shape s = shape_of(call, input(call, 0));
  check_keys(call, output(call, 1), "k_cache", s, kAny);
  return decode_workspace(s, output(call, 1).shape[0]);
}

void attention_cached(const OpCall& call) {
  const Shape s = shape_of(call, input(call, 0));
  check_keys(call, input(call, 1), "k", s, s.tokens);
  check_keys(call, input(call, 2), "v", s, s.tokens);
  check_operand(call, input(call, 3), "past", kIsI32, {1});
  check_queries(call, output(call, 0), "o", s);
  check_keys(call, output(call, 1), "k_cache", s, kAny);
  const int64_t capacity = output(call, 1).shape[0];
  check_keys(call, output(call, 2), "v_cache", s, capacity);
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
