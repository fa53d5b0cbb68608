// One launch over `count` elements, each of which needs only its own operands. A map is a struct of pointers with
//   template <int N> __device__ void apply(int64_t i) const     elements i..i+N-1: operands loaded, then results stored
// so results may be written over operands of the same index. One vector a thread: more in flight for each measured slower on an H200,
// by 1 % (SwiGLU) to 4 % (a copy).
#pragma once
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {

constexpr int kMapThreads = 256;

template <int N, class Map> __global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t count, Map map) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x, vectors = count / N;
  if (vector < vectors) map.template apply<N>(vector * N);
  if constexpr (N > 1) {  // what is left of the last vector
    const int64_t i = vectors * N + threadIdx.x;
    if (blockIdx.x == 0 && i < count) map.template apply<1>(i);
  }
}

// N elements at a time if `aligned`: every pointer of the map to the width of its access.
template <int N, class Map> void launch_map(const OpCall& call, int64_t count, bool aligned, const Map& map) {
  if (count == 0) return;
  if (aligned) {
    const int64_t blocks = ceil_div(count / N, kMapThreads);
    map_kernel<N><<<static_cast<unsigned>(blocks > 0 ? blocks : 1), kMapThreads, 0, stream_of(call)>>>(count, map);
  } else {
    map_kernel<1><<<static_cast<unsigned>(ceil_div(count, kMapThreads)), kMapThreads, 0, stream_of(call)>>>(count, map);
  }
  check_launch(call);
}

}  // namespace vltune::cuda
