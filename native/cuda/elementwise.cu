#include "../ops/elementwise.h"

#include "../ops/check.h"
#include "../ops/nf4.h"
#include "map.cuh"
#include "rows.cuh"

namespace vltune::cuda {
namespace {

constexpr int kAddUnroll = 2, kMoveUnroll = 4;

template <class D> struct Add {
  const D *a, *b;
  D* y;

  template <int N> struct Loaded { Packed<D, N> a, b; };
  template <int N> __device__ Loaded<N> load(int64_t i) const { return {cuda::load<N>(a + i), cuda::load<N>(b + i)}; }
  template <int N> __device__ void finish(int64_t i, const Loaded<N>& loaded) const {
    Lanes<N> sum = unpack(loaded.a), more = unpack(loaded.b);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += more[k];
    store_lanes(y + i, sum);
  }
};

template <class From, class To> struct Cast {
  const From* x;
  To* y;

  template <int N> __device__ Packed<From, N> load(int64_t i) const { return cuda::load<N>(x + i); }
  template <int N> __device__ void finish(int64_t i, const Packed<From, N>& loaded) const {
    if constexpr (std::is_same_v<From, To>) store(y + i, loaded);
    else store_lanes(y + i, unpack(loaded));
  }
};

struct Fill {
  float* y;
  float value;

  template <int N> struct Nothing {};
  template <int N> __device__ Nothing<N> load(int64_t) const { return {}; }
  template <int N> __device__ void finish(int64_t i, const Nothing<N>&) const {
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
  check_present(call, a, "a");
  check_present(call, b, "b");
  check_present(call, y, "y");
  check_dtype(call, a, "a", kIsActivation);
  check_dtype(call, b, "b", dtype_bit(a.dtype));
  check_dtype(call, y, "y", dtype_bit(a.dtype));
  check_numel(call, b, "b", a.numel());
  check_numel(call, y, "y", a.numel());
  with_activation(a.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch_map<kVector<D>, kAddUnroll>(call, a.numel(), all_aligned(kVectorBytes, a.data, b.data, y.data),
                                       Add<D>{a.as<D>(), b.as<D>(), y.as<D>()});
  });
}

void cast(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_present(call, x, "x");
  check_present(call, y, "y");
  check_dtype(call, x, "x", kIsFloat | kIsNf4);
  check_dtype(call, y, "y", kIsActivation);
  check_numel(call, y, "y", x.numel());
  if (x.dtype == DType::NF4) return nf4_dequantize(call);
  with_activation(y.dtype, [&](auto y_tag) {
    using To = decltype(y_tag);
    with_float(x.dtype, [&](auto x_tag) {
      using From = decltype(x_tag);
      constexpr int N = sizeof(From) < sizeof(To) ? kVector<From> : kVector<To>;
      launch_map<N, kMoveUnroll>(call, x.numel(), all_aligned(kVectorBytes, x.data, y.data), Cast<From, To>{x.as<From>(), y.as<To>()});
    });
  });
}

void fill(const OpCall& call) {
  const Tensor& y = output(call, 0);
  check_present(call, y, "y");
  check_dtype(call, y, "y", kIsF32);
  launch_map<kVector<float>, kMoveUnroll>(call, y.numel(), all_aligned(kVectorBytes, y.data),
                                          Fill{y.as<float>(), static_cast<float>(call.attrs->number("value", 0))});
}

void select_rows(const OpCall& call) {
  const Tensor &x = input(call, 0), &rows = input(call, 1), &y = output(call, 0);
  check_operand(call, x, "x", kIsActivation, {kAny, kAny});
  check_operand(call, rows, "rows", kIsI32, {kAny});
  const int64_t m = rows.dim(0), d = x.dim(1);
  check_operand(call, y, "y", dtype_bit(x.dtype), {m, d});
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    launch_gather_rows(call, x.as<D>(), rows.as<int32_t>(), y.as<D>(), m, x.dim(0), d, FaultKind::Row);
  });
}

void copy(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_operand(call, x, "x", kIsU8, {kAny});
  check_operand(call, y, "y", kIsU8, {x.dim(0)});
  launch_map<kVector<uint8_t>, kMoveUnroll>(call, x.dim(0), all_aligned(kVectorBytes, x.data, y.data),
                                            Cast<uint8_t, uint8_t>{x.as<uint8_t>(), y.as<uint8_t>()});
}

}  // namespace vltune::cuda
