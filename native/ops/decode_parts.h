// The ops of one token as the ops that they are made of, for any device: what the CPU does, and a GPU where it has no kernel of its own for
// the operands. Ops names a device's functions. `static` for the reason that check.h gives.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <iterator>

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

// Where layers_one has its operands: those of all layers, then as many for each layer. A linear layer's are weight, bias, lora_a, lora_b.
struct LayersOne {
  enum : int { kX, kResidual, kCos, kSin, kPast, kShared };
  enum : int { kInputNorm, kQ, kK = kQ + 4, kV = kK + 4, kQNorm = kV + 4, kKNorm, kO, kPostNorm = kO + 4, kGate, kUp = kGate + 4, kDown = kUp + 4,
               kOfLayer = kDown + 4 };
  enum : int { kY, kSum, kCaches };  // of the outputs
};
constexpr int kMostLayers = 4096;

[[maybe_unused]] static const Tensor& of_layer(const OpCall& call, int64_t layer, int which) {
  return input(call, static_cast<int>(LayersOne::kShared + layer * LayersOne::kOfLayer + which));
}

// How many layers there are. Every operand is checked: layers are run one by one, and nothing may be written if a later one is wrong.
[[maybe_unused]] static int64_t layers_of(const OpCall& call) {
  using L = LayersOne;
  const Attrs& attrs = *call.attrs;
  const auto attribute = [&](const char* name, int64_t most) {
    const int64_t value = attrs.integer(name, 0);
    VLTUNE_CHECK(value >= 1 && value <= most, "ERR_ARGUMENT", "%s: attribute %s is %lld, expected 1 to %lld", call.op, name, static_cast<long long>(value),
                 static_cast<long long>(most));
    return value;
  };
  const int64_t layers = attribute("layers", kMostLayers), dim = attribute("head_dim", 1 << 16);
  const int64_t queries = attribute("heads", 1 << 16) * dim, keys = attribute("kv_heads", 1 << 16) * dim;
  const Tensor &x = input(call, L::kX), &first_cache = output(call, L::kCaches);
  check_operand(call, x, "x", kIsActivation, {1, kAny});
  const unsigned dtype = dtype_bit(x.dtype);
  const int64_t width = x.shape[1];
  if (input(call, L::kResidual).present()) check_operand(call, input(call, L::kResidual), "residual", dtype, {1, width});
  check_operand(call, input(call, L::kCos), "cos", kIsF32, {1, dim / 2});
  check_operand(call, input(call, L::kSin), "sin", kIsF32, {1, dim / 2});
  check_operand(call, input(call, L::kPast), "past", kIsI32, {1});
  check_operand(call, output(call, L::kY), "y", dtype, {1, width});
  check_operand(call, output(call, L::kSum), "sum", dtype, {1, width});
  check_operand(call, first_cache, "k_cache", dtype, {kAny, keys});
  const Tensor& gate = of_layer(call, 0, L::kGate);
  check_operand(call, gate, "gate", kIsFloat | kIsNf4, {kAny, width});
  for (int64_t layer = 0; layer < layers; ++layer) {
    const auto norm = [&](int which, const char* name, int64_t length, bool is_optional) {
      const Tensor& weight = of_layer(call, layer, which);
      if (!is_optional || weight.present()) check_operand(call, weight, name, kIsNormWeight, {length});
    };
    const auto linear = [&](int which, const char* name, int64_t out, int64_t in) {
      const Tensor &bias = of_layer(call, layer, which + 1), &a = of_layer(call, layer, which + 2), &b = of_layer(call, layer, which + 3);
      char text[32];
      const auto named = [&](const char* part) { return std::snprintf(text, sizeof text, "%s %s", name, part), text; };
      check_operand(call, of_layer(call, layer, which), name, kIsFloat | kIsNf4, {out, in});
      if (bias.present()) check_operand(call, bias, named("bias"), kIsActivation, {out});
      if (a.present()) {
        check_operand(call, a, named("lora_a"), kIsF32, {kAny, in});
        check_operand(call, b, named("lora_b"), kIsF32, {out, a.shape[0]});
      } else {
        check_absent(call, b, named("lora_b"), "without lora_a");
      }
    };
    norm(L::kInputNorm, "input_norm", width, false);
    norm(L::kPostNorm, "post_norm", width, false);
    norm(L::kQNorm, "q_norm", dim, true);
    norm(L::kKNorm, "k_norm", dim, true);
    linear(L::kQ, "q", queries, width);
    linear(L::kK, "k", keys, width);
    linear(L::kV, "v", keys, width);
    linear(L::kO, "o", width, queries);
    linear(L::kGate, "gate", gate.shape[0], width);
    linear(L::kUp, "up", gate.shape[0], width);
    linear(L::kDown, "down", width, gate.shape[0]);
    for (int i = 0; i < 2; ++i)
      check_operand(call, output(call, static_cast<int>(L::kCaches + 2 * layer + i)), i == 0 ? "k_cache" : "v_cache", dtype, {first_cache.shape[0], keys});
  }
  return layers;
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
  Tensor in[15], out[4];
};

