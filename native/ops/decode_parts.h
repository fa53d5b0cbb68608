// linears_one and attention_one as the ops that they are made of, for any device: what the CPU does, and a GPU where it has no kernel of
// its own for the operands. Ops names a device's functions. `static` for the reason that check.h gives.
#pragma once
#include "check.h"

namespace vltune {

constexpr int kMostLinears = 3;

struct LinearsOne {
  struct Layer {
    Tensor weight, bias, a, b;
    int64_t out = 0, rank = 0;
  };
  Tensor x, residual, norm, sum;
  Tensor y[kMostLinears];  // of the layers; with swiglu one
  Layer layers[kMostLinears];
  int count = 0;
  int64_t width = 0;
  bool swiglu = false;
};

[[maybe_unused]] static LinearsOne linears_of(const OpCall& call) {
  LinearsOne f;
  f.x = input(call, 0);
  f.residual = input(call, 1);
  f.norm = input(call, 2);
  f.sum = output(call, 0);
  f.swiglu = call.attrs->flag("swiglu");
  check_operand(call, f.x, "x", kIsActivation, {1, kAny});
  f.width = f.x.shape[1];
  const unsigned dtype = dtype_bit(f.x.dtype);
  if (f.norm.present()) check_operand(call, f.norm, "norm_weight", kIsNormWeight, {f.width});
  else check_absent(call, f.residual, "residual", "without norm_weight");
  if (f.residual.present()) {
    check_operand(call, f.residual, "residual", dtype, {1, f.width});
    check_operand(call, f.sum, "sum", dtype, {1, f.width});
  } else {
    check_absent(call, f.sum, "sum", "without residual");
  }
  for (int i = 0; i < kMostLinears; ++i) {
    char weight[16], bias[16], a[16], b[16];
    std::snprintf(weight, sizeof weight, "weight_%d", i);
    std::snprintf(bias, sizeof bias, "bias_%d", i);
    std::snprintf(a, sizeof a, "lora_a_%d", i);
    std::snprintf(b, sizeof b, "lora_b_%d", i);
    LinearsOne::Layer& layer = f.layers[i];
    layer = {input(call, 3 + 4 * i), input(call, 4 + 4 * i), input(call, 5 + 4 * i), input(call, 6 + 4 * i), 0, 0};
    if (i > f.count || (i > 0 && !layer.weight.present())) {
      check_absent(call, layer.weight, weight, "after a layer that is missing");
      check_absent(call, layer.bias, bias, "without a weight");
      check_absent(call, layer.a, a, "without a weight");
      check_absent(call, layer.b, b, "without a weight");
      continue;
    }
    check_operand(call, layer.weight, weight, kIsFloat | kIsNf4, {kAny, f.width});
    layer.out = layer.weight.shape[0];
    if (layer.bias.present()) check_operand(call, layer.bias, bias, kIsActivation, {layer.out});
    if (layer.a.present()) {
      check_operand(call, layer.a, a, kIsF32, {kAny, f.width});
      check_operand(call, layer.b, b, kIsF32, {layer.out, layer.a.shape[0]});
      layer.rank = layer.a.shape[0];
    } else {
      check_absent(call, layer.b, b, "without lora_a");
    }
    ++f.count;
  }
  if (f.swiglu) {
    VLTUNE_CHECK(f.count == 2, "ERR_ARGUMENT", "%s: swiglu of %d layers, expected 2", call.op, f.count);
    check_shape(call, f.layers[1].weight, "weight_1", {f.layers[0].out, f.width});
  }
  const int results = f.swiglu ? 1 : f.count;
  for (int i = 0; i < kMostLinears; ++i) {
    char y[16];
    std::snprintf(y, sizeof y, "y_%d", i);
    f.y[i] = output(call, 1 + i);
    if (i < results) check_operand(call, f.y[i], y, dtype, {1, f.layers[i].out});
    else check_absent(call, f.y[i], y, "without a layer of its own");
  }
  return f;
}

namespace parts {

// Pieces of scratch memory, one after the other. Without a start they have no place, and are counted alone.
class Scratch {
 public:
  explicit Scratch(void* start) : start_(static_cast<char*>(start)) {}
  Tensor take(const OpCall& call, DType dtype, int64_t rows, int64_t columns) {
    VLTUNE_CHECK(columns < int64_t{1} << 53, "ERR_SHAPE", "%s: scratch memory for %lld numbers", call.op, static_cast<long long>(columns));
    Tensor tensor;
    tensor.dtype = dtype;
    tensor.device = call.in[0].device;
    tensor.rank = rows > 0 ? 2 : 1;
    tensor.shape[0] = rows > 0 ? rows : columns;
    tensor.shape[1] = columns;
    if (start_) tensor.data = start_ + used_;
    used_ += (dtype_bytes(dtype, columns) + 255) / 256 * 256;
    return tensor;
  }
  void* rest() const { return start_ ? start_ + used_ : nullptr; }
  size_t used() const { return used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

struct Part {
  OpRun run;
  OpWorkspace workspace;
  Tensor in[8], out[3];
};

// The parts in order, after scratch memory of their own. Returns the bytes that all of it takes; runs if told to.
static size_t run_parts(const OpCall& call, const Part* all, int count, const Scratch& scratch, bool run) {
  size_t most = 0;
  for (int i = 0; i < count; ++i) {
    OpCall part = call;
    part.in = all[i].in;
    part.in_count = 8;
    part.out = all[i].out;
    part.out_count = 3;
    part.workspace = nullptr;
    part.workspace_bytes = all[i].workspace ? all[i].workspace(part) : 0;
    if (part.workspace_bytes > most) most = part.workspace_bytes;
    if (!run) continue;
    part.workspace = scratch.rest();
    all[i].run(part);
  }
  return scratch.used() + most;
}

template <class Ops> size_t linears(const OpCall& call, const LinearsOne& f, bool run) {
  Scratch scratch(run ? call.workspace : nullptr);
  Part all[5];
  int count = 0;
  Tensor z = f.x, results[kMostLinears];
  if (f.norm.present()) {
    z = scratch.take(call, f.x.dtype, 1, f.width);
    all[count++] = {Ops::rms_norm, nullptr, {f.x, f.norm, f.residual}, {z, scratch.take(call, DType::F32, 0, 1), f.sum}};
  }
  for (int i = 0; i < f.count; ++i) {
    const LinearsOne::Layer& layer = f.layers[i];
    results[i] = f.swiglu ? scratch.take(call, f.x.dtype, 1, layer.out) : f.y[i];
    const Tensor u = layer.a.present() ? scratch.take(call, DType::F32, 1, layer.rank) : Tensor{};
    all[count++] = {Ops::linear, Ops::linear_workspace, {z, layer.weight, layer.bias, layer.a, layer.b}, {results[i], u}};
  }
  if (f.swiglu) all[count++] = {Ops::swiglu, nullptr, {results[0], results[1]}, {f.y[0]}};
  return run_parts(call, all, count, scratch, run);
}

// Outputs are written by the last part alone, after its checks.
template <class Ops> size_t attention(const OpCall& call, bool run) {
  const Tensor &q = input(call, 0), &k = input(call, 1), &q_norm = input(call, 3), &k_norm = input(call, 4);
  check_operand(call, q, "q", kIsActivation, {1, kAny});
  check_operand(call, k, "k", dtype_bit(q.dtype), {1, kAny});
  const int64_t dim = call.attrs->integer("head_dim", 0);
  VLTUNE_CHECK(dim > 0, "ERR_ARGUMENT", "%s: attribute head_dim is %lld, expected a positive number", call.op, static_cast<long long>(dim));
  Scratch scratch(run ? call.workspace : nullptr);
  const auto rotated = [&](const Tensor& x, const Tensor& norm) -> Part {
    const Tensor y = scratch.take(call, x.dtype, 1, x.shape[1]);
    const Tensor rstd = norm.present() ? scratch.take(call, DType::F32, 1, x.shape[1] / dim) : Tensor{};
    return {Ops::qk_norm_rope, nullptr, {x, norm, input(call, 5), input(call, 6)}, {y, rstd}};
  };
  Part all[3] = {rotated(q, q_norm), rotated(k, k_norm), {}};
  all[2] = {Ops::attention_cached,
            Ops::attention_cached_workspace,
            {all[0].out[0], all[1].out[0], input(call, 2), input(call, 7)},
            {output(call, 0), output(call, 1), output(call, 2)}};
  return run_parts(call, all, 3, scratch, run);
}

}  // namespace parts
}  // namespace vltune
