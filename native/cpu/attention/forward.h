// One block of queries of one head against all keys it may see, block by block with a running softmax (Milakov 2018,
// Dao 2023).
#pragma once
#include <math.h>

#include <limits>

#include "tile.h"

namespace vltune::cpu::VLTUNE_ISA::attn {

// Which queries of a tile see a key: query i sees key j if j + offset <= i. A tile that is not causal has offset
// -kKeys.
struct Mask2d {
  int queries, keys, offset;

  int first_query(int key) const { return std::clamp(key + offset, 0, queries); }
  int keys_seen(int query) const { return std::clamp(query - offset + 1, 0, keys); }
};

struct ForwardScratch {
  float q_transposed[kMaxHeadDim * kTileStride];
  float k[kKeys * kRowStride];
  float v[kKeys * kRowStride];
  float scores[kKeys * kTileStride];
  float o[kQueries * kRowStride];
  float maximum[kQueries], sum[kQueries], rescale[kQueries];
};

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// 2^x for x <= 0, within 1 ulp; NaN stays NaN. Softmax is taken to base 2, with log2(e) inside the scale: half of exp's
// work.
inline Vec power_of_two(Vec x) {
  x = max(broadcast(-150.0f), x);  // in this order NaN passes; 2^-150 rounds to 0
  const Vec n = round_even(x), r = x - n;
  // Minimax on [-1/2, 1/2], relative error 2e-9.
  Vec p = fma(broadcast(0x1.41fbbep-13f), r, broadcast(0x1.5f3e54p-10f));
  p = fma(p, r, broadcast(0x1.3b2d4cp-7f));
  p = fma(p, r, broadcast(0x1.c6aee8p-5f));
  p = fma(p, r, broadcast(0x1.ebfbdcp-3f));
  p = fma(p, r, broadcast(0x1.62e430p-1f));
  p = fma(p, r, broadcast(1.0f));
  return scale_by_power(p, n);
}

inline Vec lane_numbers() {
  alignas(64) static constexpr float kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kNumbers);
}

// scores[key][query] = K Q^T for the pairs that the mask leaves (and some beside them)
inline void score_tile(const Mask2d& mask, int h, const float* k, const float* q_transposed, float* scores) {
  product<kRowStride, 1>(
      mask.keys, k, q_transposed, kTileStride, scores, kTileStride, Start::kZero, nullptr,
      [&](int, int) { return Range{0, h}; },
      [&](int begin, int) { return Range{mask.first_query(begin) / kLanes, vectors(mask.queries)}; });
}

// Replaces scores by exp(scale * score - maximum), 0 where masked, and brings maximum, sum and rescale (what former
// sums and outputs are to be multiplied by) up to date.
inline void softmax_tile(const Mask2d& mask, float scale, float* scores, float* maximum, float* sum, float* rescale) {
  const Vec factor = broadcast(scale * kLog2E), lanes = lane_numbers();
  const Vec minus_infinity = broadcast(-std::numeric_limits<float>::infinity());
  for (int q = 0; q < mask.queries; q += kLanes) {
    float* column = scores + q;
    // Keys up to whole are seen by all lanes, keys up to seen by some.
    const int whole = mask.keys_seen(q), seen = mask.keys_seen(q + kLanes - 1);
    const auto hidden = [&](int key) { return less(lanes, broadcast(static_cast<float>(key + mask.offset - q))); };
    Vec most = minus_infinity, other = minus_infinity;
    int key = 0;
    for (; key + 1 < whole; key += 2) {
      most = max(most, load(column + key * kTileStride));
      other = max(other, load(column + (key + 1) * kTileStride));
    }
    for (; key < whole; ++key) most = max(most, load(column + key * kTileStride));
    for (; key < seen; ++key) most = max(most, select(hidden(key), minus_infinity, load(column + key * kTileStride)));
    const Vec before = load(maximum + q), now = max(before, max(most, other) * factor), negated = zero() - now;
    Vec total = zero();
    for (key = 0; key < whole; ++key) {
      const Vec p = power_of_two(fma(load(column + key * kTileStride), factor, negated));
      store(column + key * kTileStride, p);
      total = total + p;
    }
    for (; key < seen; ++key) {
      const Vec p = select(hidden(key), zero(), power_of_two(fma(load(column + key * kTileStride), factor, negated)));
      store(column + key * kTileStride, p);
      total = total + p;
    }
    for (; key < mask.keys; ++key) store(column + key * kTileStride, zero());
    const Vec shrink = power_of_two(before - now);
    store(maximum + q, now);
    store(rescale + q, shrink);
    store(sum + q, fma(load(sum + q), shrink, total));
  }
}

// q, k, v, o: first element of the head, in the block's first query and in key 0. first: the key that query 0 stands
// at; with causal, query i sees the keys 0..first + i of `keys`. lse may be null.
template <class D>
void forward_block(int queries, int h, float scale, bool causal, int64_t first, int64_t keys, const D* q,
                   int64_t q_stride, const D* k, const D* v, int64_t kv_stride, D* o, float* lse, ForwardScratch& s) {
  transpose_operand(queries, h, q, q_stride, s.q_transposed, s.o);
  for (int i = 0; i < kQueries; ++i) {
    s.maximum[i] = -std::numeric_limits<float>::infinity();
    s.sum[i] = 0;
  }
  const int64_t end = causal ? std::min(keys, first + queries) : keys;
  for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
    const int count = static_cast<int>(std::min<int64_t>(kKeys, end - k0));
    const int offset = causal && k0 + count > first ? static_cast<int>(k0 - first) : -kKeys;
    const Mask2d mask{queries, count, offset};
    copy_rows(count, h, k + k0 * kv_stride, kv_stride, s.k, kRowStride);
    copy_rows(count, h, v + k0 * kv_stride, kv_stride, s.v, kRowStride);
    score_tile(mask, h, s.k, s.q_transposed, s.scores);
    softmax_tile(mask, scale, s.scores, s.maximum, s.sum, s.rescale);
    product<1, kTileStride>(
        queries, s.scores, s.v, kRowStride, s.o, kRowStride, k0 == 0 ? Start::kZero : Start::kScale, s.rescale,
        [&](int, int r_end) { return Range{0, mask.keys_seen(r_end - 1)}; },
        [&](int, int) { return Range{0, vectors(h)}; });
  }
  for (int i = 0; i < queries; ++i) {
    const Vec inverse = broadcast(1.0f / s.sum[i]);
    float* row = s.o + i * kRowStride;
    for (int d = 0; d < h; d += kLanes) store(row + d, load(row + d) * inverse);
    if (lse) lse[i] = s.maximum[i] * kLn2 + logf(s.sum[i]);
  }
  store_rows(queries, h, s.o, kRowStride, o, q_stride);
}

}  // namespace vltune::cpu::VLTUNE_ISA::attn
