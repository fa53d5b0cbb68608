#include "../ops/scatter_rows.h"

#include "../ops/scatter_rows_checks.h"
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256, kVectors = 2;

enum class Way { Replace, Add, Clear };

// Where `row` stands among the ascending `rows`, or -1.
__device__ inline int find(const int32_t* rows, int count, int64_t row) {
  int first = 0;
  for (int end = count; first < end;) {
    const int middle = (first + end) / 2;
    if (rows[middle] < row) first = middle + 1;
    else end = middle;
  }
  return first < count && rows[first] == row ? first : -1;
}

// A warp takes a piece of a row: of x, of the values, or of both. The first threads see to it that the rows ascend.
template <Way kWay, int N, class D>
__global__ void __launch_bounds__(kThreads) scatter(const D* x, const int32_t* rows, const D* values, D* y, int64_t n, int count, int64_t d,
                                                    unsigned pieces, Fault* fault) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned warp = static_cast<unsigned>(thread / kWarp);
  const int64_t t = warp / pieces;
  for (int64_t i = thread; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads)
    if (rows[i] < 0 || rows[i] >= n || (i > 0 && rows[i] <= rows[i - 1])) report_fault(fault, FaultKind::Scatter, i, rows[i], n);
  if (t >= n) return;
  const int64_t first = (static_cast<int64_t>(warp % pieces) * kVectors * kWarp + thread % kWarp) * N;
  const int place = find(rows, count, t);
  const D *from = x + t * d, *value = values + place * d;
  Packed<D, N> loaded[kVectors], more[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int64_t i = first + k * kWarp * N; i < d) {
      if (place < 0 || kWay == Way::Add) loaded[k] = load<N>(from + i);
      if (place >= 0 && kWay == Way::Add) more[k] = load<N>(value + i);
      if (place >= 0 && kWay == Way::Replace) loaded[k] = load<N>(value + i);
      if (place >= 0 && kWay == Way::Clear) loaded[k] = {};
    }
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int64_t i = first + k * kWarp * N; i < d) {
      if constexpr (kWay == Way::Add) {
        if (place >= 0) {
          Lanes<N> a = unpack(loaded[k]), b = unpack(more[k]);
#pragma unroll
          for (int j = 0; j < N; ++j) a[j] += b[j];
          loaded[k] = pack<D>(a);
        }
      }
      store(y + t * d + i, loaded[k]);
    }
}

template <Way kWay, class D>
void launch(const OpCall& call, const D* x, const int32_t* rows, const D* values, D* y, int64_t n, int64_t count, int64_t d) {
  auto with_vectors = [&](auto width) {
    constexpr int N = decltype(width)::value;
    const int64_t pieces = ceil_div(d, static_cast<int64_t>(N) * kVectors * kWarp), blocks = ceil_div(n * pieces, kThreads / kWarp);
    scatter<kWay, N><<<static_cast<unsigned>(blocks), kThreads, 0, stream_of(call)>>>(x, rows, values, y, n, static_cast<int>(count), d,
                                                                                      static_cast<unsigned>(pieces), call.fault);
    check_launch(call);
  };
  if (d % kVector<D> == 0 && all_aligned(kVectorBytes, x, values, y)) with_vectors(std::integral_constant<int, kVector<D>>{});
  else with_vectors(std::integral_constant<int, 1>{});
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void scatter_rows(const OpCall& call) {
  const Tensor &x = input(call, 0), &rows = input(call, 1), &values = input(call, 2), &y = output(call, 0);
  check_scatter_rows(call, x, rows, values, y);
  const int64_t n = x.dim(0), d = x.dim(1), m = rows.dim(0);
  const bool accumulate = call.attrs->flag("accumulate");
  if (n == 0 || d == 0) return;
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    const auto with_way = [&](auto way) {
      launch<decltype(way)::value>(call, x.as<D>(), rows.as<int32_t>(), values.present() ? values.as<D>() : nullptr, y.as<D>(), n, m, d);
    };
    if (accumulate) with_way(std::integral_constant<Way, Way::Add>{});
    else if (values.present()) with_way(std::integral_constant<Way, Way::Replace>{});
    else with_way(std::integral_constant<Way, Way::Clear>{});
  });
}

}  // namespace vltune::cuda
