#include "../ops/rms_norm.h"

#include "../ops/rms_norm_checks.h"
#include "held_rows.cuh"
#include "row_ranges.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

template <class D, class W, class Row>
__global__ void __launch_bounds__(Row::kBlock) rms_norm_held(const D* x, const W* weight, const D* residual, float eps, int64_t n, int d,
                                                             D* sum, D* y, float* rstd) {
  constexpr int N = kVector<D>;
  __shared__ float shared[kWarp];
  const int64_t t = Row::row();
  if (t >= n) return;
  const HeldPart<Row, N> part(d);
  Held<D, N> s;
  Held<W, N> w;
  load_sum(part, s, x, residual, sum, t * d);
  float squares = 0;
  part.each([&](int k, int i) {
    w[k] = load<N, Use::Constant>(weight + i);
    const Lanes<N> v = unpack(s[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) squares = fmaf(v[j], v[j], squares);
  });
  squares = row_sum<Row::kThreads>(squares, shared);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + eps);
  if (part.first == 0) rstd[t] = scale;
  part.each([&](int k, int i) {
    Lanes<N> v = unpack(s[k]);
    const Lanes<N> factor = unpack(w[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = factor[j] * (v[j] * scale);
    store_lanes(y + t * d + i, v);
  });
}

template <class D, class W>
__global__ void __launch_bounds__(kLoopThreads) rms_norm_loop(const D* x, const W* weight, const D* residual, float eps, int64_t d, D* sum,
                                                              D* y, float* rstd) {
  __shared__ float shared[kWarp];
  const int64_t t = blockIdx.x;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) {
    const float v = sum_at(x, residual, sum, t * d + i);
    squares = fmaf(v, v, squares);
  }
  squares = block_sum<kLoopThreads>(squares, shared);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + eps);
  if (threadIdx.x == 0) rstd[t] = scale;
  const D* s = (residual ? sum : x) + t * d;  // a thread reads back what it wrote itself
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) y[t * d + i] = from_float<D>(to_float(weight[i]) * (to_float(s[i]) * scale));
}

// With kGradient a block takes rows blockIdx.x * range and on, loading each while it works on the one before, and leaves its sums for
// dweight in row blockIdx.x of `partial`. Without, every row stands alone.
template <class D, class W, class Row, bool kGradient>
__global__ void __launch_bounds__(kGradient ? Row::kThreads : Row::kBlock)
    rms_norm_backward_held(const D* dy, const D* s, const W* weight, const float* rstd, const D* dsum, int64_t n, int d, int64_t range,
                           D* dx, float* partial) {
  constexpr int N = kVector<D>;
  __shared__ float shared[2][kWarp];
  const HeldPart<Row, N> part(d);
  auto [t, end] = row_span<Row, kGradient>(n, range);
  HeldGradient<D, float> row, next;
  Held<W, N> w;
  Lanes<N> sums[kGradient ? kHeldVectors : 1] = {};
  if (t < end) {
    row.load(part, dy, s, dsum, rstd, t);
    part.each([&](int k, int i) { w[k] = load<N, Use::Constant>(weight + i); });
  }
  for (int turn = 0; t < end; ++t, turn ^= 1) {
    if constexpr (kGradient)
      if (t + 1 < end) next.load(part, dy, s, dsum, rstd, t + 1);
    const float scale = row.stats;
    float dot = 0;
    part.each([&](int k, int) {
      const Lanes<N> g = unpack(row.grad[k]), v = unpack(row.x[k]), factor = unpack(w[k]);
#pragma unroll
      for (int j = 0; j < N; ++j) dot = fmaf(g[j] * factor[j], v[j] * scale, dot);
    });
    dot = row_sum<Row::kThreads>(dot, shared[turn]);
    const float mean = dot / static_cast<float>(d);
    part.each([&](int k, int i) {
      const Lanes<N> g = unpack(row.grad[k]), v = unpack(row.x[k]), factor = unpack(w[k]);
      Lanes<N> result;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float xhat = v[j] * scale;
        result[j] = scale * fmaf(-xhat, mean, g[j] * factor[j]);
        if constexpr (kGradient) sums[k][j] = fmaf(g[j], xhat, sums[k][j]);
      }
      if (dsum) result += unpack(row.more[k]);
      store_lanes(dx + t * d + i, result);
    });
    if constexpr (kGradient) row = next;
  }
  if constexpr (kGradient)
    part.each([&](int k, int i) { store_lanes(partial + static_cast<int64_t>(blockIdx.x) * d + i, sums[k]); });
}

