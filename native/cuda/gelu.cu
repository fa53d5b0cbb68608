#include "../ops/gelu.h"

#include "../ops/gelu_checks.h"
#include "map.cuh"

namespace vltune::cuda {
namespace {

// The normal distribution's function at x, and its density, or what approximates them.
struct Normal { float below, density; };

template <class D> __device__ inline Normal exact(float x) {
  constexpr float kRoot = 0.39894228f;  // 1 / sqrt(2 pi)
  if constexpr (std::is_same_v<D, float>) return {normcdff(x), kRoot * expf(-0.5f * x * x)};
  else return {0.5f + 0.5f * erff(0.70710678f * x), kRoot * __expf(-0.5f * x * x)};
}

// (1 + tanh u) / 2 = sigmoid(2u), whose derivative by x is sigmoid * (1 - sigmoid) * 2u'.
template <class D> __device__ inline Normal approximate(float x) {
  constexpr float kScale = 1.5957691216f, kCube = 0.044715f;  // 2 sqrt(2 / pi)
  const float squared = x * x, u = kScale * x * fmaf(kCube, squared, 1.0f);
  float below;
  if constexpr (std::is_same_v<D, float>) below = 1.0f / (1.0f + expf(-u));
  else below = __fdividef(1.0f, 1.0f + __expf(-u));
  return {below, below * (1.0f - below) * kScale * fmaf(3 * kCube, squared, 1.0f)};
}

template <class D, bool kTanh> __device__ inline Normal normal(float x) {
  if constexpr (kTanh) return approximate<D>(x);
  else return exact<D>(x);
}

// Beyond this far x * density is 0, and squares and cubes of x may be infinite.
__device__ inline float within(float x) { return fminf(fmaxf(x, -40.0f), 40.0f); }

template <class D, bool kTanh> struct Forward {
  const D* x;
  D* y;

  template <int N> __device__ void apply(int64_t i) const {
    Lanes<N> v = load_lanes<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] *= normal<D, kTanh>(within(v[k])).below;
    store_lanes(y + i, v);
  }
};

template <class D, bool kTanh> struct Backward {
  const D *dy, *x;
  D* dx;

  template <int N> __device__ void apply(int64_t i) const {
    Lanes<N> grad = load_lanes<N>(dy + i);
    const Lanes<N> v = load_lanes<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float near = within(v[k]);
      const Normal at = normal<D, kTanh>(near);
      grad[k] *= fmaf(near, at.density, at.below);
    }
    store_lanes(dx + i, grad);
  }
};

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void gelu(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_gelu(call, x, y);
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_gelu_way(call, [&](auto tanh) {
      launch_map<kVector<D>>(call, x.numel(), all_aligned(kVectorBytes, x.data, y.data),
                             Forward<D, decltype(tanh)::value>{x.as<D>(), y.as<D>()});
    });
  });
}

void gelu_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &x = input(call, 1), &dx = output(call, 0);
  check_gelu_backward(call, dy, x, dx);
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_gelu_way(call, [&](auto tanh) {
      launch_map<kVector<D>>(call, dy.numel(), all_aligned(kVectorBytes, dy.data, x.data, dx.data),
                             Backward<D, decltype(tanh)::value>{dy.as<D>(), x.as<D>(), dx.as<D>()});
    });
  });
}

}  // namespace vltune::cuda
