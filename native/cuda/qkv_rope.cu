#include "../ops/qkv_rope.h"

#include "../ops/qkv_rope_checks.h"
#include "device.h"
#include "rotate.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256;

template <class D> struct Parts { D *q, *k, *v; };

struct Shape {
  int64_t n;
  int heads, half;
};

// A thread takes N elements of either half of a head of q, of k and of v, so cosines and sines are read once for all three. Heads of a
// row lie side by side, and so do the threads. kSign +1 splits and turns; -1 turns back and puts together.
template <int kSign, int N, class D>
__global__ void __launch_bounds__(kThreads) qkv_heads(D* qkv, Parts<D> parts, const float* cos, const float* sin, Shape shape) {
  const unsigned pieces = static_cast<unsigned>(shape.half) / N, units = shape.heads * pieces;
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t t = i / units;
  if (t >= shape.n) return;
  const int unit = static_cast<int>(i % units), j = unit % pieces * N, column = unit / pieces * 2 * shape.half + j;
  const int64_t width = static_cast<int64_t>(shape.heads) * 2 * shape.half, own = t * width + column;
  D *row = qkv + t * 3 * width + column, *part[3] = {parts.q + own, parts.k + own, parts.v + own};
  PackedPair<D, N> loaded[3];
#pragma unroll
  for (int p = 0; p < 3; ++p) loaded[p] = load_pair<N>(kSign > 0 ? row + p * width : part[p], shape.half);
  const Lanes<N> c = load_lanes<N, Use::Constant>(cos + t * shape.half + j), s = load_lanes<N, Use::Constant>(sin + t * shape.half + j);
#pragma unroll
  for (int p = 0; p < 3; ++p) {
    D* to = kSign > 0 ? part[p] : row + p * width;
    if (p < 2) {
      store_pair(to, shape.half, rotate<kSign>(unpack(loaded[p]), c, s));
    } else {
      store(to, loaded[p].low);
      store(to + shape.half, loaded[p].high);
    }
  }
}

template <int kSign, class D>
void launch(const OpCall& call, D* qkv, Parts<D> parts, const float* cos, const float* sin, const Shape& shape) {
  auto with_vectors = [&](auto width) {
    constexpr int N = decltype(width)::value;
    if (shape.half % N != 0 || !all_aligned(N * sizeof(D), qkv, parts.q, parts.k, parts.v) ||
        !all_aligned(N * sizeof(float) < kVectorBytes ? N * sizeof(float) : kVectorBytes, cos, sin))
      return false;
    const int64_t blocks = ceil_div(shape.n * shape.heads * (shape.half / N), kThreads);
    qkv_heads<kSign, N><<<static_cast<unsigned>(blocks), kThreads, 0, stream_of(call)>>>(qkv, parts, cos, sin, shape);
    check_launch(call);
    return true;
  };
  constexpr int kWide = kVector<D>;  // half of it fits heads of 72
  if (!with_vectors(std::integral_constant<int, kWide>{}) && !with_vectors(std::integral_constant<int, kWide / 2>{}))
    with_vectors(std::integral_constant<int, 1>{});
}

template <int kSign>
void run(const OpCall& call, const Tensor& qkv, const Tensor (&parts)[3], const Tensor& cos, const Tensor& sin, const Heads& heads) {
  if (heads.n == 0 || heads.heads == 0) return;
  const Shape shape = {heads.n, static_cast<int>(heads.heads), static_cast<int>(heads.half)};
  with_activation(qkv.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch<kSign>(call, qkv.as<D>(), Parts<D>{parts[0].as<D>(), parts[1].as<D>(), parts[2].as<D>()}, cos.as<float>(), sin.as<float>(),
                  shape);
  });
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void qkv_rope(const OpCall& call) {
  const Tensor &qkv = input(call, 0), &cos = input(call, 1), &sin = input(call, 2);
  const Tensor parts[3] = {output(call, 0), output(call, 1), output(call, 2)};
  run<1>(call, qkv, parts, cos, sin, check_qkv_rope(call));
}

void qkv_rope_backward(const OpCall& call) {
  const Tensor &cos = input(call, 3), &sin = input(call, 4), &dqkv = output(call, 0);
  const Tensor parts[3] = {input(call, 0), input(call, 1), input(call, 2)};
  run<-1>(call, dqkv, parts, cos, sin, check_qkv_rope_backward(call));
}

}  // namespace vltune::cuda
