// Sums over rows: kept for each of at most kRowRanges ranges of rows, then added in order, so they depend on the number of rows alone.
#pragma once
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {

constexpr int64_t kRowRanges = 528, kRowsAtLeast = 8;  // four blocks for each multiprocessor of a large GPU

inline int64_t row_range(int64_t rows) {
  const int64_t length = ceil_div(rows, kRowRanges);
  return length > kRowsAtLeast ? length : kRowsAtLeast;
}
inline int64_t row_ranges(int64_t rows) { return ceil_div(rows, row_range(rows)); }
// Bytes for d sums of each range, of the most that any number of rows up to this one makes.
inline size_t row_ranges_workspace(int64_t rows, int64_t d) {
  const int64_t ranges = ceil_div(rows, kRowsAtLeast), most = ranges < kRowRanges ? ranges : kRowRanges;
  return static_cast<size_t>(most * d) * sizeof(float);
}

constexpr int kRangeColumns = 32, kRangeWarps = 16, kRangesTogether = 256;

// to[j] += partial[0][j] + partial[1][j] + ..., in this order: a block stages ranges in shared memory, and one warp adds them.
static __global__ void __launch_bounds__(kRangeColumns * kRangeWarps) add_row_ranges(const float* partial, int ranges, int64_t d,
                                                                                     float* to) {
  __shared__ float staged[kRangesTogether][kRangeColumns];
  const int column = threadIdx.x % kRangeColumns, warp = threadIdx.x / kRangeColumns;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kRangeColumns + column;
  float sum = warp == 0 && j < d ? to[j] : 0;
  for (int first = 0; first < ranges; first += kRangesTogether) {
#pragma unroll
    for (int k = 0; k < kRangesTogether / kRangeWarps; ++k) {
      const int r = k * kRangeWarps + warp;
      staged[r][column] = first + r < ranges && j < d ? partial[(first + r) * d + j] : 0;
    }
    __syncthreads();
    const int count = ranges - first < kRangesTogether ? ranges - first : kRangesTogether;
    if (warp == 0 && j < d) {
#pragma unroll 16
      for (int r = 0; r < count; ++r) sum += staged[r][column];
    }
    __syncthreads();
  }
  if (warp == 0 && j < d) to[j] = sum;
}

inline void launch_add_row_ranges(const OpCall& call, const float* partial, int64_t ranges, int64_t d, float* to) {
  if (d == 0 || ranges == 0) return;
  const unsigned blocks = static_cast<unsigned>(ceil_div(d, kRangeColumns));
  add_row_ranges<<<blocks, kRangeColumns * kRangeWarps, 0, stream_of(call)>>>(partial, static_cast<int>(ranges), d, to);
  check_launch(call);
}

}  // namespace vltune::cuda
