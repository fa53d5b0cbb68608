#include "../ops/rms_norm.h"

#include "../ops/rms_norm_checks.h"
#include "held_rows.cuh"
#include "row_ranges.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

template <class D, class W, int kThreads, int kVectors, bool kFull>
__global__ void __launch_bounds__(kBlock<kThreads>) rms_norm_held(const D* x, const W* weight, const D* residual, float eps, int64_t n,
                                                                  int d, D* sum, D* y, float* rstd) {
  constexpr int N = kVector<D>;
  __shared__ float shared[kWarp];
  const int64_t t = static_cast<int64_t>(blockIdx.x) * (kBlock<kThreads> / kThreads) + threadIdx.x / kThreads;
  if (t >= n) return;
  const int first = threadIdx.x % kThreads * N;
  Packed<D, N> s[kVectors];
  Packed<W, N> w[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int i = first + k * kThreads * N; kFull || i < d) s[k] = load<N>(x + t * d + i);
  if (residual) {
    Packed<D, N> more[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int i = first + k * kThreads * N; kFull || i < d) more[k] = load<N>(residual + t * d + i);
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int i = first + k * kThreads * N; kFull || i < d) {
        Lanes<N> a = unpack(s[k]), b = unpack(more[k]);
#pragma unroll
        for (int j = 0; j < N; ++j) a[j] += b[j];
        s[k] = pack<D>(a);
        store(sum + t * d + i, s[k]);
      }
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int i = first + k * kThreads * N; kFull || i < d) {
      w[k] = load<N, Use::Constant>(weight + i);
      Lanes<N> v = unpack(s[k]);
#pragma unroll
      for (int j = 0; j < N; ++j) squares = fmaf(v[j], v[j], squares);
    }
  squares = row_sum<kThreads>(squares, shared);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + eps);
  if (first == 0) rstd[t] = scale;
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int i = first + k * kThreads * N; kFull || i < d) {
      Lanes<N> v = unpack(s[k]), factor = unpack(w[k]);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = factor[j] * (v[j] * scale);
      store_lanes(y + t * d + i, v);
    }
}

template <class D, class W>
__global__ void __launch_bounds__(kLoopThreads) rms_norm_loop(const D* x, const W* weight, const D* residual, float eps, int64_t d, D* sum,
                                                              D* y, float* rstd) {
  __shared__ float shared[kWarp];
  const int64_t t = blockIdx.x;
  const D* s = x + t * d;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) {
    float v = to_float(s[i]);
    if (residual) {
      const D rounded = from_float<D>(v + to_float(residual[t * d + i]));
      sum[t * d + i] = rounded;
      v = to_float(rounded);
    }
    squares = fmaf(v, v, squares);
  }
  squares = block_sum<kLoopThreads>(squares, shared);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + eps);
  if (threadIdx.x == 0) rstd[t] = scale;
  if (residual) s = sum + t * d;  // a thread reads back what it wrote itself
  for (int64_t i = threadIdx.x; i < d; i += kLoopThreads) y[t * d + i] = from_float<D>(to_float(weight[i]) * (to_float(s[i]) * scale));
}

