// Sums over rows: kept for each of at most kRowRanges ranges of rows, then added in order, so they depend on the number of rows alone.
#pragma once
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {

constexpr int64_t kRowRanges = 264, kRowsAtLeast = 8;  // ranges: two blocks for each multiprocessor of a large GPU

inline int64_t row_range(int64_t rows) {
  const int64_t length = ceil_div(rows, kRowRanges);
  return length > kRowsAtLeast ? length : kRowsAtLeast;
}
inline int64_t row_ranges(int64_t rows) { return ceil_div(rows, row_range(rows)); }
// The most ranges that any number of rows up to this one makes.
inline int64_t row_ranges_limit(int64_t rows) {
  const int64_t ranges = ceil_div(rows, kRowsAtLeast);
  return ranges < kRowRanges ? ranges : kRowRanges;
}

constexpr int kRangeThreads = 64;

// to[j] += partial[0][j] + partial[1][j] + ..., in this order.
static __global__ void __launch_bounds__(kRangeThreads) add_row_ranges(const float* partial, int ranges, int64_t d, float* to) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kRangeThreads + threadIdx.x;
  if (j >= d) return;
  float sum = to[j];
#pragma unroll 16
  for (int r = 0; r < ranges; ++r) sum += partial[r * d + j];
  to[j] = sum;
}

inline void launch_add_row_ranges(const OpCall& call, const float* partial, int64_t ranges, int64_t d, float* to) {
  if (d == 0 || ranges == 0) return;
  const unsigned blocks = static_cast<unsigned>(ceil_div(d, kRangeThreads));
  add_row_ranges<<<blocks, kRangeThreads, 0, stream_of(call)>>>(partial, static_cast<int>(ranges), d, to);
  check_launch(call);
}

}  // namespace vltune::cuda
