#include "../ops/gelu.h"

#include "../ops/gelu_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

// The normal distribution's function at x, and its density, or what approximates them.
struct Normal { Vec below, density; };

// erfc(t) = exp(polynomial) for t above 0.927734375, and erf(t) is t times another below, as N. Juffa fitted them (within 1 ulp of
// erf); so small values on the left keep most of their digits, which 1 + erf would lose.
inline Normal exact(Vec x) {
  const Vec t = min(abs(x) * broadcast(0.70710678f), broadcast(10.0f)), s = t * t, one = broadcast(1.0f), half = broadcast(0.5f);
  Vec far = fma(broadcast(-1.72853470e-5f), t, broadcast(3.83197126e-4f));
  far = fma(far, s, fma(broadcast(-3.88396438e-3f), t, broadcast(2.42546219e-2f)));
  far = fma(far, t, broadcast(-1.06777877e-1f));
  far = fma(far, t, broadcast(-6.34846687e-1f));
  far = fma(far, t, broadcast(-1.28717512e-1f));
  far = half * exp(fma(far, t, zero() - t));  // of the smaller side
  Vec near = broadcast(-5.96761703e-4f);
  near = fma(near, s, broadcast(4.99119423e-3f));
  near = fma(near, s, broadcast(-2.67681349e-2f));
  near = fma(near, s, broadcast(1.12819925e-1f));
  near = fma(near, s, broadcast(-3.76125336e-1f));
  near = fma(near, s, broadcast(1.28379166e-1f));
  near = half * fma(near, t, t);  // from the middle on
  const Mask is_near = less(t, broadcast(0.927734375f)), is_left = less(x, zero());
  const Vec left = select(is_near, half - near, far), right = select(is_near, half + near, one - far);
  // Not from t, whose square errs by as many ulps as the exponent is large.
  return {select(is_left, left, right), broadcast(0.39894228f) * exp(broadcast(-0.5f) * x * x)};
}

// (1 + tanh u) / 2 = sigmoid(2u), whose derivative by x is sigmoid * (1 - sigmoid) * 2u'.
template <class D> inline Normal approximate(Vec x) {
  constexpr float kScale = 1.5957691216f, kCube = 0.044715f;  // 2 sqrt(2 / pi)
  const Vec squared = x * x;
  const Vec below = sigmoid_for(broadcast(kScale) * x * fma(broadcast(kCube), squared, broadcast(1.0f)), D{});
  const Vec slope = broadcast(kScale) * fma(broadcast(3 * kCube), squared, broadcast(1.0f));
  return {below, below * (broadcast(1.0f) - below) * slope};
}

template <class D, bool kTanh> inline Normal normal(Vec x) {
  if constexpr (kTanh) return approximate<D>(x);
  else return exact(x);
}

// Beyond this far x * density is 0, and squares and cubes of x may be infinite.
constexpr float kFar = 40.0f;
inline Vec within(Vec x) { return max(broadcast(-kFar), min(broadcast(kFar), x)); }

}  // namespace

void gelu(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_gelu(call, x, y);
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_gelu_way(call, [&](auto tanh) {
      call.pool->parallel_for(x.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
        const D* from = x.as<D>() + begin;
        D* to = y.as<D>() + begin;
        each_vector(end - begin, [&](int64_t i, int count) {
          const Vec v = load_part(from + i, count);
          store_part(to + i, v * normal<D, decltype(tanh)::value>(within(v)).below, count);
        });
      });
    });
  });
}

void gelu_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &x = input(call, 1), &dx = output(call, 0);
  check_gelu_backward(call, dy, x, dx);
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_gelu_way(call, [&](auto tanh) {
      call.pool->parallel_for(dy.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
        const D *grad = dy.as<D>() + begin, *from = x.as<D>() + begin;
        D* to = dx.as<D>() + begin;
        each_vector(end - begin, [&](int64_t i, int count) {
          const Vec v = within(load_part(from + i, count));
          const Normal at = normal<D, decltype(tanh)::value>(v);
          store_part(to + i, load_part(grad + i, count) * fma(v, at.density, at.below), count);
        });
      });
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