template <class D, class W>
__global__ void __launch_bounds__(kLoopThreads) rms_norm_backward_loop(const D* dy, const D* s, const W* weight, const float* rstd,
                                                                       const D* dsum, int64_t n, int64_t d, int64_t range, D* dx,
                                                                       float* partial) {
  __shared__ float shared[2][kWarp];
  const int64_t begin = blockIdx.x * range, end = begin + range < n ? begin + range : n;
  if (partial) partial += blockIdx.x * d;
  for (int64_t t = begin; t < end; ++t) {
    const float scale = rstd[t];
    float dot = 0;
    for (int64_t i = threadIdx.x; i < d; i += kLoopThreads)
      dot = fmaf(to_float(dy[t * d + i]) * to_float(weight[i]), to_float(s[t * d + i]) * scale, dot);
    const float mean = block_sum<kLoopThreads>(dot, shared[t & 1]) / static_cast<float>(d);
    for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) {
      const float grad = to_float(dy[t * d + i]), xhat = to_float(s[t * d + i]) * scale;
      float result = scale * fmaf(-xhat, mean, grad * to_float(weight[i]));
      if (dsum) result += to_float(dsum[t * d + i]);
      dx[t * d + i] = from_float<D>(result);
      if (partial) partial[i] = fmaf(grad, xhat, t == begin ? 0.0f : partial[i]);
    }
  }
}

template <class D, class W>
void launch_forward(const OpCall& call, const D* x, const W* weight, const D* residual, float eps, int64_t n, int64_t d, D* sum, D* y,
                    float* rstd) {
  constexpr int N = kVector<D>;
  const bool aligned = d % N == 0 && all_aligned(kVectorBytes, x, weight, residual, sum, y);
  const bool held = aligned && with_held_row(d / N, [&](auto row) {
    using Row = decltype(row);
    rms_norm_held<D, W, Row><<<Row::blocks(n), Row::kBlock, 0, stream_of(call)>>>(x, weight, residual, eps, n, static_cast<int>(d), sum,
                                                                                 y, rstd);
  });
  if (!held)
    rms_norm_loop<<<static_cast<unsigned>(n), kLoopThreads, 0, stream_of(call)>>>(x, weight, residual, eps, d, sum, y, rstd);
  check_launch(call);
}

template <class D, class W>
void launch_backward(const OpCall& call, const D* dy, const D* s, const W* weight, const float* rstd, const D* dsum, int64_t n, int64_t d,
                     D* dx, float* partial) {
  constexpr int N = kVector<D>;
  const int64_t range = partial ? row_range(n) : 1, ranges = ceil_div(n, range);
  const bool aligned = d % N == 0 && all_aligned(kVectorBytes, dy, s, weight, dsum, dx, partial);
  const bool held = aligned && with_held_row(d / N, [&](auto row) {
    using Row = decltype(row);
    if (partial)
      rms_norm_backward_held<D, W, Row, true><<<static_cast<unsigned>(ranges), Row::kThreads, 0, stream_of(call)>>>(
          dy, s, weight, rstd, dsum, n, static_cast<int>(d), range, dx, partial);
    else
      rms_norm_backward_held<D, W, Row, false><<<Row::blocks(n), Row::kBlock, 0, stream_of(call)>>>(
          dy, s, weight, rstd, dsum, n, static_cast<int>(d), 1, dx, nullptr);
  });
  if (!held)
    rms_norm_backward_loop<<<static_cast<unsigned>(ranges), kLoopThreads, 0, stream_of(call)>>>(dy, s, weight, rstd, dsum, n, d, range, dx,
                                                                                               partial);
  check_launch(call);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void rms_norm(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &residual = input(call, 2);
  const Tensor &y = output(call, 0), &rstd = output(call, 1), &sum = output(call, 2);
  check_rms_norm(call);
  const int64_t n = x.dim(0), d = x.dim(1);
  if (n == 0) return;
  const float eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_norm_weight(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      launch_forward(call, x.as<D>(), weight.as<W>(), residual.present() ? residual.as<D>() : nullptr, eps, n, d,
                     residual.present() ? sum.as<D>() : nullptr, y.as<D>(), rstd.as<float>());
    });
  });
}

// One row of d sums for each range of rows.
size_t rms_norm_backward_workspace(const OpCall& call) {
  if (!output(call, 1).present()) return 0;
  const Tensor& dy = input(call, 0);
  return row_ranges_workspace(dy.dim(0), dy.dim(1));
}

void rms_norm_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &s = input(call, 1), &weight = input(call, 2), &rstd = input(call, 3),
               &dsum = input(call, 4), &dx = output(call, 0), &dweight = output(call, 1);
  check_rms_norm_backward(call);
  const int64_t n = dy.dim(0), d = dy.dim(1);
  if (n == 0 || d == 0) return;

  float* partial = dweight.present() ? static_cast<float*>(call.workspace) : nullptr;
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_norm_weight(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      launch_backward(call, dy.as<D>(), s.as<D>(), weight.as<W>(), rstd.as<float>(), dsum.present() ? dsum.as<D>() : nullptr, n, d,
                      dx.as<D>(), partial);
    });
  });
  if (partial) launch_add_row_ranges(call, partial, row_ranges(n), d, dweight.as<float>());
}

}  // namespace vltune::cuda
