#include "../ops/linear.h"

#include <cmath>

#include "../ops/linear_checks.h"
#include "gemm/arithmetic.h"
#include "gemm/gemm.h"
#include "gemm/pack.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

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

// u = scale * drop(x) A^T
Gemm down_product(const OpCall& call, const LinearForward& f, const Dropout* dropout) {
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
Gemm forward_product(const LinearForward& f) {
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

AdapterProducts forward_products(const OpCall& call, const LinearForward& f, const Dropout* dropout) {
  AdapterProducts p;
  if (f.a.present()) p.down = down_product(call, f, dropout);
  p.main = forward_product(f);
  return p;
}

struct Backward : LinearBackward {
  bool needs_v() const { return a.present() && (dx.present() || da.present()); }
};

Backward backward_of(const OpCall& call) { return {check_linear_backward(call)}; }

// The products of the backward pass, over the same scratch memory one after the other: v, and db transposed, lie before it.
struct BackwardProducts {
  AdapterProducts adapter;
  Gemm dweight;
};

BackwardProducts backward_products(const OpCall& call, const Backward& f, const Dropout* dropout, float* v, float* db) {
  BackwardProducts p;
  Gemm &down = p.adapter.down, &through = p.adapter.main, &da = p.adapter.after[0], &db_turned = p.adapter.after[1];
  for (Gemm* g : {&down, &through, &p.dweight, &da, &db_turned}) g->bf16 = f.dy.dtype == DType::BF16;
  if (f.needs_v()) {  // v = scale * dy B
    down.m = f.n;
    down.n = f.rank;
    down.base = {whole(f.dy, false), whole(f.b, false), f.out};
    down.alpha = static_cast<float>(call.attrs->number("scale", 1));
    down.c = v;
  }
  if (f.dx.present()) {  // dx = dy W + drop'(v A)
    through.m = f.n;
    through.n = f.in;
    through.base = {whole(f.dy, false), whole(f.weight, false), f.out};
    if (f.a.present()) {
      through.extra = {floats(v, f.rank, false), whole(f.a, false), f.rank};
      through.extra_dropout = dropout;
    }
    through.c = f.dx.data;
    through.c_dtype = f.dx.dtype;
    through.accumulate = call.attrs->flag("accumulate");
  }
  if (f.dweight.present()) {  // dweight += dy^T x
    p.dweight.m = f.out;
    p.dweight.n = f.in;
    p.dweight.base = {whole(f.dy, true), whole(f.x, false), f.n};
    p.dweight.c = f.dweight.data;
    p.dweight.accumulate = true;
  }
  if (f.da.present()) {  // da += v^T drop(x)
    da.m = f.rank;
    da.n = f.in;
    da.base = {floats(v, f.rank, true), masked(whole(f.x, false), dropout), f.n};
    da.c = f.da.data;
    da.accumulate = true;
  }
  if (f.db.present()) {  // (dy^T u)^T: this way round dy streams past once
    db_turned.m = f.rank;
    db_turned.n = f.out;
    db_turned.base = {whole(f.u, true), whole(f.dy, false), f.n};
    db_turned.c = db;
  }
  return p;
}

// Of F32[rows][columns]. Matrices of no columns (or rows) let either be any number, so their product may be none.
size_t matrix_bytes(const OpCall& call, int64_t rows, int64_t columns) {
  VLTUNE_CHECK(rows == 0 || columns <= (int64_t{1} << 53) / rows, "ERR_SHAPE", "%s: scratch memory for %lld x %lld numbers", call.op,
               static_cast<long long>(rows), static_cast<long long>(columns));
  return aligned(static_cast<size_t>(rows * columns) * 4);
}
size_t v_bytes(const OpCall& call, const Backward& f) { return f.needs_v() ? matrix_bytes(call, f.n, f.rank) : 0; }
size_t db_bytes(const OpCall& call, const Backward& f) { return f.db.present() ? matrix_bytes(call, f.rank, f.out) : 0; }

// sums[c][r] += values[r][c]
void add_transposed(const float* values, int64_t rows, int64_t columns, float* sums) {
  alignas(64) float turned[kLanes * kLanes];
  for (int64_t r0 = 0; r0 < rows; r0 += kLanes)
    for (int64_t c0 = 0; c0 < columns; c0 += kLanes) {
      if (rows - r0 < kLanes || columns - c0 < kLanes) {
        for (int64_t c = c0; c < smaller(columns, c0 + kLanes); ++c)
          for (int64_t r = r0; r < smaller(rows, r0 + kLanes); ++r) sums[c * rows + r] += values[r * columns + c];
        continue;
      }
      transpose_square(values + r0 * columns + c0, columns, turned, kLanes);
      for (int64_t c = 0; c < kLanes; ++c) {
        float* line = sums + (c0 + c) * rows + r0;
        store(line, load(line) + load(turned + c * kLanes));
      }
    }
}

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
  const LinearForward f = check_linear(call);
  const int threads = call.pool->size();
  const Dropout dropout{};
  return gemm_workspace(forward_products(call, f, drops(call, f.rng) ? &dropout : nullptr), threads);
}

void linear(const OpCall& call) {
  const LinearForward f = check_linear(call);
  check_workspace(call, linear_workspace(call));
  Dropout dropout{};
  const bool drop = drops(call, f.rng);
  if (drop) dropout = dropout_of(call, f.rng);
  gemm(forward_products(call, f, drop ? &dropout : nullptr), call.pool, call.workspace);
}

size_t linear_backward_workspace(const OpCall& call) {
  const Backward f = backward_of(call);
  const Dropout dropout{};
  const BackwardProducts p = backward_products(call, f, drops(call, f.rng) ? &dropout : nullptr, nullptr, nullptr);
  const size_t adapter = gemm_workspace(p.adapter, call.pool->size()), dweight = gemm_workspace(p.dweight, call.pool->size());
  return v_bytes(call, f) + db_bytes(call, f) + (adapter > dweight ? adapter : dweight);
}

void linear_backward(const OpCall& call) {
  const Backward f = backward_of(call);
  check_workspace(call, linear_backward_workspace(call));
  char* scratch = static_cast<char*>(call.workspace);
  float* v = reinterpret_cast<float*>(scratch);
  float* db = reinterpret_cast<float*>(scratch + v_bytes(call, f));
  scratch += v_bytes(call, f) + db_bytes(call, f);
  Dropout dropout{};
  const bool drop = drops(call, f.rng);
  if (drop) dropout = dropout_of(call, f.rng);
  const BackwardProducts p = backward_products(call, f, drop ? &dropout : nullptr, v, db);
  gemm(p.adapter, call.pool, scratch);
  gemm(p.dweight, call.pool, scratch);
  if (f.db.present()) add_transposed(db, f.rank, f.out, f.db.as<float>());
  if (f.dbias.present()) {
    if (f.dy.dtype == DType::F32) add_columns(f.dy.as<float>(), f.n, f.out, f.dbias.as<float>(), call.pool);
    else add_columns(f.dy.as<Bf16>(), f.n, f.out, f.dbias.as<float>(), call.pool);
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