// With kGradient a block takes rows blockIdx.x * range and on, loading each while it works on the one before, and leaves its sums for
// dweight in row blockIdx.x of `partial`. Without, every row stands alone.
template <class D, class W, int kThreads, int kVectors, bool kFull, bool kGradient>
__global__ void __launch_bounds__(kGradient ? kThreads : kBlock<kThreads>)
    rms_norm_backward_held(const D* dy, const D* s, const W* weight, const float* rstd, const D* dsum, int64_t n, int d, int64_t range,
                           D* dx, float* partial) {
  constexpr int N = kVector<D>;
  __shared__ float shared[2][kWarp];
  const int first = threadIdx.x % kThreads * N;
  int64_t t, end;
  if constexpr (kGradient) {
    t = blockIdx.x * range;
    end = t + range < n ? t + range : n;
  } else {
    t = static_cast<int64_t>(blockIdx.x) * (kBlock<kThreads> / kThreads) + threadIdx.x / kThreads;
    end = t < n ? t + 1 : t;
  }
  struct Row {
    Packed<D, N> grad[kVectors], x[kVectors], more[kVectors];
    float scale;
  };
  auto load_row = [&](Row& row, int64_t t) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int i = first + k * kThreads * N; kFull || i < d) {
        row.grad[k] = load<N>(dy + t * d + i);
        row.x[k] = load<N>(s + t * d + i);
      }
    if (dsum) {
#pragma unroll
      for (int k = 0; k < kVectors; ++k)
        if (const int i = first + k * kThreads * N; kFull || i < d) row.more[k] = load<N>(dsum + t * d + i);
    }
    row.scale = rstd[t];
  };
  Row row, next;
  Packed<W, N> w[kVectors];
  Lanes<N> sums[kGradient ? kVectors : 1] = {};
  if (t < end) {
    load_row(row, t);
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int i = first + k * kThreads * N; kFull || i < d) w[k] = load<N, Use::Constant>(weight + i);
  }
  for (int turn = 0; t < end; ++t, turn ^= 1) {
    if constexpr (kGradient)
      if (t + 1 < end) load_row(next, t + 1);
    const float scale = row.scale;
    float dot = 0;
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (kFull || first + k * kThreads * N < d) {
        const Lanes<N> g = unpack(row.grad[k]), v = unpack(row.x[k]), factor = unpack(w[k]);
#pragma unroll
        for (int j = 0; j < N; ++j) dot = fmaf(g[j] * factor[j], v[j] * scale, dot);
      }
    dot = row_sum<kThreads>(dot, shared[turn]);
    const float mean = dot / static_cast<float>(d);
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int i = first + k * kThreads * N; kFull || i < d) {
        const Lanes<N> g = unpack(row.grad[k]), v = unpack(row.x[k]), factor = unpack(w[k]);
        Lanes<N> result;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const float xhat = v[j] * scale;
          result[j] = scale * fmaf(-xhat, mean, g[j] * factor[j]);
          if constexpr (kGradient) sums[k][j] = fmaf(g[j], xhat, sums[k][j]);
        }
        if (dsum) {
          const Lanes<N> b = unpack(row.more[k]);
#pragma unroll
          for (int j = 0; j < N; ++j) result[j] += b[j];
        }
        store_lanes(dx + t * d + i, result);
      }
    if constexpr (kGradient) row = next;
  }
  if constexpr (kGradient) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int i = first + k * kThreads * N; kFull || i < d)
        store_lanes(partial + static_cast<int64_t>(blockIdx.x) * d + i, sums[k]);
  }
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
    constexpr int kThreads = decltype(row)::kThreads;
    const int64_t blocks = ceil_div(n, kBlock<kThreads> / kThreads);
    rms_norm_held<D, W, kThreads, kHeldVectors, decltype(row)::kFull>
        <<<static_cast<unsigned>(blocks), kBlock<kThreads>, 0, stream_of(call)>>>(x, weight, residual, eps, n, static_cast<int>(d), sum, y,
                                                                                  rstd);
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
    constexpr int kThreads = decltype(row)::kThreads;
    constexpr bool kFull = decltype(row)::kFull;
    if (partial) {
      rms_norm_backward_held<D, W, kThreads, kHeldVectors, kFull, true><<<static_cast<unsigned>(ranges), kThreads, 0, stream_of(call)>>>(
          dy, s, weight, rstd, dsum, n, static_cast<int>(d), range, dx, partial);
    } else {
      const int64_t blocks = ceil_div(n, kBlock<kThreads> / kThreads);
      rms_norm_backward_held<D, W, kThreads, kHeldVectors, kFull, false>
          <<<static_cast<unsigned>(blocks), kBlock<kThreads>, 0, stream_of(call)>>>(dy, s, weight, rstd, dsum, n, static_cast<int>(d), 1,
                                                                                    dx, nullptr);
    }
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
