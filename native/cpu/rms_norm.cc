#include "../ops/rms_norm.h"

#include <cmath>

#include "../ops/rms_norm_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

template <class D, class W>
void forward_row(const D* x, const D* residual, const W* weight, float eps, int64_t d, D* sum, D* y, float* rstd) {
  const D* s = residual ? sum : x;
  const float squares = sum_row(d, [&](int64_t i, int count) {
    Vec v = load_part(x + i, count);
    if (residual) {
      store_part(sum + i, v + load_part(residual + i, count), count);
      v = load_part(sum + i, count);  // as rounded to D
    }
    return v * v;
  });
  *rstd = 1.0f / std::sqrt(squares / static_cast<float>(d) + eps);
  const Vec scale = broadcast(*rstd);
  each_vector(d, [&](int64_t i, int count) {
    store_part(y + i, load_part(weight + i, count) * (load_part(s + i, count) * scale), count);
  });
}

// dx may be dy or dsum: an element is read before it is written. dweight is null where it is not wanted.
template <class D, class W>
void backward_row(const D* dy, const D* s, const W* weight, float rstd, const D* dsum, int64_t d, D* dx, float* dweight) {
  const Vec scale = broadcast(rstd);
  const float dot = sum_row(d, [&](int64_t i, int count) {
    return load_part(dy + i, count) * load_part(weight + i, count) * (load_part(s + i, count) * scale);
  });
  const Vec mean = broadcast(dot / static_cast<float>(d));
  each_vector(d, [&](int64_t i, int count) {
    Vec grad = load_part(dy + i, count), xhat = load_part(s + i, count) * scale;
    Vec result = scale * fnma(xhat, mean, grad * load_part(weight + i, count));
    if (dsum) result = result + load_part(dsum + i, count);
    store_part(dx + i, result, count);
    if (dweight) store_part(dweight + i, fma(grad, xhat, load_part(dweight + i, count)), count);
  });
}

}  // namespace

void rms_norm(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &residual = input(call, 2);
  const Tensor &y = output(call, 0), &rstd = output(call, 1), &sum = output(call, 2);
  check_rms_norm(call);
  const int64_t n = x.dim(0), d = x.dim(1);
  const float eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      call.pool->parallel_for(n, row_grain(d), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
          forward_row(x.as<D>() + t * d, residual.present() ? residual.as<D>() + t * d : nullptr, weight.as<W>(), eps, d,
                      residual.present() ? sum.as<D>() + t * d : nullptr, y.as<D>() + t * d, rstd.as<float>() + t);
      });
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

  float* partial = dweight.present() ? static_cast<float*>(call.workspace) : nullptr;
  const int64_t range = partial ? row_range(n) : row_grain(d);
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      call.pool->parallel_for(n, range, [&](int64_t begin, int64_t end) {
        float* sums = partial ? partial + begin / range * d : nullptr;
        if (sums) std::memset(sums, 0, static_cast<size_t>(d) * sizeof(float));
        for (int64_t t = begin; t < end; ++t)
          backward_row(dy.as<D>() + t * d, s.as<D>() + t * d, weight.as<W>(), rstd.as<float>()[t],
                       dsum.present() ? dsum.as<D>() + t * d : nullptr, d, dx.as<D>() + t * d, sums);
      });
    });
  });
  if (partial && n > 0) add_row_ranges(*call.pool, partial, row_ranges(n), d, dweight.as<float>());
}

}  // namespace vltune::cpu::VLTUNE_ISA