// The parts in order, after scratch memory of their own. Returns the bytes that all of it takes; runs if told to.
static size_t run_parts(const OpCall& call, const Part* all, int count, const Scratch& scratch, bool run) {
  size_t most = 0;
  for (int i = 0; i < count; ++i) {
    OpCall part = call;
    part.in = all[i].in;
    part.in_count = static_cast<int>(std::size(all[i].in));
    part.out = all[i].out;
    part.out_count = static_cast<int>(std::size(all[i].out));
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

// One layer after the other, their intermediate values in the same scratch memory.
template <class Ops> size_t layers(const OpCall& call, bool run) {
  using L = LayersOne;
  const int64_t count = layers_of(call);
  const Tensor &x = input(call, L::kX), &residual = input(call, L::kResidual);
  Scratch scratch(run ? call.workspace : nullptr);
  const auto row = [&](int64_t columns) { return scratch.take(call, x.dtype, 1, columns); };
  const auto rows_of = [&](int which) { return of_layer(call, 0, which).shape[0]; };
  const Tensor q = row(rows_of(L::kQ)), o = row(rows_of(L::kQ)), k = row(rows_of(L::kK)), v = row(rows_of(L::kV));
  const Tensor g = row(rows_of(L::kGate)), a = row(x.shape[1]), c = row(x.shape[1]);
  const Tensor &y = output(call, L::kY), &sum = output(call, L::kSum);

  const Attrs& attrs = *call.attrs;
  Attrs of_linears, of_gate, of_attention;
  for (Attrs* each : {&of_linears, &of_gate}) {
    each->set("eps", attrs.number("eps", 1e-6));
    each->set("scale", attrs.number("lora_scale", 1));
  }
  of_gate.set("swiglu", 1);
  for (const char* name : {"heads", "kv_heads", "head_dim", "scale", "causal", "eps"})
    if (const double* value = attrs.find(name)) of_attention.set(name, *value);

  size_t bytes = 0;
  const auto step = [&](const Attrs& its, OpRun op, OpWorkspace workspace, std::initializer_list<Tensor> in, std::initializer_list<Tensor> out) {
    Part part{op, workspace, {}, {}};
    std::copy(in.begin(), in.end(), part.in);
    std::copy(out.begin(), out.end(), part.out);
    OpCall with = call;
    with.attrs = &its;
    const size_t needed = run_parts(with, &part, 1, scratch, run);
    if (needed > bytes) bytes = needed;
  };
  for (int64_t i = 0; i < count; ++i) {
    const auto at = [&](int which) -> const Tensor& { return of_layer(call, i, which); };
    const Tensor &before = i > 0 ? sum : residual, &delta = i > 0 ? y : x;
    step(of_linears, Ops::linears_one, Ops::linears_one_workspace,
         {delta, before, at(L::kInputNorm), at(L::kQ), at(L::kQ + 1), at(L::kQ + 2), at(L::kQ + 3), at(L::kK), at(L::kK + 1), at(L::kK + 2), at(L::kK + 3), at(L::kV), at(L::kV + 1),
          at(L::kV + 2), at(L::kV + 3)},
         {before.present() ? a : Tensor{}, q, k, v});
    step(of_attention, Ops::attention_one, Ops::attention_one_workspace,
         {q, k, v, at(L::kQNorm), at(L::kKNorm), input(call, L::kCos), input(call, L::kSin), input(call, L::kPast)},
         {o, output(call, static_cast<int>(L::kCaches + 2 * i)), output(call, static_cast<int>(L::kCaches + 2 * i + 1))});
    step(of_linears, Ops::linears_one, Ops::linears_one_workspace, {o, {}, {}, at(L::kO), at(L::kO + 1), at(L::kO + 2), at(L::kO + 3)}, {{}, c});
    step(of_gate, Ops::linears_one, Ops::linears_one_workspace,
         {c, before.present() ? a : x, at(L::kPostNorm), at(L::kGate), at(L::kGate + 1), at(L::kGate + 2), at(L::kGate + 3), at(L::kUp), at(L::kUp + 1), at(L::kUp + 2), at(L::kUp + 3)},
         {sum, g});
    step(of_linears, Ops::linears_one, Ops::linears_one_workspace, {g, {}, {}, at(L::kDown), at(L::kDown + 1), at(L::kDown + 2), at(L::kDown + 3)}, {{}, y});
  }
  return bytes;
}

}  // namespace parts
}  // namespace vltune
