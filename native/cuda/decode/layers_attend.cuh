// layers_one's kernel: attention over the cache, by the warps that multiply.
#pragma once
#include "layers_multiply.cuh"

namespace vltune::cuda::one_token {

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)

// A head's blocks look at a stretch of the cache each, and put their parts together, each for some of the elements.
template <int kGroup> __device__ void attend(const Consumer& with, const Stretch& stretch, int past) {
  if (!stretch.is_one) return;
  const Job& job = with.job;
  const Layer& own = with.own();
  const int lane = with.lane, warp = with.warp;
  const int part = lane % kLanes, way = threadIdx.x / kLanes, kv_head = stretch.kv_head, rank = stretch.rank, splits = 1 << job.splits_log2;
  const int begin = stretch.begin, end = stretch.end;
  constexpr int kBatch = 4;  // keys of a lane on the way at once
  float* heads = with.place<float>(job.at.heads);
  Bf16 *k_cache = own.k_cache + kv_head * kDim, *v_cache = own.v_cache + kv_head * kDim;
  Packed<Bf16, 8> keys[kBatch], values[kBatch];
  unsigned seen = 0;
  const auto fetch = [&](int first) {
    seen = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int key = first + b * kWays;
      keys[b].words[0] = values[b].words[0] = make_uint4(0, 0, 0, 0);
      if (key >= end) continue;
      seen |= 1u << b;
      keys[b].words[0] = __ldcg(reinterpret_cast<const uint4*>(k_cache + static_cast<int64_t>(key) * job.keys) + part);
      values[b].words[0] = __ldcg(reinterpret_cast<const uint4*>(v_cache + static_cast<int64_t>(key) * job.keys) + part);
    }
  };
  fetch(begin + way);
  const bool is_newest = rank == splits - 1;  // whose stretch the new key ends
  if (warp < kGroup || (warp == kGroup && is_newest)) {
    const bool is_query = warp < kGroup;
    const void* norm = is_query ? own.q_norm : own.k_norm;
    const Quad weight = norm ? quad_of(norm, is_query ? own.q_is_bf16 : own.k_is_bf16, lane) : Quad{};
    const float2 cos = __ldg(reinterpret_cast<const float2*>(job.cos) + lane), sin = __ldg(reinterpret_cast<const float2*>(job.sin) + lane);
    const Word* from = job.qkv + (is_query ? (kv_head * kGroup + warp) * kHalf : (job.inner + kv_head * kDim) / 2);
    exchange::Wanted<2, 1> wanted;
    wanted.look(from + lane, kWarp, 2);
    wanted.receive(from + lane, kWarp, 2, with.now());
    turn_head(wanted.value(0), wanted.value(1), norm != nullptr, weight, job.eps, cos, sin, lane, heads + warp * kDim);
  } else if (warp == kGroup + 1 && is_newest) {
    const Word* from = job.qkv + (job.inner + job.keys + kv_head * kDim) / 2;
    uint32_t* to = with.place<uint32_t>(job.at.new_value);
    exchange::Wanted<2, 1> wanted;
    wanted.look(from + lane, kWarp, 2);
    wanted.receive(from + lane, kWarp, 2, with.now());
    to[lane] = wanted.value(0);
    to[lane + kWarp] = wanted.value(1);
  }
  consumer_sync();

  float q[kGroup][8];
#pragma unroll
  for (int r = 0; r < kGroup; ++r)
#pragma unroll
    for (int e = 0; e < 8; ++e) q[r][e] = heads[r * kDim + part * 8 + e] * (job.scale * kLog2E);
  Running<kGroup> running;
  running.start();
  for (int first = begin;;) {
    running.take(q, keys, values, seen);
    first += kWays * kBatch;
    if (first >= end) break;
    fetch(first + way);
  }
  if (is_newest && warp == 0) {  // the new key, by the first half of a warp
    Lanes<8> key;
#pragma unroll
    for (int e = 0; e < 8; ++e) key[e] = heads[kGroup * kDim + part * 8 + e];
    const Packed<Bf16, 8> new_key[1] = {pack<Bf16>(key)}, new_value[1] = {load<8>(with.place<Bf16>(job.at.new_value) + part * 8)};
    running.take(q, new_key, new_value, way == 0);
    if (way == 0) {
      store(k_cache + static_cast<int64_t>(past) * job.keys + part * 8, new_key[0]);
      store(v_cache + static_cast<int64_t>(past) * job.keys + part * 8, new_value[0]);
    }
  }

  // The two keys of a warp, the warps, the blocks.
  float* sums = with.place<float>(job.at.scratch);       // [warp][query][element]
  float2* states = with.place<float2>(job.at.states);    // [warp][query]
