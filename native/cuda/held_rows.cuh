// Norms: a row is held in the registers of kThreads threads, kHeldVectors vectors each, so memory is read once and written once. With
// kFull every thread has all its vectors. One warp can hold a short row: then a block takes several. Rows too long or not aligned go
// through loops of kLoopThreads threads that read them twice.
#pragma once
#include "vector.cuh"

namespace vltune::cuda {

constexpr int kHeldVectors = 2, kLoopThreads = 256, kShortRowBlock = 128;

template <int kThreads> constexpr int kBlock = kThreads == kWarp ? kShortRowBlock : kThreads;

// kThreads is 32 (then the block's warps have rows of their own) or the block's size.
template <int kThreads> __device__ inline float row_sum(float v, float* shared) {
  if constexpr (kThreads == kWarp) return warp_sum(v);
  else return block_sum<kThreads>(v, shared);
}

// Two sums for one barrier. `shared` holds kThreads / 32 pairs; as with block_sum, callers take two in turn.
template <int kThreads> __device__ inline float2 row_sums(float2 v, float2* shared) {
  v = {warp_sum(v.x), warp_sum(v.y)};
  if constexpr (kThreads == kWarp) return v;
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = v;
  __syncthreads();
  float2 sum = {0, 0};
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) sum = {sum.x + shared[i].x, sum.y + shared[i].y};
  return sum;
}

template <int kThreads_, bool kFull_> struct HeldRow {
  static constexpr int kThreads = kThreads_;
  static constexpr bool kFull = kFull_;
};
// Calls body(HeldRow) with the fewest threads that hold a row of this many vectors, or returns false.
template <class Body> bool with_held_row(int64_t vectors, Body&& body) {
  auto choose = [&](auto threads) {
    constexpr int kThreads = decltype(threads)::value;
    if (vectors > kHeldVectors * kThreads) return false;
    if (vectors == kHeldVectors * kThreads) body(HeldRow<kThreads, true>{});
    else body(HeldRow<kThreads, false>{});
    return true;
  };
  return vectors > 0 && (choose(std::integral_constant<int, 32>{}) || choose(std::integral_constant<int, 128>{}) ||
                         choose(std::integral_constant<int, 256>{}) || choose(std::integral_constant<int, 512>{}));
}

}  // namespace vltune::cuda
