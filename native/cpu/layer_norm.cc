#include "../ops/layer_norm.h"

#include <cmath>

#include "../ops/layer_norm_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

struct Stats { float mean, rstd; };

// A row is short enough to stay in the cache, so it is read again for its deviations rather than summed by squares, which cancel.
template <class D, class W>
void forward_row(const D* x, const D* residual, const W* weight, const W* bias, float eps, int64_t d, D* sum, D* y, Stats* stats) {
  const D* s = residual ? sum : x;
  const float total = sum_row(d, [&](int64_t i, int count) {
    if (!residual) return load_part(x + i, count);
    store_part(sum + i, load_part(x + i, count) + load_part(residual + i, count), count);
    return load_part(sum + i, count);  // as rounded to D
  });
  stats->mean = total / static_cast<float>(d);
  const Vec mean = broadcast(stats->mean);
  const float squares = sum_row(d, [&](int64_t i, int count) {
    const Vec apart = load_part(s + i, count) - mean;
    return count == kLanes ? apart * apart : first_lanes_of(apart * apart, count);
  });
  stats->rstd = 1.0f / std::sqrt(squares / static_cast<float>(d) + eps);
  const Vec scale = broadcast(stats->rstd);
  each_vector(d, [&](int64_t i, int count) {
    const Vec xhat = (load_part(s + i, count) - mean) * scale;
    store_part(y + i, fma(load_part(weight + i, count), xhat, load_part(bias + i, count)), count);
  });
}

// dx may be dy or dsum: an element is read before it is written. dweight and dbias are null where they are not wanted.
template <class D, class W>
void backward_row(const D* dy, const D* s, const W* weight, Stats stats, const D* dsum, int64_t d, D* dx, float* dweight, float* dbias) {
  const Vec mean = broadcast(stats.mean), scale = broadcast(stats.rstd);
  // Lanes past the end have dy = 0, and add nothing to either sum.
  const float sum = sum_row(d, [&](int64_t i, int count) { return load_part(dy + i, count) * load_part(weight + i, count); });
  const float dot = sum_row(d, [&](int64_t i, int count) {
    return load_part(dy + i, count) * load_part(weight + i, count) * ((load_part(s + i, count) - mean) * scale);
  });
  const Vec mean_g = broadcast(sum / static_cast<float>(d)), mean_gx = broadcast(dot / static_cast<float>(d));
  each_vector(d, [&](int64_t i, int count) {
    const Vec grad = load_part(dy + i, count), xhat = (load_part(s + i, count) - mean) * scale;
    Vec result = scale * fnma(xhat, mean_gx, grad * load_part(weight + i, count) - mean_g);
    if (dsum) result = result + load_part(dsum + i, count);
    store_part(dx + i, result, count);
    if (dweight) store_part(dweight + i, fma(grad, xhat, load_part(dweight + i, count)), count);
    if (dbias) store_part(dbias + i, grad + load_part(dbias + i, count), count);
  });
}

}  // namespace

void layer_norm(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &bias = input(call, 2), &residual = input(call, 3);
  const Tensor &y = output(call, 0), &stats = output(call, 1), &sum = output(call, 2);
  check_layer_norm(call);
  const int64_t n = x.dim(0), d = x.dim(1);
  const float eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      call.pool->parallel_for(n, row_grain(d), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
          forward_row(x.as<D>() + t * d, residual.present() ? residual.as<D>() + t * d : nullptr, weight.as<W>(), bias.as<W>(), eps, d,
                      residual.present() ? sum.as<D>() + t * d : nullptr, y.as<D>() + t * d, stats.as<Stats>() + t);
      });
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

  const bool sums = dweight.present() || dbias.present();
  const int64_t range = sums ? row_range(n) : row_grain(d), ranges = row_ranges(n);
  float* partial = static_cast<float*>(call.workspace);
  float* partial_weight = dweight.present() ? partial : nullptr;
  float* partial_bias = dbias.present() ? partial + (dweight.present() ? ranges * d : 0) : nullptr;
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      call.pool->parallel_for(n, range, [&](int64_t begin, int64_t end) {
        const auto sums_of = [&](float* all) {
          if (!all) return all;
          float* own = all + begin / range * d;
          std::memset(own, 0, static_cast<size_t>(d) * sizeof(float));
          return own;
        };
        float *weight_sums = sums_of(partial_weight), *bias_sums = sums_of(partial_bias);
        for (int64_t t = begin; t < end; ++t)
          backward_row(dy.as<D>() + t * d, s.as<D>() + t * d, weight.as<W>(), stats.as<Stats>()[t],
                       dsum.present() ? dsum.as<D>() + t * d : nullptr, d, dx.as<D>() + t * d, weight_sums, bias_sums);
      });
    });
  });
  if (n == 0) return;
  if (partial_weight) add_row_ranges(*call.pool, partial_weight, ranges, d, dweight.as<float>());
  if (partial_bias) add_row_ranges(*call.pool, partial_bias, ranges, d, dbias.as<float>());
}

}  // namespace vltune::cpu::VLTUNE_ISA