#pragma unroll
  for (int r = 0; r < kGroup; ++r) {
    const float most = fmaxf(running.most[r], __shfl_xor_sync(kAllLanes, running.most[r], kLanes));
    const float shrink = most == -INFINITY ? 0.0f : exp2f(running.most[r] - most);
    running.sum[r] *= shrink;
    running.sum[r] += __shfl_xor_sync(kAllLanes, running.sum[r], kLanes);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      running.o[r][e] *= shrink;
      running.o[r][e] += __shfl_xor_sync(kAllLanes, running.o[r][e], kLanes);
    }
    if (lane < kLanes) {
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[(warp * kGroup + r) * kDim + part * 8 + e] = running.o[r][e];
      if (lane == 0) states[warp * kGroup + r] = make_float2(most, running.sum[r]);
    }
  }
  consumer_sync();
  // A block's part for another: of each query its share of the elements, the maximum and the sum.
  const int log_share = kLogDim - job.splits_log2, share = 1 << log_share, of_query = share + 2, of_part = kGroup * of_query;
  Word* parts = job.parts + static_cast<int64_t>(kv_head) * splits * splits * of_part;
  for (int i = threadIdx.x; i < kGroup * kDim; i += kConsumers) {
    const int r = i / kDim, d = i % kDim;
    float most = states[r].x, total = 0, value = 0;
#pragma unroll
    for (int w = 1; w < kConsumerWarps; ++w) most = fmaxf(most, states[w * kGroup + r].x);
    const float base = most == -INFINITY ? 0.0f : most;
#pragma unroll 4
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float shrink = exp2f(states[w * kGroup + r].x - base);
      total = fmaf(shrink, states[w * kGroup + r].y, total);
      value = fmaf(shrink, sums[(w * kGroup + r) * kDim + d], value);
    }
    const auto place_of = [&](int to) { return parts + (to * splits + rank) * of_part + r * of_query; };
    exchange::send(place_of(d >> log_share) + (d & (share - 1)), __float_as_uint(value), with.now());
    if (d < splits) {
      exchange::send(place_of(d) + share, __float_as_uint(most), with.now());
      exchange::send(place_of(d) + share + 1, __float_as_uint(total), with.now());
    }
  }
  float* received = with.place<float>(job.at.parts);
  constexpr int kParts = (kGroup * (kDim + 2 * kMostSplits) + kConsumers - 1) / kConsumers;
  exchange::Wanted<kParts, 1> wanted;
  const Word* from = parts + rank * splits * of_part + threadIdx.x;
  const int count = Consumer::own_places(0, splits * of_part);
  wanted.look(from, kConsumers, count);
  wanted.receive(from, kConsumers, count, with.now());
#pragma unroll
  for (int j = 0; j < kParts; ++j)
    if (j < count) received[threadIdx.x + j * kConsumers] = __uint_as_float(wanted.value(j));
  consumer_sync();
  // An element by as many neighbouring lanes as there are splits.
  for (int i = threadIdx.x; i < kGroup * kDim; i += kConsumers) {
    const int element = i >> job.splits_log2, c = i & (splits - 1), r = element >> log_share, d = element & (share - 1);
    const float* query = received + c * of_part + r * of_query;
    float most = query[share];
    for (int apart = splits / 2; apart > 0; apart /= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, apart));
    const float shrink = exp2f(query[share] - most);
    float total = shrink * query[share + 1], value = shrink * query[d];
    for (int apart = splits / 2; apart > 0; apart /= 2) {
      total += __shfl_xor_sync(kAllLanes, total, apart);
      value += __shfl_xor_sync(kAllLanes, value, apart);
    }
    const float o = value / total, other = __shfl_xor_sync(kAllLanes, o, splits);
    if (c == 0 && d % 2 == 0)
      exchange::send(job.attention + ((kv_head * kGroup + r) * kDim + rank * share + d) / 2, pack_pair<Bf16>(o, other), with.now());
  }
}

#endif

}  // namespace vltune::cuda::one_token
