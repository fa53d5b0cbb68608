#include "../ops/embedding_bag.h"

#include "../ops/embedding_bag_checks.h"
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256, kTogether = 4;  // rows of the table on their way at once: the taps of bilinear interpolation

// A thread takes N columns of a bag. The table is small enough for the second cache.
template <int N, class W, class D>
__global__ void __launch_bounds__(kThreads) sum_bags(const int32_t* ids, const float* weights, const W* table, const D* x, D* y, int64_t n,
                                                     int taps, int64_t words, int64_t d, Fault* fault) {
  const unsigned pieces = static_cast<unsigned>(d / N), i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t t = i / pieces, column = static_cast<int64_t>(i % pieces) * N;
  if (t >= n) return;
  Lanes<N> sum = {};
  if (x) sum = load_lanes<N>(x + t * d + column);
  for (int first = 0; first < taps; first += kTogether) {
    Packed<W, N> rows[kTogether];
    float share[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      share[k] = 0;
      rows[k] = {};
      if (first + k >= taps) continue;
      const int64_t tap = t * taps + first + k;
      const int32_t id = __ldg(ids + tap);
      if (id < 0 || id >= words) {
        if (column == 0) report_fault(fault, FaultKind::BagId, tap, id, words);
        continue;
      }
      share[k] = __ldg(weights + tap);
      rows[k] = load<N, Use::Constant>(table + id * d + column);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const Lanes<N> row = unpack(rows[k]);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] = fmaf(share[k], row[j], sum[j]);
    }
  }
  store_lanes(y + t * d + column, sum);
}

// Block w sums the gradient of word w: it looks through all taps for it, kThreads at a time, notes those it finds in their order, and
// adds them to its columns. So nothing is sorted, no two blocks write the same row, and the order of the sums is that of the taps.
template <int N, class D>
__global__ void __launch_bounds__(kThreads) table_gradient(const int32_t* ids, const float* weights, const D* dy, float* dtable,
                                                           int64_t count, int taps, int64_t words, int64_t d, Fault* fault) {
  __shared__ int64_t places[kThreads];
  __shared__ int found[kThreads / kWarp];
  const int64_t word = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * N;
  const bool active = column < d;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float* to = dtable + word * d + column;
  Lanes<N> sum;
  bool touched = false;
  for (int64_t first = 0; first < count; first += kThreads) {
    const int64_t tap = first + threadIdx.x;
    const int32_t id = tap < count ? ids[tap] : -1;
    if (word == 0 && blockIdx.y == 0 && tap < count && (id < 0 || id >= words)) report_fault(fault, FaultKind::BagId, tap, id, words);
    const bool same = tap < count && id == word;
    const unsigned votes = __ballot_sync(kAllLanes, same);
    if (lane == 0) found[warp] = __popc(votes);
    if (!__syncthreads_or(same)) continue;
    int before = 0, all = 0;
    for (int i = 0; i < kThreads / kWarp; ++i) {
      if (i == warp) before = all;
      all += found[i];
    }
    if (same) places[before + __popc(votes & ((1u << lane) - 1))] = tap;
    __syncthreads();
    if (active) {
      if (!touched) sum = load_lanes<N>(to);
      touched = true;
#pragma unroll 4
      for (int i = 0; i < all; ++i) {
        const float share = weights[places[i]];
        const Lanes<N> more = load_lanes<N>(dy + places[i] / taps * d + column);
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] = fmaf(share, more[k], sum[k]);
      }
    }
    __syncthreads();  // before `found` and `places` are written again
  }
  if (touched) store_lanes(to, sum);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void embedding_bag(const OpCall& call) {
  const Tensor &ids = input(call, 0), &weights = input(call, 1), &table = input(call, 2), &x = input(call, 3), &y = output(call, 0);
  check_embedding_bag(call, ids, weights, table, x, y);
  const int64_t n = ids.dim(0), taps = ids.dim(1), d = table.dim(1);
  if (n == 0 || d == 0) return;
  with_float(table.dtype, [&](auto table_tag) {
    with_activation(y.dtype, [&](auto y_tag) {
      using W = decltype(table_tag);
      using D = decltype(y_tag);
      auto launch = [&](auto width) {
        constexpr int N = decltype(width)::value;
        const int64_t blocks = ceil_div(n * (d / N), kThreads);
        sum_bags<N><<<static_cast<unsigned>(blocks), kThreads, 0, stream_of(call)>>>(
            ids.as<int32_t>(), weights.as<float>(), table.as<W>(), x.present() ? x.as<D>() : nullptr, y.as<D>(), n,
            static_cast<int>(taps), table.dim(0), d, call.fault);
        check_launch(call);
      };
      constexpr int kWide = kVector<std::conditional_t<(sizeof(W) > sizeof(D)), W, D>>;  // the wider: its accesses lie side by side
      if (d % kWide == 0 && all_aligned(kVectorBytes, table.data, y.data, x.present() ? x.data : nullptr))
        launch(std::integral_constant<int, kWide>{});
      else launch(std::integral_constant<int, 1>{});
    });
  });
}

void embedding_bag_backward(const OpCall& call) {
  const Tensor &ids = input(call, 0), &weights = input(call, 1), &dy = input(call, 2), &dtable = output(call, 0);
  check_embedding_bag_backward(call, ids, weights, dy, dtable);
  const int64_t n = ids.dim(0), taps = ids.dim(1), d = dy.dim(1), words = dtable.dim(0);
  if (n == 0 || taps == 0 || d == 0 || words == 0) return;
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    auto launch = [&](auto width) {
      constexpr int N = decltype(width)::value;
      const dim3 blocks(static_cast<unsigned>(words), static_cast<unsigned>(ceil_div(d, kThreads * N)));
      table_gradient<N><<<blocks, kThreads, 0, stream_of(call)>>>(ids.as<int32_t>(), weights.as<float>(), dy.as<D>(), dtable.as<float>(),
                                                                  n * taps, static_cast<int>(taps), words, d, call.fault);
      check_launch(call);
    };
    constexpr int kWide = kVector<float>;
    if (d % kWide == 0 && all_aligned(kVectorBytes, dy.data, dtable.data)) launch(std::integral_constant<int, kWide>{});
    else launch(std::integral_constant<int, 1>{});
  });
}

}  // namespace vltune::cuda
