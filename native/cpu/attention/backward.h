// The gradients of one head over one sequence in one pass: for each block of queries and of keys, the weights P come
// back from the stored lse, and five products give dQ, dK and dV. dK and dV of the sequence are summed in `dk` and `dv`
// by the one thread that has this head, in the order of the blocks: no atomics, and the same bits with any number of
// threads.
#pragma once
#include "forward.h"

namespace vltune::cpu::VLTUNE_ISA::attn {

struct BackwardScratch {
  float q_transposed[kMaxHeadDim * kTileStride];
  float do_transposed[kMaxHeadDim * kTileStride];
  float q[kQueries * kRowStride];
  float d_o[kQueries * kRowStride];
  float dq[kQueries * kRowStride];
  float k[kKeys * kRowStride];
  float v[kKeys * kRowStride];
  float p[kKeys * kTileStride];   // S, then P
  float ds[kKeys * kTileStride];  // dP, then dS
  float lse[kQueries], delta[kQueries];
};

// p: S^T -> P^T = exp(scale * S - lse);  ds: dP^T -> dS^T = scale * P (dP - delta);  0 where masked
inline void softmax_backward_tile(const Mask2d& mask, float scale, const float* lse, const float* delta, float* p,
                                  float* ds) {
  const Vec factor = broadcast(scale), to_base_2 = broadcast(scale * kLog2E), lanes = lane_numbers();
  for (int q = 0; q < mask.queries; q += kLanes) {
    const Vec minus_lse = load(lse + q) * broadcast(-kLog2E), row_sum = load(delta + q);
    const int whole = mask.keys_seen(q), seen = mask.keys_seen(q + kLanes - 1);
    const auto weights = [&](int at) { return power_of_two(fma(load(p + at), to_base_2, minus_lse)); };
    const auto put = [&](int at, Vec weight) {
      store(p + at, weight);
      store(ds + at, (load(ds + at) - row_sum) * (weight * factor));
    };
    int key = 0, at = q;
    for (; key < whole; ++key, at += kTileStride) put(at, weights(at));
    for (; key < seen; ++key, at += kTileStride)
      put(at, select(less(lanes, broadcast(static_cast<float>(key + mask.offset - q))), zero(), weights(at)));
    for (; key < mask.keys; ++key, at += kTileStride) {
      store(p + at, zero());
      store(ds + at, zero());
    }
  }
}

// One block of queries against all the keys of its sequence that it sees. Pointers are to the head's first element: of
// the block's first query (q, o, d_o, dq, lse) and of the sequence's first key (k, v); first is the block's place in
// the sequence. dk and dv, F32 [keys][sum_stride], are added to.
template <class D>
void backward_block(int queries, int h, float scale, bool causal, int64_t first, int64_t keys, const D* q, const D* o,
                    const D* d_o, const float* lse, int64_t q_stride, const D* k, const D* v, int64_t kv_stride, D* dq,
                    float* dk, float* dv, int64_t sum_stride, BackwardScratch& s) {
  copy_rows(queries, h, q, q_stride, s.q, kRowStride);
  copy_rows(queries, h, d_o, q_stride, s.d_o, kRowStride);
  transpose_rows(queries, h, s.q, kRowStride, s.q_transposed, kTileStride);
  transpose_rows(queries, h, s.d_o, kRowStride, s.do_transposed, kTileStride);
  copy_rows(queries, h, o, q_stride, s.dq, kRowStride);
  for (int i = 0; i < kQueries; ++i) {
    Vec sum = zero();
    if (i < queries)
      for (int d = 0; d < h; d += kLanes)
        sum = fma(load(s.d_o + i * kRowStride + d), load(s.dq + i * kRowStride + d), sum);
    s.delta[i] = reduce_add(sum);
    s.lse[i] = i < queries ? lse[i] : 0;
  }
  const int64_t end = causal ? std::min(keys, first + queries) : keys;
  const int h_vectors = vectors(h);
  const auto all_of_h = [&](int, int) { return Range{0, h_vectors}; };
  for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
    const int count = static_cast<int>(std::min<int64_t>(kKeys, end - k0));
    const int offset = causal && k0 + count > first ? static_cast<int>(k0 - first) : -kKeys;
    const Mask2d mask{queries, count, offset};
    copy_rows(count, h, k + k0 * kv_stride, kv_stride, s.k, kRowStride);
    copy_rows(count, h, v + k0 * kv_stride, kv_stride, s.v, kRowStride);
    score_tile(mask, h, s.k, s.q_transposed, s.p);
    score_tile(mask, h, s.v, s.do_transposed, s.ds);
    softmax_backward_tile(mask, scale, s.lse, s.delta, s.p, s.ds);
    product<1, kTileStride>(
        queries, s.ds, s.k, kRowStride, s.dq, kRowStride, k0 == 0 ? Start::kZero : Start::kAdd, nullptr,
        [&](int, int r_end) { return Range{0, mask.keys_seen(r_end - 1)}; }, all_of_h);
    const auto queries_that_see = [&](int key, int) { return Range{mask.first_query(key), queries}; };
    product<kTileStride, 1>(count, s.p, s.d_o, kRowStride, dv + k0 * sum_stride, sum_stride, Start::kAdd, nullptr,
                            queries_that_see, all_of_h);
    product<kTileStride, 1>(count, s.ds, s.q, kRowStride, dk + k0 * sum_stride, sum_stride, Start::kAdd, nullptr,
                            queries_that_see, all_of_h);
  }
  store_rows(queries, h, s.dq, kRowStride, dq, q_stride);
}

}  // namespace vltune::cpu::VLTUNE_ISA::attn
