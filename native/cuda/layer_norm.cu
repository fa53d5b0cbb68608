#include "../ops/layer_norm.h"

#include "../ops/layer_norm_checks.h"
#include "held_rows.cuh"
#include "row_ranges.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

// stats[t] = {mean, rstd}
template <class D, class W, class Row>
__global__ void __launch_bounds__(Row::kBlock) layer_norm_held(const D* x, const W* weight, const W* bias, const D* residual, float eps,
                                                               int64_t n, int d, D* sum, D* y, float2* stats) {
  constexpr int N = kVector<D>;
  __shared__ float shared[2][kWarp];
  const int64_t t = Row::row();
  if (t >= n) return;
  const HeldPart<Row, N> part(d);
  Held<D, N> s;
  Held<W, N> w, shift;
  load_sum(part, s, x, residual, sum, t * d);
  float total = 0;
  part.each([&](int k, int i) {
    w[k] = load<N, Use::Constant>(weight + i);
    shift[k] = load<N, Use::Constant>(bias + i);
    const Lanes<N> v = unpack(s[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) total += v[j];
  });
  const float mean = row_sum<Row::kThreads>(total, shared[0]) / static_cast<float>(d);
  float squares = 0;
  part.each([&](int k, int) {
    const Lanes<N> v = unpack(s[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) squares = fmaf(v[j] - mean, v[j] - mean, squares);
  });
  const float scale = 1.0f / sqrtf(row_sum<Row::kThreads>(squares, shared[1]) / static_cast<float>(d) + eps);
  if (part.first == 0) stats[t] = {mean, scale};
  part.each([&](int k, int i) {
    Lanes<N> v = unpack(s[k]);
    const Lanes<N> factor = unpack(w[k]), term = unpack(shift[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = fmaf(factor[j], (v[j] - mean) * scale, term[j]);
    store_lanes(y + t * d + i, v);
  });
}

template <class D, class W>
__global__ void __launch_bounds__(kLoopThreads) layer_norm_loop(const D* x, const W* weight, const W* bias, const D* residual, float eps,
                                                                int64_t d, D* sum, D* y, float2* stats) {
  __shared__ float shared[2][kWarp];
  const int64_t t = blockIdx.x;
  float total = 0;
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) total += sum_at(x, residual, sum, t * d + i);
  const float mean = block_sum<kLoopThreads>(total, shared[0]) / static_cast<float>(d);
  const D* s = (residual ? sum : x) + t * d;  // a thread reads back what it wrote itself
  float squares = 0;
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) {
    const float apart = to_float(s[i]) - mean;
    squares = fmaf(apart, apart, squares);
  }
  const float scale = 1.0f / sqrtf(block_sum<kLoopThreads>(squares, shared[1]) / static_cast<float>(d) + eps);
  if (threadIdx.x == 0) stats[t] = {mean, scale};
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads)
    y[t * d + i] = from_float<D>(fmaf(to_float(weight[i]), (to_float(s[i]) - mean) * scale, to_float(bias[i])));
}

// Where a range of rows leaves its sums: row blockIdx.x of each. Null: not wanted.
struct Partial { float *weight, *bias; };

// With kGradient a block takes rows blockIdx.x * range and on, loading each while it works on the one before. Without, every row
// stands alone.
template <class D, class W, class Row, bool kGradient>
__global__ void __launch_bounds__(kGradient ? Row::kThreads : Row::kBlock)
    layer_norm_backward_held(const D* dy, const D* s, const W* weight, const float2* stats, const D* dsum, int64_t n, int d, int64_t range,
                             D* dx, Partial partial) {
  constexpr int N = kVector<D>;
  __shared__ float2 shared[2][kWarp];
  const HeldPart<Row, N> part(d);
  auto [t, end] = row_span<Row, kGradient>(n, range);
  HeldGradient<D, float2> row, next;
  Held<W, N> w;
  Lanes<N> weight_sums[kGradient ? kHeldVectors : 1] = {}, bias_sums[kGradient ? kHeldVectors : 1] = {};
  if (t < end) {
    row.load(part, dy, s, dsum, stats, t);
    part.each([&](int k, int i) { w[k] = load<N, Use::Constant>(weight + i); });
  }
  for (int turn = 0; t < end; ++t, turn ^= 1) {
    if constexpr (kGradient)
      if (t + 1 < end) next.load(part, dy, s, dsum, stats, t + 1);
    const float mean = row.stats.x, scale = row.stats.y;
    float sum = 0, dot = 0;  // of g, and of g * xhat
    part.each([&](int k, int) {
      const Lanes<N> g = unpack(row.grad[k]), v = unpack(row.x[k]), factor = unpack(w[k]);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        sum = fmaf(g[j], factor[j], sum);
        dot = fmaf(g[j] * factor[j], (v[j] - mean) * scale, dot);
      }
    });
    const float2 sums = row_sums<Row::kThreads>({sum, dot}, shared[turn]);
    const float mean_g = sums.x / static_cast<float>(d), mean_gx = sums.y / static_cast<float>(d);
    part.each([&](int k, int i) {
      const Lanes<N> g = unpack(row.grad[k]), v = unpack(row.x[k]), factor = unpack(w[k]);
      Lanes<N> result;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float xhat = (v[j] - mean) * scale;
        result[j] = scale * fmaf(-xhat, mean_gx, fmaf(g[j], factor[j], -mean_g));
        if constexpr (kGradient) {
          weight_sums[k][j] = fmaf(g[j], xhat, weight_sums[k][j]);
          bias_sums[k][j] += g[j];
        }
      }
      if (dsum) result += unpack(row.more[k]);
      store_lanes(dx + t * d + i, result);
    });
    if constexpr (kGradient) row = next;
  }
  if constexpr (kGradient) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * d;
    part.each([&](int k, int i) {
      if (partial.weight) store_lanes(partial.weight + at + i, weight_sums[k]);
      if (partial.bias) store_lanes(partial.bias + at + i, bias_sums[k]);
    });
  }
}

