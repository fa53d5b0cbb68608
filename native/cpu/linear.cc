#include "../ops/linear.h"

#include <cmath>

#include "gemm/check.h"
#include "gemm/gemm.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// A stored matrix as an operand of a product.
Operand whole(const Tensor& t, bool transposed) {
  Operand m;
  m.data = t.data;
  m.dtype = t.dtype;
  m.ld = t.shape[1];
  m.transposed = transposed;
  m.nf4 = t.nf4;
  return m;
}
Operand floats(const float* data, int64_t ld, bool transposed) {
  Operand m;
  m.data = data;
  m.ld = ld;
  m.transposed = transposed;
  return m;
}
Operand masked(Operand m, const Dropout* dropout) {
  m.dropout = dropout;
  return m;
}

double dropout_probability(const OpCall& call) {
  const double p = call.attrs->number("dropout", 0);
  VLTUNE_CHECK(p >= 0 && p < 1, "ERR_ARGUMENT", "%s: dropout must be at least 0 and below 1, got %g", call.op, p);
  return p;
}

bool drops(const OpCall& call, const Tensor& rng) { return rng.present() && dropout_probability(call) > 0; }

Dropout dropout_of(const OpCall& call, const Tensor& rng) {
  const double p = dropout_probability(call);
  const int32_t* key = rng.as<int32_t>();
  const double threshold = std::ceil(p * 4294967296.0);
  return {{static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1])},
          static_cast<uint32_t>(call.attrs->integer("site", 0)),
          threshold >= 4294967295.0 ? 0xffffffffu : static_cast<uint32_t>(threshold),
          static_cast<float>(1.0 / (1.0 - p))};
}

struct Forward {
  Tensor x, weight, bias, a, b, rng, y, u;
  int64_t n, in, out, rank;
};

Forward forward_of(const OpCall& call) {
  Forward f{input(call, 0), input(call, 1), input(call, 2), input(call, 3), input(call, 4), input(call, 5), output(call, 0), output(call, 1), 0, 0, 0, 0};
  expect_present(call, "x", f.x);
  expect_activation(call, "x", f.x);
  expect_rank(call, "x", f.x, 2);
  expect_weight(call, f.weight);
  f.n = f.x.shape[0];
  f.in = f.x.shape[1];
  f.out = f.weight.shape[0];
  expect_shape(call, "weight", f.weight, f.out, f.in);
  if (f.bias.present()) {
    expect_activation(call, "bias", f.bias);
    expect_shape(call, "bias", f.bias, f.out);
  }
  VLTUNE_CHECK(f.a.present() == f.b.present(), "ERR_ARGUMENT", "%s: lora_a and lora_b go together", call.op);
  VLTUNE_CHECK(f.a.present() == f.u.present(), "ERR_ARGUMENT", "%s: output u is there if and only if lora_a is", call.op);
  if (f.a.present()) {
    expect_dtype(call, "lora_a", f.a, DType::F32);
    expect_dtype(call, "lora_b", f.b, DType::F32);
    expect_dtype(call, "u", f.u, DType::F32);
    expect_rank(call, "lora_a", f.a, 2);
    f.rank = f.a.shape[0];
    expect_shape(call, "lora_a", f.a, f.rank, f.in);
    expect_shape(call, "lora_b", f.b, f.out, f.rank);
    expect_shape(call, "u", f.u, f.n, f.rank);
  }
  if (f.rng.present()) {
    expect_dtype(call, "rng", f.rng, DType::I32);
    expect_shape(call, "rng", f.rng, 2);
  }
  expect_present(call, "y", f.y);
  expect_dtype(call, "y", f.y, f.x.dtype);
  expect_shape(call, "y", f.y, f.n, f.out);
  return f;
}

// u = scale * drop(x) A^T
Gemm down_product(const OpCall& call, const Forward& f, const Dropout* dropout) {
  Gemm g;
  g.m = f.n;
  g.n = f.rank;
  g.base = {masked(whole(f.x, false), dropout), whole(f.a, true), f.in};
  g.alpha = static_cast<float>(call.attrs->number("scale", 1));
  g.c = f.u.data;
  g.bf16 = f.x.dtype == DType::BF16;
  return g;
}

// y = x W^T + bias + u B^T
Gemm forward_product(const Forward& f) {
  Gemm g;
  g.m = f.n;
  g.n = f.out;
  g.base = {whole(f.x, false), whole(f.weight, true), f.in};
  if (f.a.present()) g.extra = {whole(f.u, false), whole(f.b, true), f.rank};
  g.bias = f.bias.present() ? f.bias.data : nullptr;
  g.bias_dtype = f.bias.dtype;
  g.c = f.y.data;
  g.c_dtype = f.y.dtype;
  g.bf16 = f.x.dtype == DType::BF16;
  return g;
}

