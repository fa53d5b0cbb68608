// Attention of one token with heads of 128, as the kernels of attention.cu and layers.cu share it: a head with its norm and
// rotation by a warp, and a running softmax whose keys lie in 16 lanes each.
#pragma once
#include <cmath>

#include "../vector.cuh"

namespace vltune::cuda {

constexpr int kDim = 128, kHalf = kDim / 2;
[[maybe_unused]] constexpr int kLanes = kDim / 8;  // of a key, 16 bytes each
[[maybe_unused]] constexpr float kLog2E = 1.4426950408889634f;

#ifdef __CUDACC__

// What a lane holds of a head: elements 2 lane, 2 lane + 1, and those half a head further.
struct Quad { float low[2], high[2]; };

__device__ inline Quad quad_of(const void* from, bool is_bf16, int lane) {
  if (is_bf16) {
    const uint32_t* words = static_cast<const uint32_t*>(from);
    const uint32_t low = words[lane], high = words[lane + kHalf / 2];
    return {{__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000u)}, {__uint_as_float(high << 16), __uint_as_float(high & 0xffff0000u)}};
  }
  const float* values = static_cast<const float*>(from);
  return {{values[2 * lane], values[2 * lane + 1]}, {values[2 * lane + kHalf], values[2 * lane + 1 + kHalf]}};
}

// A head, of which each lane brings words `lane` and `lane + 32`, normed by its weight if it has one, and rotated; as F32 numbers that are BF16.
__device__ inline void turn_head(uint32_t low, uint32_t high, bool is_normed, const Quad& w, float eps, const float2& cos, const float2& sin, int lane,
                                 float* to) {
  Quad z = {{__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000u)}, {__uint_as_float(high << 16), __uint_as_float(high & 0xffff0000u)}};
  if (is_normed) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) squares = fmaf(z.low[i], z.low[i], fmaf(z.high[i], z.high[i], squares));
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(kDim) + eps);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      z.low[i] = w.low[i] * (z.low[i] * scale);
      z.high[i] = w.high[i] * (z.high[i] * scale);
    }
  }
  const float c[2] = {cos.x, cos.y}, s[2] = {sin.x, sin.y};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    to[2 * lane + i] = to_float(from_float<Bf16>(fmaf(-z.high[i], s[i], z.low[i] * c[i])));
    to[2 * lane + i + kHalf] = to_float(from_float<Bf16>(fmaf(z.low[i], s[i], z.high[i] * c[i])));
  }
}

// A running softmax over keys, for the queries of a group; a lane holds 8 of the head's elements.
template <int kGroup> struct Running {
  float most[kGroup], sum[kGroup], o[kGroup][8];

  __device__ void start() {
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
      most[r] = -INFINITY;
      sum[r] = 0;
#pragma unroll
      for (int e = 0; e < 8; ++e) o[r][e] = 0;
    }
  }
  // Keys whose bit in `seen` is not set do not count.
  template <int kCount> __device__ void take(const float (&q)[kGroup][8], const Packed<Bf16, 8> (&keys)[kCount], const Packed<Bf16, 8> (&values)[kCount], unsigned seen) {
    float p[kGroup][kCount];
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
      const Lanes<8> key = unpack(keys[b]);
#pragma unroll
      for (int r = 0; r < kGroup; ++r) {
        float dot = 0;
#pragma unroll
        for (int e = 0; e < 8; ++e) dot = fmaf(q[r][e], key[e], dot);
        p[r][b] = dot;
      }
    }
#pragma unroll
    for (int apart = kLanes / 2; apart > 0; apart /= 2)
#pragma unroll
      for (int b = 0; b < kCount; ++b)
#pragma unroll
        for (int r = 0; r < kGroup; ++r) p[r][b] += __shfl_xor_sync(kAllLanes, p[r][b], apart);
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
      float now = most[r];
#pragma unroll
      for (int b = 0; b < kCount; ++b) {
        if (!(seen >> b & 1)) p[r][b] = -INFINITY;
        now = fmaxf(now, p[r][b]);
      }
      const float base = now == -INFINITY ? 0.0f : now;
      const float shrink = exp2f(most[r] - base);
      most[r] = now;
      sum[r] *= shrink;
#pragma unroll
      for (int e = 0; e < 8; ++e) o[r][e] *= shrink;
#pragma unroll
      for (int b = 0; b < kCount; ++b) {
        p[r][b] = exp2f(p[r][b] - base);
        sum[r] += p[r][b];
      }
    }
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
      const Lanes<8> value = unpack(values[b]);
#pragma unroll
      for (int r = 0; r < kGroup; ++r)
#pragma unroll
        for (int e = 0; e < 8; ++e) o[r][e] = fmaf(p[r][b], value[e], o[r][e]);
    }
  }
};

#endif

}  // namespace vltune::cuda
