#include "../ops/linear.h"

#include "../ops/linear_checks.h"
#include "adapter.h"
#include "gemm/gemm.h"
#include "linear_gemv.h"
#include "scratch.h"
#include "vector.cuh"
#include "weight.h"

namespace vltune::cuda {
namespace {

float scale_of(const OpCall& call) { return static_cast<float>(call.attrs->number("scale", 1)); }

// Factors of the second run that the product can read as they are: F32 of a whole number of steps.
bool lies_padded(DType dtype, int64_t rank) { return dtype == DType::F32 && rank % kRankStep == 0; }

struct Forward : LinearForward {
  bool adapts() const { return rank > 0; }
};

Forward forward_of(const OpCall& call) { return {check_linear(call)}; }

struct ForwardScratch {
  void *weight, *u, *b;
  size_t bytes;
};
ForwardScratch forward_scratch(const Forward& f, void* start) {
  Scratch scratch(start);
  const bool pads = f.adapts() && !lies_padded(f.x.dtype, f.rank);
  ForwardScratch s;
  if (f.n <= kGemvRows) return {};
  s.weight = scratch.take(weight_workspace(f.weight, f.x.dtype));
  s.u = scratch.take(pads ? dtype_bytes(f.x.dtype, f.n * padded_rank(f.rank)) : 0);
  s.b = scratch.take(pads ? dtype_bytes(f.x.dtype, f.out * padded_rank(f.rank)) : 0);
  s.bytes = scratch.used();
  return s;
}

struct Backward : LinearBackward {
  bool needs_v() const { return rank > 0 && (dx.present() || da.present()); }
};

Backward backward_of(const OpCall& call) { return {check_linear_backward(call)}; }

// The sums over rows that are wanted: da, db, dbias.
int sums_of(const Backward& f, const Dropout& dropout, const void* v, const void* u, Sum* sums) {
  int count = 0;
  if (f.da.present() && f.rank > 0) {
    Sum& s = sums[count++];
    s.columns = f.in;
    s.rank = f.rank;
    s.m = f.x.data;
    s.factor = v;
    s.ld = padded_rank(f.rank);
    s.rank_first = true;
    s.dropout = dropout;
    s.sums = f.da.as<float>();
  }
  if (f.db.present() && f.rank > 0) {
    Sum& s = sums[count++];
    s.columns = f.out;
    s.rank = f.rank;
    s.m = f.dy.data;
    s.factor = u;
    s.ld = f.dy.dtype == DType::F32 ? f.rank : padded_rank(f.rank);
    s.sums = f.db.as<float>();
  }
  if (f.dbias.present()) {
    Sum& s = sums[count++];
    s.columns = f.out;
    s.rank = 1;
    s.m = f.dy.data;
    s.sums = f.dbias.as<float>();
  }
  return count;
}

struct BackwardScratch {
  void *weight, *v, *a, *u, *sums;
  size_t bytes;
};
BackwardScratch backward_scratch(const Backward& f, bool drops, void* start) {
  Scratch scratch(start);
  Sum sums[kMostSums];
  BackwardScratch s;
  s.weight = scratch.take(f.dx.present() ? weight_workspace(f.weight, f.dy.dtype) : 0);
  s.v = scratch.take(f.needs_v() ? dtype_bytes(f.dy.dtype, f.n * padded_rank(f.rank)) : 0);
  const bool pads = f.needs_v() && f.dx.present() && !drops && !lies_padded(f.dy.dtype, f.rank);
  s.a = scratch.take(pads ? dtype_bytes(f.dy.dtype, padded_rank(f.rank) * f.in) : 0);
  s.u = f.dy.dtype == DType::F32 ? f.u.data : scratch.take(f.db.present() ? dtype_bytes(f.dy.dtype, f.n * padded_rank(f.rank)) : 0);
  s.sums = scratch.take(adapter_sums_workspace(f.dy.dtype, f.n, sums, sums_of(f, {}, nullptr, nullptr, sums)));
  s.bytes = scratch.used();
  return s;
}

bool drops(const OpCall& call, const Tensor& rng) { return rng.present() && dropout_probability(call) > 0; }

}  // namespace

size_t linear_workspace(const OpCall& call) { return forward_scratch(forward_of(call), nullptr).bytes; }

void linear(const OpCall& call) {
  const Forward f = forward_of(call);
  const Dropout dropout = dropout_of(call, f.rng);
  check_workspace(call, linear_workspace(call));
  const ForwardScratch s = forward_scratch(f, call.workspace);
  const DType dtype = f.x.dtype;
  if (f.n <= kGemvRows) {
    linear_gemv(call, {f.n, f.in, f.out, f.rank, dtype, f.x.data, &f.weight, f.bias.data, f.bias.dtype, f.a.as<float>(), f.b.as<float>(),
                       scale_of(call), dropout, f.u.as<float>(), f.y.data});
    return;
  }
  const bool converts = f.weight.dtype != dtype;
  if (converts && !f.adapts()) weight_as(call, f.weight, dtype, s.weight);
  Gemm g{f.n, f.out, f.in, dtype, f.x.data, f.in, converts ? s.weight : f.weight.data, f.in, true};
  if (f.adapts()) {
    const bool lies = lies_padded(dtype, f.rank);
    Down down{f.n, f.in, f.rank, dtype, f.x.data, f.a.as<float>(), false, scale_of(call), dropout, f.u.as<float>(),
              lies ? nullptr : s.u, {}};
    if (!lies) {
      down.pads[0] = {f.b.as<float>(), s.b, f.out, f.rank, f.out, padded_rank(f.rank)};
    }
    if (converts) down.weight = &f.weight, down.plain = s.weight;
    adapter_down(call, down);
    g.k2 = padded_rank(f.rank);
    g.a2 = lies ? f.u.data : s.u;
    g.b2 = lies ? f.b.data : s.b;
    g.lda2 = g.ldb2 = g.k2;
  }
  if (f.bias.present()) {
    g.bias = f.bias.data;
    g.bias_dtype = f.bias.dtype;
  }
  g.c = f.y.data;
  g.ldc = f.out;
  g.c_dtype = dtype;
  gemm(call, g);
}

size_t linear_backward_workspace(const OpCall& call) {
  const Backward f = backward_of(call);
  return backward_scratch(f, drops(call, f.rng), nullptr).bytes;
}

void linear_backward(const OpCall& call) {
  const Backward f = backward_of(call);
  const Dropout dropout = dropout_of(call, f.rng);
  const bool drop = drops(call, f.rng);
  check_workspace(call, linear_backward_workspace(call));
  const BackwardScratch s = backward_scratch(f, drop, call.workspace);
  const DType dtype = f.dy.dtype;
  const bool lies = lies_padded(dtype, f.rank), accumulate = call.attrs->flag("accumulate");
  const bool converts = f.dx.present() && f.weight.dtype != dtype;
  if (f.rank > 0 && (f.needs_v() || f.db.present())) {
    Down down{f.needs_v() ? f.n : 0, f.out, f.rank, dtype, f.dy.data, f.b.as<float>(), true, scale_of(call), {}, nullptr, s.v, {}};
    if (converts) down.weight = &f.weight, down.plain = s.weight;
    if (f.dx.present() && !drop && !lies) down.pads[0] = {f.a.as<float>(), s.a, f.rank, f.in, padded_rank(f.rank), f.in};
    if (f.db.present() && dtype != DType::F32) down.pads[1] = {f.u.as<float>(), s.u, f.n, f.rank, f.n, padded_rank(f.rank)};
    adapter_down(call, down);
  } else if (converts) {
    weight_as(call, f.weight, dtype, s.weight);
  }
  // Before the large product: dy, just read, may still lie in L2.
  Sum sums[kMostSums];
  adapter_sums(call, dtype, f.n, sums, sums_of(f, dropout, s.v, s.u, sums), s.sums);
  if (f.dx.present()) {
    Gemm g{f.n, f.in, f.out, dtype, f.dy.data, f.out, converts ? s.weight : f.weight.data, f.in, false};
    g.c = f.dx.data;
    g.ldc = f.in;
    g.c_dtype = dtype;
    g.accumulate = accumulate;
    if (f.rank > 0 && drop) {
      // The masked term goes first, as the smaller one: what is rounded in between loses the least.
      adapter_through(call, dtype, f.n, f.in, f.rank, s.v, f.a.as<float>(), dropout, accumulate, f.dx.data);
      g.accumulate = true;
    } else if (f.rank > 0) {
      g.k2 = padded_rank(f.rank);
      g.a2 = s.v;
      g.lda2 = g.k2;
      g.b2 = lies ? f.a.data : s.a;
      g.ldb2 = f.in;
    }
    gemm(call, g);
  }
  if (f.dweight.present()) {
    Gemm g{f.out, f.in, f.n, dtype, f.dy.data, f.out, f.x.data, f.in, false};
    g.a_is_km = true;
    g.c = f.dweight.data;
    g.ldc = f.in;
    g.c_dtype = DType::F32;
    g.accumulate = true;
    gemm(call, g);
  }
}

}  // namespace vltune::cuda