struct Backward {
  Tensor dy, x, weight, a, b, u, rng, dx, dweight, dbias, da, db;
  int64_t n, in, out, rank;
  bool needs_v() const { return a.present() && (dx.present() || da.present()); }
};

Backward backward_of(const OpCall& call) {
  Backward f{input(call, 0),  input(call, 1),  input(call, 2),  input(call, 3),  input(call, 4), input(call, 5), input(call, 6),
             output(call, 0), output(call, 1), output(call, 2), output(call, 3), output(call, 4), 0,             0, 0, 0};
  expect_present(call, "dy", f.dy);
  expect_activation(call, "dy", f.dy);
  expect_rank(call, "dy", f.dy, 2);
  expect_weight(call, f.weight);
  f.n = f.dy.shape[0];
  f.out = f.weight.shape[0];
  f.in = f.weight.shape[1];
  expect_shape(call, "dy", f.dy, f.n, f.out);
  if (f.x.present()) {
    expect_dtype(call, "x", f.x, f.dy.dtype);
    expect_shape(call, "x", f.x, f.n, f.in);
  }
  VLTUNE_CHECK(f.a.present() == f.b.present(), "ERR_ARGUMENT", "%s: lora_a and lora_b go together", call.op);
  if (f.a.present()) {
    expect_dtype(call, "lora_a", f.a, DType::F32);
    expect_dtype(call, "lora_b", f.b, DType::F32);
    expect_rank(call, "lora_a", f.a, 2);
    f.rank = f.a.shape[0];
    expect_shape(call, "lora_a", f.a, f.rank, f.in);
    expect_shape(call, "lora_b", f.b, f.out, f.rank);
  }
  if (f.u.present()) {
    expect_dtype(call, "u", f.u, DType::F32);
    expect_shape(call, "u", f.u, f.n, f.rank);
  }
  if (f.rng.present()) {
    expect_dtype(call, "rng", f.rng, DType::I32);
    expect_shape(call, "rng", f.rng, 2);
  }
  const auto gradient = [&](const char* name, const Tensor& t, DType dtype, int64_t rows, int64_t columns) {
    if (!t.present()) return;
    expect_dtype(call, name, t, dtype);
    expect_shape(call, name, t, rows, columns);
  };
  gradient("dx", f.dx, f.dy.dtype, f.n, f.in);
  gradient("dweight", f.dweight, DType::F32, f.out, f.in);
  gradient("dbias", f.dbias, DType::F32, f.out, -1);
  VLTUNE_CHECK(f.a.present() || (!f.da.present() && !f.db.present()), "ERR_ARGUMENT", "%s: da and db need lora_a and lora_b", call.op);
  gradient("da", f.da, DType::F32, f.rank, f.in);
  gradient("db", f.db, DType::F32, f.out, f.rank);
  if (f.dweight.present() || f.da.present()) expect_present(call, "x", f.x);
  if (f.db.present()) expect_present(call, "u", f.u);
  return f;
}

// The products of the backward pass, each over scratch memory of its own time: v, and db transposed, lie before it.
struct BackwardProducts {
  Gemm v, dx, dweight, da, db;
};

BackwardProducts backward_products(const OpCall& call, const Backward& f, const Dropout* dropout, float* v, float* db) {
  BackwardProducts p;
  for (Gemm* g : {&p.v, &p.dx, &p.dweight, &p.da, &p.db}) g->bf16 = f.dy.dtype == DType::BF16;
  if (f.needs_v()) {  // v = scale * dy B
    p.v.m = f.n;
    p.v.n = f.rank;
    p.v.base = {whole(f.dy, false), whole(f.b, false), f.out};
    p.v.alpha = static_cast<float>(call.attrs->number("scale", 1));
    p.v.c = v;
  }
  if (f.dx.present()) {  // dx = dy W + drop'(v A)
    p.dx.m = f.n;
    p.dx.n = f.in;
    p.dx.base = {whole(f.dy, false), whole(f.weight, false), f.out};
    if (f.a.present()) {
      p.dx.extra = {floats(v, f.rank, false), whole(f.a, false), f.rank};
      p.dx.extra_dropout = dropout;
    }
    p.dx.c = f.dx.data;
    p.dx.c_dtype = f.dx.dtype;
    p.dx.accumulate = call.attrs->flag("accumulate");
  }
  if (f.dweight.present()) {  // dweight += dy^T x
    p.dweight.m = f.out;
    p.dweight.n = f.in;
    p.dweight.base = {whole(f.dy, true), whole(f.x, false), f.n};
    p.dweight.c = f.dweight.data;
    p.dweight.accumulate = true;
  }
  if (f.da.present()) {  // da += v^T drop(x)
    p.da.m = f.rank;
    p.da.n = f.in;
    p.da.base = {floats(v, f.rank, true), masked(whole(f.x, false), dropout), f.n};
    p.da.c = f.da.data;
    p.da.accumulate = true;
  }
  if (f.db.present()) {  // (dy^T u)^T: this way round dy streams past once
    p.db.m = f.rank;
    p.db.n = f.out;
    p.db.base = {whole(f.u, true), whole(f.dy, false), f.n};
    p.db.c = db;
  }
  return p;
}

