// Rows of a table, moved by index: one warp takes kRowVectors vectors of a row a lane, all loaded before the first is stored.
#pragma once
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {

constexpr int kRowThreads = 256, kRowVectors = 2;

// y[t] = x[rows[t]], converted. A row outside 0..limit-1 is reported, and nothing is read or written for it.
template <int N, class From, class To>
__global__ void __launch_bounds__(kRowThreads) gather_rows(const From* x, const int32_t* rows, To* y, int64_t count, int64_t limit,
                                                           int64_t d, int64_t pieces, FaultKind kind, Fault* fault) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) / kWarp, t = warp / pieces, piece = warp % pieces;
  if (t >= count) return;
  const int lane = threadIdx.x % kWarp;
  const int32_t row = rows[t];
  if (row < 0 || row >= limit) {
    if (piece == 0 && lane == 0) report_fault(fault, kind, t, row, limit);
    return;
  }
  const From* from = x + row * d;
  To* to = y + t * d;
  const int64_t first = (piece * kRowVectors * kWarp + lane) * N;
  Packed<From, N> loaded[kRowVectors];
#pragma unroll
  for (int k = 0; k < kRowVectors; ++k)
    if (first + k * kWarp * N < d) loaded[k] = load<N>(from + first + k * kWarp * N);
#pragma unroll
  for (int k = 0; k < kRowVectors; ++k)
    if (first + k * kWarp * N < d) {
      if constexpr (std::is_same_v<From, To>) store(to + first + k * kWarp * N, loaded[k]);
      else store_lanes(to + first + k * kWarp * N, unpack(loaded[k]));
    }
}

template <class From, class To>
void launch_gather_rows(const OpCall& call, const From* x, const int32_t* rows, To* y, int64_t count, int64_t limit, int64_t d,
                        FaultKind kind) {
  if (count == 0) return;
  constexpr int kWide = kVector<std::conditional_t<(sizeof(From) > sizeof(To)), From, To>>;  // the wider: its accesses lie side by side
  auto launch = [&](auto width) {
    constexpr int N = decltype(width)::value;
    const int64_t pieces = d > 0 ? ceil_div(d, static_cast<int64_t>(N) * kRowVectors * kWarp) : 1;
    const int64_t blocks = ceil_div(count * pieces, kRowThreads / kWarp);
    gather_rows<N><<<static_cast<unsigned>(blocks), kRowThreads, 0, stream_of(call)>>>(x, rows, y, count, limit, d, pieces, kind,
                                                                                      call.fault);
    check_launch(call);
  };
  if (d % kWide == 0 && all_aligned(kVectorBytes, x, y)) launch(std::integral_constant<int, kWide>{});
  else launch(std::integral_constant<int, 1>{});
}

}  // namespace vltune::cuda