template <class D, class W>
__global__ void __launch_bounds__(kLoopThreads) layer_norm_backward_loop(const D* dy, const D* s, const W* weight, const float2* stats,
                                                                         const D* dsum, int64_t n, int64_t d, int64_t range, D* dx,
                                                                         Partial partial) {
  __shared__ float2 shared[2][kWarp];
  const int64_t begin = blockIdx.x * range, end = begin + range < n ? begin + range : n;
  if (partial.weight) partial.weight += blockIdx.x * d;
  if (partial.bias) partial.bias += blockIdx.x * d;
  for (int64_t t = begin; t < end; ++t) {
    const float mean = stats[t].x, scale = stats[t].y;
    float2 sums = {0, 0};
    for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) {
      const float g = to_float(dy[t * d + i]) * to_float(weight[i]);
      sums.x += g;
      sums.y = fmaf(g, (to_float(s[t * d + i]) - mean) * scale, sums.y);
    }
    sums = row_sums<kLoopThreads>(sums, shared[t & 1]);
    const float mean_g = sums.x / static_cast<float>(d), mean_gx = sums.y / static_cast<float>(d);
    for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) {
      const float grad = to_float(dy[t * d + i]), xhat = (to_float(s[t * d + i]) - mean) * scale;
      float result = scale * fmaf(-xhat, mean_gx, fmaf(grad, to_float(weight[i]), -mean_g));
      if (dsum) result += to_float(dsum[t * d + i]);
      dx[t * d + i] = from_float<D>(result);
      if (partial.weight) partial.weight[i] = fmaf(grad, xhat, t == begin ? 0.0f : partial.weight[i]);
      if (partial.bias) partial.bias[i] = grad + (t == begin ? 0.0f : partial.bias[i]);
    }
  }
}

