#include "../ops/swiglu.h"

#include "../ops/swiglu_checks.h"
#include "map.cuh"

namespace vltune::cuda {
namespace {

// To F32's own precision, and where the result is to be rounded to 16 bits within 2^-20 of itself. exp(-v) is infinite below -88: then 0.
template <class D> __device__ inline float sigmoid_for(float v, D) {
  if constexpr (sizeof(D) == 4) return 1.0f / (1.0f + expf(-v));
  else return __fdividef(1.0f, 1.0f + __expf(-v));
}

template <class D> struct Forward {
  const D *gate, *up;
  D* y;

  template <int N> __device__ void apply(int64_t i) const {
    const Lanes<N> g = load_lanes<N>(gate + i), u = load_lanes<N>(up + i);
    Lanes<N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) result[k] = g[k] * sigmoid_for(g[k], D{}) * u[k];
    store_lanes(y + i, result);
  }
};

// With s = sigmoid(gate) and silu = gate * s:  d silu / d gate = s + silu * (1 - s).
template <class D> struct Backward {
  const D *dy, *gate, *up;
  D *dgate, *dup;

  template <int N> __device__ void apply(int64_t i) const {
    const Lanes<N> d = load_lanes<N>(dy + i), g = load_lanes<N>(gate + i), u = load_lanes<N>(up + i);
    Lanes<N> to_gate, to_up;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float s = sigmoid_for(g[k], D{}), silu = g[k] * s;
      to_up[k] = d[k] * silu;
      to_gate[k] = d[k] * u[k] * fmaf(silu, 1.0f - s, s);
    }
    store_lanes(dgate + i, to_gate);
    store_lanes(dup + i, to_up);
  }
};

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void swiglu(const OpCall& call) {
  const Tensor &gate = input(call, 0), &up = input(call, 1), &y = output(call, 0);
  check_swiglu(call, gate, up, y);
  const int64_t n = gate.dim(0), f = gate.dim(1);
  with_activation(gate.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch_map<kVector<D>>(call, n * f, all_aligned(kVectorBytes, gate.data, up.data, y.data),
                           Forward<D>{gate.as<D>(), up.as<D>(), y.as<D>()});
  });
}

void swiglu_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &gate = input(call, 1), &up = input(call, 2);
  const Tensor &dgate = output(call, 0), &dup = output(call, 1);
  check_swiglu_backward(call, dy, gate, up, dgate, dup);
  const int64_t n = dy.dim(0), f = dy.dim(1);
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch_map<kVector<D>>(call, n * f, all_aligned(kVectorBytes, dy.data, gate.data, up.data, dgate.data, dup.data),
                           Backward<D>{dy.as<D>(), gate.as<D>(), up.as<D>(), dgate.as<D>(), dup.as<D>()});
  });
}

}  // namespace vltune::cuda
