#include "../ops/swiglu.h"

#include "../ops/swiglu_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

void swiglu(const OpCall& call) {
  const Tensor &gate = input(call, 0), &up = input(call, 1), &y = output(call, 0);
  check_swiglu(call, gate, up, y);
  const int64_t n = gate.dim(0), f = gate.dim(1);
  with_activation(gate.dtype, [&](auto tag) {
    using D = decltype(tag);
    call.pool->parallel_for(n * f, kElementGrain, [&](int64_t begin, int64_t end) {
      const D *g = gate.as<D>() + begin, *u = up.as<D>() + begin;
      D* to = y.as<D>() + begin;
      each_vector(end - begin, [&](int64_t i, int count) {
        Vec x = load_part(g + i, count);
        store_part(to + i, x * sigmoid_for(x, D{}) * load_part(u + i, count), count);
      });
    });
  });
}

// With s = sigmoid(gate) and silu = gate * s:  d silu / d gate = s + silu * (1 - s).
void swiglu_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &gate = input(call, 1), &up = input(call, 2);
  const Tensor &dgate = output(call, 0), &dup = output(call, 1);
  check_swiglu_backward(call, dy, gate, up, dgate, dup);
  const int64_t n = dy.dim(0), f = dy.dim(1);
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    call.pool->parallel_for(n * f, kElementGrain, [&](int64_t begin, int64_t end) {
      const D *grad = dy.as<D>() + begin, *g = gate.as<D>() + begin, *u = up.as<D>() + begin;
      D *to_gate = dgate.as<D>() + begin, *to_up = dup.as<D>() + begin;
      each_vector(end - begin, [&](int64_t i, int count) {
        Vec d = load_part(grad + i, count), x = load_part(g + i, count), v = load_part(u + i, count);
        Vec s = sigmoid_for(x, D{}), silu = x * s;
        store_part(to_up + i, d * silu, count);
        store_part(to_gate + i, d * v * fma(silu, broadcast(1.0f) - s, s), count);
      });
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
