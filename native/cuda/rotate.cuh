// Elements j and j + h/2 of a head, which rotary positions turn together, N of either at a time.
#pragma once
#include "vector.cuh"

namespace vltune::cuda {

template <int N> struct Pair { Lanes<N> low, high; };
template <class D, int N> struct PackedPair { Packed<D, N> low, high; };

template <int N, Use kUse = Use::Again, class D> __device__ inline PackedPair<D, N> load_pair(const D* p, int half) {
  return {load<N, kUse>(p), load<N, kUse>(p + half)};
}
template <class D, int N> __device__ inline Pair<N> unpack(const PackedPair<D, N>& packed) {
  return {cuda::unpack(packed.low), cuda::unpack(packed.high)};
}
template <class D, int N> __device__ inline void store_pair(D* p, int half, const Pair<N>& a) {
  store_lanes(p, a.low);
  store_lanes(p + half, a.high);
}
// By the angle, or with sign -1 back.
template <int kSign, int N> __device__ inline Pair<N> rotate(const Pair<N>& z, const Lanes<N>& cos, const Lanes<N>& sin) {
  Pair<N> y;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    y.low[k] = fmaf(-kSign * z.high[k], sin[k], z.low[k] * cos[k]);
    y.high[k] = fmaf(kSign * z.low[k], sin[k], z.high[k] * cos[k]);
  }
  return y;
}

}  // namespace vltune::cuda
