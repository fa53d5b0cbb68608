// A few queries against a long cache: bound by reading it. Each thread takes a stretch of the cache of one key/value
// head and reads it once for all queries of that head's group; the stretches' results are then put together in their
// order.
#pragma once
#include <math.h>

#include <limits>

#include "tile.h"

namespace vltune::cpu::VLTUNE_ISA::attn {

constexpr int kStretch = 256;    // keys of one task: fixed, so that the result is the same with any number of threads
constexpr int kDecodeRows = 16;  // queries times heads of a group that take this way
constexpr int kDecodeKeys = 32;  // keys whose scores are held at a time

// The softmax over a stretch for one query: sum exp(score - maximum), and the sum of values with these weights.
struct Partial {
  float maximum, sum;
  float o[kMaxHeadDim];
};

// o[0 .. Vectors * kLanes] += sum over keys of weight[key] * v[key]
template <int Vectors, class D>
inline void add_values(int keys, const float* weights, const D* v, int64_t stride, float* o) {
  Vec sum[Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) sum[i] = load(o + i * kLanes);
  for (int key = 0; key < keys; ++key, v += stride) {
    const Vec weight = broadcast(weights[key]);
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) sum[i] = fma(weight, load(v + i * kLanes), sum[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) store(o + i * kLanes, sum[i]);
}

template <class D>
inline void add_all_values(int keys, int h, const float* weights, const D* v, int64_t stride, float* o) {
  int d = 0;
  for (; d + 8 * kLanes <= h; d += 8 * kLanes) add_values<8>(keys, weights, v + d, stride, o + d);
  for (; d + 4 * kLanes <= h; d += 4 * kLanes) add_values<4>(keys, weights, v + d, stride, o + d);
  for (; d + kLanes <= h; d += kLanes) add_values<1>(keys, weights, v + d, stride, o + d);
  if (d == h) return;
  Vec sum = load(o + d);
  for (int key = 0; key < keys; ++key) sum = fma(broadcast(weights[key]), load_n(v + key * stride + d, h - d), sum);
  store(o + d, sum);
}

template <class D>
inline float dot(int h, const float* q, const D* k) {
  Vec even = zero(), odd = zero();
  int d = 0;
  for (; d + 2 * kLanes <= h; d += 2 * kLanes) {
    even = fma(load(q + d), load(k + d), even);
    odd = fma(load(q + d + kLanes), load(k + d + kLanes), odd);
  }
  for (; d + kLanes <= h; d += kLanes) even = fma(load(q + d), load(k + d), even);
  if (d < h) odd = fma(load_n(q + d, h - d), load_n(k + d, h - d), odd);
  return reduce_add(even + odd);
}

// q: F32 [rows][kMaxHeadDim], already multiplied by the scale. Row r sees the first seen[r] of `keys` keys.
template <class D>
void decode_stretch(int rows, int h, const float* q, int keys, const int* seen, const D* k, const D* v, int64_t stride,
                    Partial* partial) {
  float scores[kDecodeRows][kDecodeKeys];
  for (int r = 0; r < rows; ++r) {
    partial[r].maximum = -std::numeric_limits<float>::infinity();
    partial[r].sum = 0;
    for (int d = 0; d < h; d += kLanes) store(partial[r].o + d, zero());
  }
  for (int k0 = 0; k0 < keys; k0 += kDecodeKeys) {
    const int count = std::min(kDecodeKeys, keys - k0);
    for (int key = 0; key < count; ++key)
      for (int r = 0; r < rows; ++r) scores[r][key] = dot(h, q + r * kMaxHeadDim, k + (k0 + key) * stride);
    for (int r = 0; r < rows; ++r) {
      const int own = std::min(count, seen[r] - k0);
      if (own <= 0) continue;
      Partial& state = partial[r];
      float most = state.maximum;
      for (int key = 0; key < own; ++key) most = std::max(most, scores[r][key]);
      for (int key = own; key < kDecodeKeys; ++key) scores[r][key] = -std::numeric_limits<float>::infinity();
      Vec total = zero();
      for (int key = 0; key < own; key += kLanes) {
        const Vec p = exp(load(scores[r] + key) - broadcast(most));
        store(scores[r] + key, p);
        total = total + p;
      }
      if (most > state.maximum) {
        const float shrink = reduce_max(exp(broadcast(state.maximum - most)));
        state.sum *= shrink;
        for (int d = 0; d < h; d += kLanes) store(state.o + d, load(state.o + d) * broadcast(shrink));
        state.maximum = most;
      }
      state.sum += reduce_add(total);
      add_all_values(own, h, scores[r], v + k0 * stride, stride, state.o);
    }
  }
}

// The stretches of one query, put together. partial[i * apart] is stretch i's.
template <class D>
void decode_combine(int stretches, int h, Partial* partial, int64_t apart, D* o) {
  float most = partial->maximum;
  for (int i = 1; i < stretches; ++i) most = std::max(most, partial[i * apart].maximum);
  alignas(64) float result[kMaxHeadDim];
  for (int d = 0; d < h; d += kLanes) store(result + d, zero());
  float sum = 0;
  for (int i = 0; i < stretches; ++i) {
    const Partial& part = partial[i * apart];
    const Vec weight = exp(broadcast(part.maximum - most));
    sum += reduce_max(weight) * part.sum;
    for (int d = 0; d < h; d += kLanes) store(result + d, fma(weight, load(part.o + d), load(result + d)));
  }
  const Vec inverse = broadcast(1.0f / sum);
  for (int d = 0; d < h; d += kLanes) store(result + d, load(result + d) * inverse);
  store_rows(1, h, result, kMaxHeadDim, o, kMaxHeadDim);
}

}  // namespace vltune::cpu::VLTUNE_ISA::attn
