// One launch over `count` elements, each of which needs only its own operands. A map is a struct of pointers with
//   template <int N> auto load(int64_t i) const           operands i..i+N-1, as they lie in memory (Packed)
//   template <int N> void finish(int64_t i, loaded) const   the results from them
// A thread loads all its vectors before it finishes the first, so results may be written over operands of the same index.
#pragma once
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {

constexpr int kMapThreads = 256;

template <int N, int kUnroll, class Map> __global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t count, Map map) {
  const int64_t vectors = count / N, first = static_cast<int64_t>(blockIdx.x) * (kMapThreads * kUnroll) + threadIdx.x;
  decltype(map.template load<N>(0)) loaded[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k)
    if (first + k * kMapThreads < vectors) loaded[k] = map.template load<N>((first + k * kMapThreads) * N);
#pragma unroll
  for (int k = 0; k < kUnroll; ++k)
    if (first + k * kMapThreads < vectors) map.template finish<N>((first + k * kMapThreads) * N, loaded[k]);
  if constexpr (N > 1) {  // what is left of the last vector
    const int64_t i = vectors * N + threadIdx.x;
    if (blockIdx.x == 0 && i < count) map.template finish<1>(i, map.template load<1>(i));
  }
}

// N elements at a time if `aligned`: every pointer of the map to the width of its access.
template <int N, int kUnroll, class Map> void launch_map(const OpCall& call, int64_t count, bool aligned, const Map& map) {
  if (count == 0) return;
  const int64_t per_block = static_cast<int64_t>(kMapThreads) * kUnroll;
  if (aligned) {
    const int64_t blocks = ceil_div(count / N, per_block);
    map_kernel<N, kUnroll><<<static_cast<unsigned>(blocks > 0 ? blocks : 1), kMapThreads, 0, stream_of(call)>>>(count, map);
  } else {
    map_kernel<1, kUnroll><<<static_cast<unsigned>(ceil_div(count, per_block)), kMapThreads, 0, stream_of(call)>>>(count, map);
  }
  check_launch(call);
}

}  // namespace vltune::cuda
