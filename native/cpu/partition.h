// How work is cut into ranges for threads, and how sums over rows are put together so that they do not depend on the threads.
#pragma once
#include "../runtime/thread_pool.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

// Rows a thread takes at a time: some 32 k elements, so that handing out work costs nothing beside doing it.
inline int64_t row_grain(int64_t row_length) {
  int64_t rows = 32768 / (row_length > 0 ? row_length : 1);
  return rows > 1 ? rows : 1;
}
constexpr int64_t kElementGrain = 32768;

// Sums over rows are kept for each of at most kRowRanges ranges of rows and then added in order, so they do not depend on the
// number of threads.
constexpr int64_t kRowRanges = 64, kRowsAtLeast = 32;
inline int64_t row_range(int64_t rows) {
  int64_t length = (rows + kRowRanges - 1) / kRowRanges;
  return length > kRowsAtLeast ? length : kRowsAtLeast;
}
inline int64_t row_ranges(int64_t rows) { return (rows + row_range(rows) - 1) / row_range(rows); }
// Bytes for d sums of each range, of the most that any number of rows up to this one makes.
inline size_t row_ranges_workspace(int64_t rows, int64_t d) {
  const int64_t ranges = (rows + kRowsAtLeast - 1) / kRowsAtLeast, most = ranges < kRowRanges ? ranges : kRowRanges;
  return static_cast<size_t>(most * d) * sizeof(float);
}
// to[j] += partial[0][j] + partial[1][j] + ..., in this order.
inline void add_row_ranges(ThreadPool& pool, const float* partial, int64_t ranges, int64_t d, float* to) {
  pool.parallel_for(d, 1024, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int count) {
      const int64_t j = begin + i;
      Vec sum = load_part(to + j, count);
      for (int64_t r = 0; r < ranges; ++r) sum = sum + load_part(partial + r * d + j, count);
      store_part(to + j, sum, count);
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
