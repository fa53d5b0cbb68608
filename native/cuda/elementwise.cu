#include "../ops/elementwise.h"

#include "../ops/elementwise_checks.h"
#include "../ops/nf4.h"
#include "map.cuh"
#include "rows.cuh"

namespace vltune::cuda {
namespace {

template <class D> struct Add {
  const D *a, *b;
  D* y;

  template <int N> __device__ void apply(int64_t i) const {
    Lanes<N> sum = load_lanes<N>(a + i);
    const Lanes<N> more = load_lanes<N>(b + i);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += more[k];
    store_lanes(y + i, sum);
  }
};

template <class From, class To> struct Cast {
  const From* x;
  To* y;

  template <int N> __device__ void apply(int64_t i) const {
    if constexpr (std::is_same_v<From, To>) store(y + i, load<N>(x + i));
    else store_lanes(y + i, load_lanes<N>(x + i));
  }
};

struct Fill {
  float* y;
  float value;

  template <int N> __device__ void apply(int64_t i) const {
    Lanes<N> lanes;
#pragma unroll
    for (int k = 0; k < N; ++k) lanes[k] = value;
    store_lanes(y + i, lanes);
  }
};

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void add(const OpCall& call) {
  const Tensor &a = input(call, 0), &b = input(call, 1), &y = output(call, 0);
  check_add(call, a, b, y);
  with_activation(a.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch_map<kVector<D>>(call, a.numel(), all_aligned(kVectorBytes, a.data, b.data, y.data),
                           Add<D>{a.as<D>(), b.as<D>(), y.as<D>()});
  });
}

void cast(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_cast(call, x, y);
  if (x.dtype == DType::NF4) return nf4_dequantize(call);
  with_activation(y.dtype, [&](auto y_tag) {
    using To = decltype(y_tag);
    with_float(x.dtype, [&](auto x_tag) {
      using From = decltype(x_tag);
      constexpr int N = kVector<std::conditional_t<(sizeof(From) > sizeof(To)), From, To>>;  // the wider: its accesses lie side by side
      launch_map<N>(call, x.numel(), all_aligned(kVectorBytes, x.data, y.data), Cast<From, To>{x.as<From>(), y.as<To>()});
    });
  });
}

void fill(const OpCall& call) {
  const Tensor& y = output(call, 0);
  check_fill(call, y);
  launch_map<kVector<float>>(call, y.numel(), all_aligned(kVectorBytes, y.data),
                             Fill{y.as<float>(), static_cast<float>(call.attrs->number("value", 0))});
}

void select_rows(const OpCall& call) {
  const Tensor &x = input(call, 0), &rows = input(call, 1), &y = output(call, 0);
  check_select_rows(call, x, rows, y);
  const int64_t m = rows.dim(0), d = x.dim(1);
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch_gather_rows(call, x.as<D>(), rows.as<int32_t>(), y.as<D>(), m, x.dim(0), d, FaultKind::Row);
  });
}

void copy(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_copy(call, x, y);
  launch_map<kVector<uint8_t>>(call, x.dim(0), all_aligned(kVectorBytes, x.data, y.data),
                               Cast<uint8_t, uint8_t>{x.as<uint8_t>(), y.as<uint8_t>()});
}

}  // namespace vltune::cuda
