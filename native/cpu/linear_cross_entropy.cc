#include "../ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../ops/linear_cross_entropy_checks.h"
#include "gemm/gemm.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

constexpr int32_t kIgnored = -100;
// Logits of a chunk: large enough that the weight, packed anew for each chunk, is used by many rows; small beside a model.
constexpr int64_t kChunkBytes = 32 << 20;
constexpr int64_t kLeastRows = 32;

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// The list of rows spares a GPU the look at the targets; here they are read anyway.
struct Call : LinearCrossEntropy {
  int64_t chunk;
  bool bf16;
  size_t row_bytes() const { return size_t(d) * (bf16 ? 2 : 4); }
};

int64_t most_rows(int64_t vocab) { return std::max(kLeastRows, kChunkBytes / 4 / std::max<int64_t>(vocab, 1)); }

Call read_call(const OpCall& call) {
  Call c{check_linear_cross_entropy(call), 0, false};
  c.bf16 = c.x.dtype == DType::BF16;
  const int64_t rows = most_rows(c.vocab), chunks = (c.n + rows - 1) / rows;
  c.chunk = chunks > 0 ? (c.n + chunks - 1) / chunks : 0;
  return c;
}

Operand matrix(const void* data, DType dtype, int64_t ld, bool transposed) {
  Operand m;
  m.data = data;
  m.dtype = dtype;
  m.ld = ld;
  m.transposed = transposed;
  return m;
}

Operand weight_operand(const Call& c, bool transposed) {
  Operand m = matrix(c.weight.data, c.weight.dtype, c.d, transposed);
  m.nf4 = c.weight.nf4;
  return m;
}

// logits = x W^T
Gemm logits_product(const Call& c, int64_t rows, const void* x, float* logits) {
  Gemm g;
  g.m = rows;
  g.n = c.vocab;
  g.base = {matrix(x, c.x.dtype, c.d, false), weight_operand(c, true), c.d};
  g.c = logits;
  g.bf16 = c.bf16;
  return g;
}

// The logits' gradient takes their place; BF16 lies in the first half of each row.
Operand dlogits_operand(const Call& c, const float* logits, bool transposed) {
  return c.bf16 ? matrix(logits, DType::BF16, 2 * c.vocab, transposed) : matrix(logits, DType::F32, c.vocab, transposed);
}

// dx = dlogits W
Gemm dx_product(const Call& c, int64_t rows, const float* logits, void* dx) {
  Gemm g;
  g.m = rows;
  g.n = c.d;
  g.base = {dlogits_operand(c, logits, false), weight_operand(c, false), c.vocab};
  g.c = dx;
  g.c_dtype = c.x.dtype;
  g.bf16 = c.bf16;
  return g;
}

// dweight += dlogits^T x
Gemm dweight_product(const Call& c, int64_t rows, const float* logits, const void* x) {
  Gemm g;
  g.m = c.vocab;
  g.n = c.d;
  g.base = {dlogits_operand(c, logits, true), matrix(x, c.x.dtype, c.d, false), rows};
  g.c = c.dweight.data;
  g.accumulate = true;
  g.bf16 = c.bf16;
  return g;
}

// The loss of one row, in F64; if `trains`, its logits become scale * (softmax - one_hot).
double finish_row(const Call& c, float* logits, int64_t target, float scale) {
  const int64_t count = c.vocab;
  const double picked = logits[target];
  Vec top = broadcast(logits[0]);
  for (int64_t j = 0; j + kLanes <= count; j += kLanes) top = max(load(logits + j), top);
  float highest = reduce_max(top);
  for (int64_t j = count / kLanes * kLanes; j < count; ++j) highest = logits[j] > highest ? logits[j] : highest;
  double total = 0;
  constexpr int64_t kStretch = 64 * kLanes;  // summed in F32, then added in F64
  for (int64_t first = 0; first < count; first += kStretch) {
    const int64_t end = first + kStretch < count ? first + kStretch : count;
    Vec sum = zero();
    int64_t j = first;
    for (; j + kLanes <= end; j += kLanes) {
      const Vec e = exp(load(logits + j) - broadcast(highest));
      if (c.trains) store(logits + j, e);
      sum = sum + e;
    }
    total += reduce_add(sum);
    if (j < end) {
      const int lanes = static_cast<int>(end - j);
      float tail[kLanes];
      store(tail, exp(load_n(logits + j, lanes) - broadcast(highest)));
      for (int i = 0; i < lanes; ++i) {
        total += tail[i];
        if (c.trains) logits[j + i] = tail[i];
      }
    }
  }
  if (c.trains) {
    const float at_target = static_cast<float>(scale * (logits[target] / total - 1.0));
    const Vec factor = broadcast(static_cast<float>(scale / total));
    Bf16* narrow = reinterpret_cast<Bf16*>(logits);
    for (int64_t j = 0; j < count; j += kLanes) {
      const int lanes = static_cast<int>(count - j < kLanes ? count - j : kLanes);
      const Vec v = load_n(logits + j, lanes) * factor;
      if (c.bf16) store_n(narrow + j, v, lanes);
      else store_n(logits + j, v, lanes);
    }
    if (c.bf16) from_float(at_target, narrow + target);
    else logits[target] = at_target;
  }
  return std::log(total) + highest - picked;
}