size_t v_bytes(const Backward& f) { return f.needs_v() ? aligned(size_t(f.n * f.rank) * 4) : 0; }
size_t db_bytes(const Backward& f) { return f.db.present() ? aligned(size_t(f.rank * f.out) * 4) : 0; }

// sums[j] += sum of column j, rows in ascending order.
template <class T>
void add_columns(const T* values, int64_t rows, int64_t columns, float* sums, ThreadPool* pool) {
  pool->parallel_for(columns, 4 * kLanes, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += kLanes) {
      const int lanes = static_cast<int>(end - j < kLanes ? end - j : kLanes);
      Vec sum = zero();
      for (int64_t i = 0; i < rows; ++i) sum = sum + load_n(values + i * columns + j, lanes);
      store_n(sums + j, load_n(sums + j, lanes) + sum, lanes);
    }
  });
}

}  // namespace

size_t linear_workspace(const OpCall& call) {
  const Forward f = forward_of(call);
  const int threads = call.pool->size();
  size_t bytes = gemm_workspace(forward_product(f), threads);
  if (f.a.present()) {
    const Dropout dropout{};
    const size_t down = gemm_workspace(down_product(call, f, drops(call, f.rng) ? &dropout : nullptr), threads);
    if (down > bytes) bytes = down;
  }
  return bytes;
}

void linear(const OpCall& call) {
  const Forward f = forward_of(call);
  expect_workspace(call, linear_workspace(call));
  if (f.a.present()) {
    Dropout dropout{};
    const bool drop = drops(call, f.rng);
    if (drop) dropout = dropout_of(call, f.rng);
    gemm(down_product(call, f, drop ? &dropout : nullptr), call.pool, call.workspace);
  }
  gemm(forward_product(f), call.pool, call.workspace);
}

size_t linear_backward_workspace(const OpCall& call) {
  const Backward f = backward_of(call);
  const Dropout dropout{};
  const BackwardProducts p = backward_products(call, f, drops(call, f.rng) ? &dropout : nullptr, nullptr, nullptr);
  size_t bytes = 0;
  for (const Gemm* g : {&p.v, &p.dx, &p.dweight, &p.da, &p.db}) {
    const size_t b = gemm_workspace(*g, call.pool->size());
    if (b > bytes) bytes = b;
  }
  return v_bytes(f) + db_bytes(f) + bytes;
}

void linear_backward(const OpCall& call) {
  const Backward f = backward_of(call);
  expect_workspace(call, linear_backward_workspace(call));
  char* scratch = static_cast<char*>(call.workspace);
  float* v = reinterpret_cast<float*>(scratch);
  float* db = reinterpret_cast<float*>(scratch + v_bytes(f));
  scratch += v_bytes(f) + db_bytes(f);
  Dropout dropout{};
  const bool drop = drops(call, f.rng);
  if (drop) dropout = dropout_of(call, f.rng);
  const BackwardProducts p = backward_products(call, f, drop ? &dropout : nullptr, v, db);
  for (const Gemm* g : {&p.v, &p.dx, &p.dweight, &p.da, &p.db}) gemm(*g, call.pool, scratch);
  if (f.db.present()) {
    float* sums = f.db.as<float>();
    for (int64_t j = 0; j < f.out; ++j)
      for (int64_t q = 0; q < f.rank; ++q) sums[j * f.rank + q] += db[q * f.out + j];
  }
  if (f.dbias.present()) {
    if (f.dy.dtype == DType::F32) add_columns(f.dy.as<float>(), f.n, f.out, f.dbias.as<float>(), call.pool);
    else add_columns(f.dy.as<Bf16>(), f.n, f.out, f.dbias.as<float>(), call.pool);
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
