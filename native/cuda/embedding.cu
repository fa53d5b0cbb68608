#include "../ops/embedding.h"

#include "../ops/embedding_checks.h"
#include "rows.cuh"

namespace vltune::cuda {
namespace {

constexpr int kGradThreads = 256, kScan = 8;  // ids a thread looks at between barriers

// Block t sums the gradient rows of one word into columns blockIdx.y * kGradThreads * N and on, if t is the word's first place: it
// finds the other places itself, in ascending order, so nothing is sorted and no two blocks write the same row.
template <int N, class D>
__global__ void __launch_bounds__(kGradThreads) embedding_gradient(const int32_t* ids, const D* dy, float* dweight, int64_t n,
                                                                   int64_t words, int64_t d, Fault* fault) {
  __shared__ int places[kGradThreads], found[kGradThreads / kWarp];
  const int64_t t = blockIdx.x;
  const int32_t id = ids[t];
  if (id < 0 || id >= words) {
    if (threadIdx.x == 0 && blockIdx.y == 0) report_fault(fault, FaultKind::Id, t, id, words);
    return;
  }
  // Whether any thread sees the word among kScan * kGradThreads ids from `first` on.
  auto seen = [&](int64_t first, int64_t end) {
    bool same = false;
#pragma unroll
    for (int k = 0; k < kScan; ++k) {
      const int64_t i = first + k * kGradThreads + threadIdx.x;
      same |= i < end && ids[i] == id;
    }
    return __syncthreads_or(same);
  };
  for (int64_t first = 0; first < t; first += kScan * kGradThreads)  // a common word ends this soon
    if (seen(first, t)) return;

  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kGradThreads + threadIdx.x) * N;
  const bool active = column < d;
  float* to = dweight + id * d + column;
  Lanes<N> sum;
  if (active) sum = load_lanes<N>(to);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int64_t first = t; first < n; first += kGradThreads) {
    while ((first - t) % (kScan * kGradThreads) == 0 && first < n && !seen(first, n)) first += kScan * kGradThreads;
    const bool same = first + threadIdx.x < n && ids[first + threadIdx.x] == id;
    const unsigned votes = __ballot_sync(kAllLanes, same);
    if (lane == 0) found[warp] = __popc(votes);
    if (!__syncthreads_or(same)) continue;
    int before = 0, count = 0;
    for (int i = 0; i < kGradThreads / kWarp; ++i) {
      if (i == warp) before = count;
      count += found[i];
    }
    if (same) places[before + __popc(votes & ((1u << lane) - 1))] = threadIdx.x;
    __syncthreads();
    if (active) {
#pragma unroll 8
      for (int i = 0; i < count; ++i) {
        const Lanes<N> more = load_lanes<N>(dy + (first + places[i]) * d + column);
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += more[k];
      }
    }
    __syncthreads();  // before `found` and `places` are written again
  }
  if (active) store_lanes(to, sum);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void embedding(const OpCall& call) {
  const Tensor &ids = input(call, 0), &weight = input(call, 1), &y = output(call, 0);
  check_embedding(call, ids, weight, y);
  const int64_t n = ids.dim(0), d = weight.dim(1);
  with_float(weight.dtype, [&](auto weight_tag) {
    with_activation(y.dtype, [&](auto y_tag) {
      using W = decltype(weight_tag);
      using D = decltype(y_tag);
      launch_gather_rows(call, weight.as<W>(), ids.as<int32_t>(), y.as<D>(), n, weight.dim(0), d, FaultKind::Id);
    });
  });
}

void embedding_backward(const OpCall& call) {
  const Tensor &ids = input(call, 0), &dy = input(call, 1), &dweight = output(call, 0);
  check_embedding_backward(call, ids, dy, dweight);
  const int64_t n = ids.dim(0), d = dy.dim(1);
  if (n == 0 || d == 0) return;
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    auto launch = [&](auto width) {
      constexpr int N = decltype(width)::value;
      const dim3 blocks(static_cast<unsigned>(n), static_cast<unsigned>(ceil_div(d, kGradThreads * N)));
      embedding_gradient<N><<<blocks, kGradThreads, 0, stream_of(call)>>>(ids.as<int32_t>(), dy.as<D>(), dweight.as<float>(), n,
                                                                         dweight.dim(0), d, call.fault);
    };
    constexpr int kWide = kVector<float>;
    if (d % kWide == 0 && all_aligned(kVectorBytes, dy.data, dweight.data)) launch(std::integral_constant<int, kWide>{});
    else launch(std::integral_constant<int, 1>{});
    check_launch(call);
  });
}

}  // namespace vltune::cuda