// Scratch memory: rows of x, rows of dx, the row numbers and losses of a chunk, its logits, then the products' own.
struct Layout {
  size_t x, dx, rows, losses, logits, product, bytes;
};

Layout layout(const Call& c, int threads) {
  Layout l{};
  size_t at = 0;
  const auto take = [&](size_t bytes) {
    const size_t start = at;
    at += aligned(bytes);
    return start;
  };
  l.x = take(size_t(c.chunk) * c.row_bytes());
  l.dx = take(c.dx.present() ? size_t(c.chunk) * c.row_bytes() : 0);
  l.rows = take(size_t(c.chunk) * 8);
  l.losses = take(size_t(c.chunk) * 8);
  l.logits = take(size_t(c.chunk) * size_t(c.vocab) * 4);
  // Any chunk may have fewer rows than c.chunk.
  size_t most = gemm_workspace_up_to(logits_product(c, c.chunk, nullptr, nullptr), threads);
  const auto also = [&](const Gemm& g, bool needed) {
    const size_t bytes = needed ? gemm_workspace_up_to(g, threads) : 0;
    if (bytes > most) most = bytes;
  };
  also(dx_product(c, c.chunk, nullptr, nullptr), c.dx.present());
  also(dweight_product(c, c.chunk, nullptr, nullptr), c.dweight.present());
  l.product = take(most);
  l.bytes = at;
  return l;
}

}  // namespace

// Enough for any smaller call, too: chunks are equal, so those of fewer rows may be larger.
size_t linear_cross_entropy_workspace(const OpCall& call) {
  Call c = read_call(call);
  c.chunk = std::min(most_rows(c.vocab), c.n);
  return layout(c, call.pool->size()).bytes;
}

void linear_cross_entropy(const OpCall& call) {
  const Call c = read_call(call);
  const Layout l = layout(c, call.pool->size());
  check_workspace(call, l.bytes);
  const int32_t* targets = c.targets.as<int32_t>();
  check_ids(call, "targets", targets, c.n, c.vocab, kIgnored);
  char* scratch = static_cast<char*>(call.workspace);
  char* x = scratch + l.x;
  char* dx = scratch + l.dx;
  int64_t* rows = reinterpret_cast<int64_t*>(scratch + l.rows);
  double* losses = reinterpret_cast<double*>(scratch + l.losses);
  float* logits = reinterpret_cast<float*>(scratch + l.logits);
  const float scale = *c.loss_scale.as<float>();
  const size_t row_bytes = c.row_bytes();
  double sum = 0;
  for (int64_t t = 0; t < c.n;) {
    int64_t count = 0;
    for (; t < c.n && count < c.chunk; ++t) {
      if (targets[t] != kIgnored) rows[count++] = t;
      else if (c.dx.present()) std::memset(c.dx.as<char>() + size_t(t) * row_bytes, 0, row_bytes);
    }
    if (count == 0) break;
    for (int64_t i = 0; i < count; ++i) std::memcpy(x + size_t(i) * row_bytes, c.x.as<char>() + size_t(rows[i]) * row_bytes, row_bytes);
    gemm(logits_product(c, count, x, logits), call.pool, scratch + l.product);
    call.pool->parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) losses[i] = finish_row(c, logits + i * c.vocab, targets[rows[i]], scale);
    });
    for (int64_t i = 0; i < count; ++i) sum += losses[i];
    if (c.dx.present()) {
      gemm(dx_product(c, count, logits, dx), call.pool, scratch + l.product);
      for (int64_t i = 0; i < count; ++i) std::memcpy(c.dx.as<char>() + size_t(rows[i]) * row_bytes, dx + size_t(i) * row_bytes, row_bytes);
    }
    if (c.dweight.present()) gemm(dweight_product(c, count, logits, x), call.pool, scratch + l.product);
  }
  *c.loss.as<float>() += static_cast<float>(scale * sum);
}

}  // namespace vltune::cpu::VLTUNE_ISA