template <class D, class W>
void launch_forward(const OpCall& call, const D* x, const W* weight, const W* bias, const D* residual, float eps, int64_t n, int64_t d,
                    D* sum, D* y, float2* stats) {
  constexpr int N = kVector<D>;
  const bool aligned = d % N == 0 && all_aligned(kVectorBytes, x, weight, bias, residual, sum, y);
  const bool held = aligned && with_held_row(d / N, [&](auto row) {
    using Row = decltype(row);
    layer_norm_held<D, W, Row><<<Row::blocks(n), Row::kBlock, 0, stream_of(call)>>>(x, weight, bias, residual, eps, n, static_cast<int>(d),
                                                                                   sum, y, stats);
  });
  if (!held)
    layer_norm_loop<<<static_cast<unsigned>(n), kLoopThreads, 0, stream_of(call)>>>(x, weight, bias, residual, eps, d, sum, y, stats);
  check_launch(call);
}

template <class D, class W>
void launch_backward(const OpCall& call, const D* dy, const D* s, const W* weight, const float2* stats, const D* dsum, int64_t n, int64_t d,
                     D* dx, Partial partial) {
  constexpr int N = kVector<D>;
  const bool sums = partial.weight || partial.bias;
  const int64_t range = sums ? row_range(n) : 1, ranges = ceil_div(n, range);
  const bool aligned = d % N == 0 && all_aligned(kVectorBytes, dy, s, weight, dsum, dx, partial.weight, partial.bias);
  const bool held = aligned && with_held_row(d / N, [&](auto row) {
    using Row = decltype(row);
    if (sums)
      layer_norm_backward_held<D, W, Row, true><<<static_cast<unsigned>(ranges), Row::kThreads, 0, stream_of(call)>>>(
          dy, s, weight, stats, dsum, n, static_cast<int>(d), range, dx, partial);
    else
      layer_norm_backward_held<D, W, Row, false><<<Row::blocks(n), Row::kBlock, 0, stream_of(call)>>>(
          dy, s, weight, stats, dsum, n, static_cast<int>(d), 1, dx, partial);
  });
  if (!held)
    layer_norm_backward_loop<<<static_cast<unsigned>(ranges), kLoopThreads, 0, stream_of(call)>>>(dy, s, weight, stats, dsum, n, d, range,
                                                                                                 dx, partial);
  check_launch(call);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void layer_norm(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &bias = input(call, 2), &residual = input(call, 3);
  const Tensor &y = output(call, 0), &stats = output(call, 1), &sum = output(call, 2);
  check_layer_norm(call);
  const int64_t n = x.dim(0), d = x.dim(1);
  if (n == 0) return;
  const float eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      launch_forward(call, x.as<D>(), weight.as<W>(), bias.as<W>(), residual.present() ? residual.as<D>() : nullptr, eps, n, d,
                     residual.present() ? sum.as<D>() : nullptr, y.as<D>(), stats.as<float2>());
    });
  });
}

// One row of d sums for each range of rows and each of dweight and dbias that is wanted.
size_t layer_norm_backward_workspace(const OpCall& call) {
  const int wanted = output(call, 1).present() + output(call, 2).present();
  const Tensor& dy = input(call, 0);
  return row_ranges_workspace(dy.dim(0), wanted * dy.dim(1));
}

void layer_norm_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &s = input(call, 1), &weight = input(call, 2), &stats = input(call, 3), &dsum = input(call, 4);
  const Tensor &dx = output(call, 0), &dweight = output(call, 1), &dbias = output(call, 2);
  check_layer_norm_backward(call);
  const int64_t n = dy.dim(0), d = dy.dim(1);
  if (n == 0 || d == 0) return;

  const int64_t ranges = row_ranges(n);
  auto* place = static_cast<float*>(call.workspace);
  const Partial partial{dweight.present() ? place : nullptr,
                        dbias.present() ? place + (dweight.present() ? ranges * d : 0) : nullptr};
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      launch_backward(call, dy.as<D>(), s.as<D>(), weight.as<W>(), stats.as<float2>(), dsum.present() ? dsum.as<D>() : nullptr, n, d,
                      dx.as<D>(), partial);
    });
  });
  if (partial.weight) launch_add_row_ranges(call, partial.weight, ranges, d, dweight.as<float>());
  if (partial.bias) launch_add_row_ranges(call, partial.bias, ranges, d, dbias.as<float>());
}

}  // namespace vltune::cuda
