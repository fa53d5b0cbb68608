// Norms: a row is held in the registers of kThreads threads, kHeldVectors vectors each, so memory is read once and written once. With
// kFull every thread has all its vectors. One warp can hold a short row: then a block takes several. Rows too long or not aligned go
// through loops of kLoopThreads threads that read them twice.
#pragma once
#include "vector.cuh"

namespace vltune::cuda {

constexpr int kHeldVectors = 2, kLoopThreads = 256, kShortRowBlock = 128;

// How rows of a length are held: kThreads is 32 (then the block's warps have rows of their own) or the block's size.
template <int kThreads_, bool kFull_> struct HeldRow {
  static constexpr int kThreads = kThreads_;
  static constexpr bool kFull = kFull_;
  static constexpr int kBlock = kThreads == kWarp ? kShortRowBlock : kThreads, kRows = kBlock / kThreads;  // of rows that stand alone

  static unsigned blocks(int64_t rows) { return static_cast<unsigned>(ceil_div(rows, kRows)); }
  __device__ static int64_t row() { return static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kThreads; }
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

template <class T, int N> using Held = Packed<T, N>[kHeldVectors];

// The part of a row of d elements that a thread holds, N to a vector.
template <class Row, int N> struct HeldPart {
  int first, d;

  __device__ explicit HeldPart(int d) : first(threadIdx.x % Row::kThreads * N), d(d) {}
  // body(k, i) for each vector k, element i of the row its first.
  template <class Body> __device__ void each(Body&& body) const {
#pragma unroll
    for (int k = 0; k < kHeldVectors; ++k)
      if (const int i = first + k * Row::kThreads * N; Row::kFull || i < d) body(k, i);
  }
  template <class T> __device__ void load(Held<T, N>& to, const T* row) const {
    each([&](int k, int i) { to[k] = cuda::load<N>(row + i); });
  }
};

// s = x (+ residual, rounded to D and stored in sum), of the row that begins at element `at`.
template <class Part, class D, int N>
__device__ inline void load_sum(const Part& part, Held<D, N>& s, const D* x, const D* residual, D* sum, int64_t at) {
  part.load(s, x + at);
  if (!residual) return;
  Held<D, N> more;
  part.load(more, residual + at);
  part.each([&](int k, int i) {
    Lanes<N> a = unpack(s[k]);
    a += unpack(more[k]);
    s[k] = pack<D>(a);
    store(sum + at + i, s[k]);
  });
}
// The same for one element, in F32.
template <class D> __device__ inline float sum_at(const D* x, const D* residual, D* sum, int64_t i) {
  const float v = to_float(x[i]);
  if (!residual) return v;
  sum[i] = from_float<D>(v + to_float(residual[i]));
  return to_float(sum[i]);
}

// What the gradient of a row reads; Stats is what the norm kept of it. dsum may be null.
template <class D, class Stats> struct HeldGradient {
  static constexpr int N = kVector<D>;
  Held<D, N> grad, x, more;
  Stats stats;

  template <class Part>
  __device__ void load(const Part& part, const D* dy, const D* s, const D* dsum, const Stats* all_stats, int64_t t) {
    const int d = part.d;
    part.each([&](int k, int i) {
      grad[k] = cuda::load<N>(dy + t * d + i);
      x[k] = cuda::load<N>(s + t * d + i);
    });
    if (dsum) part.load(more, dsum + t * d);
    stats = all_stats[t];
  }
};

// Rows t..end-1.
struct RowSpan { int64_t t, end; };
// Of n rows: with kRange the block's, which are rows blockIdx.x * range and on; else the thread's own, if there is one.
template <class Row, bool kRange> __device__ inline RowSpan row_span(int64_t n, int64_t range) {
  if constexpr (kRange) {
    const int64_t t = blockIdx.x * range;
    return {t, t + range < n ? t + range : n};
  } else {
    const int64_t t = Row::row();
    return {t, t < n ? t + 1 : t};
  }
}

// Over the threads of a row.
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

}  // namespace vltune::cuda
