#include "weight.h"

#include "nf4.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;  // vectors of a thread

template <int N, class From, class To> __global__ void __launch_bounds__(kThreads) convert(const From* from, To* to, int64_t count) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads * kEach + threadIdx.x) * N;
  Packed<From, N> loaded[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k)
    if (first + k * kThreads * N < count) loaded[k] = load<N, Use::Constant>(from + first + k * kThreads * N);
#pragma unroll
  for (int k = 0; k < kEach; ++k)
    if (first + k * kThreads * N < count) store_lanes(to + first + k * kThreads * N, unpack(loaded[k]));
}

template <class From, class To> void launch_convert(const OpCall& call, const From* from, To* to, int64_t count) {
  const auto launch = [&](auto width) {
    constexpr int N = decltype(width)::value;
    convert<N><<<static_cast<unsigned>(ceil_div(count, int64_t{kThreads} * kEach * N)), kThreads, 0, stream_of(call)>>>(from, to, count);
    check_launch(call);
  };
  if (count % 8 == 0 && all_aligned(kVectorBytes, from, to)) launch(std::integral_constant<int, 8>{});
  else launch(std::integral_constant<int, 1>{});
}

}  // namespace

size_t weight_workspace(const Tensor& weight, DType dtype) { return weight.dtype == dtype ? 0 : dtype_bytes(dtype, weight.numel()); }

const void* weight_as(const OpCall& call, const Tensor& weight, DType dtype, void* scratch) {
  if (weight.dtype == dtype || weight.numel() == 0) return weight.data;
  if (weight.dtype == DType::NF4) {
    dequantize_rows(call, weight, 0, weight.shape[0], scratch, dtype, weight.shape[1]);
  } else {
    with_float(weight.dtype, [&](auto from) {
      with_activation(dtype, [&](auto to) {
        using From = decltype(from);
        using To = decltype(to);
        if constexpr (!std::is_same_v<From, To>) launch_convert(call, weight.as<From>(), static_cast<To*>(scratch), weight.numel());
      });
    });
  }
  return scratch;
}

}  // namespace vltune::cuda
