// delta of the backward pass: the sum over a head's row of dO * O, which every gradient of a score subtracts.
#include "shape.h"
#include "tiles.cuh"

namespace vltune::cuda::attn {
namespace {

constexpr int kThreads = 256, kLanes = 16;  // lanes of a row

template <class D, bool of_vectors>
__global__ void __launch_bounds__(kThreads) row_sums_kernel(const D* d_o, const D* o, float* delta, int64_t tokens, int heads, int h) {
  constexpr int kVector = 16 / sizeof(D);
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;  // of [tokens][heads]
  const int lane = threadIdx.x % kLanes;
  const bool is_row = row < tokens * heads;
  float sum = 0;
  if (is_row) {
    const D *left = d_o + row * h, *right = o + row * h;
    if constexpr (of_vectors) {
      for (int d = lane * kVector; d < h; d += kLanes * kVector) {
        alignas(16) D a[kVector], b[kVector];
        *reinterpret_cast<uint4*>(a) = *reinterpret_cast<const uint4*>(left + d);
        *reinterpret_cast<uint4*>(b) = *reinterpret_cast<const uint4*>(right + d);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum = fmaf(to_float(a[i]), to_float(b[i]), sum);
      }
    } else {
      for (int d = lane; d < h; d += kLanes) sum = fmaf(to_float(left[d]), to_float(right[d]), sum);
    }
  }
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(kWarp, sum, apart);
  if (is_row && lane == 0) delta[row % heads * tokens + row / heads] = sum;
}

// -----------------------------------------------------------------------------------------------------------------------------------------

template <class D>
void row_sums_of(const OpCall& call, const Backward& pass) {
  const Shape& s = pass.shape;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool of_vectors = s.head_dim * sizeof(D) % 16 == 0 && aligned(pass.d_o) && aligned(pass.o);
  const int64_t rows = s.tokens * s.heads;
  constexpr int kRows = kThreads / kLanes;
  (of_vectors ? row_sums_kernel<D, true> : row_sums_kernel<D, false>)<<<static_cast<unsigned>((rows + kRows - 1) / kRows), kThreads, 0,
                                                                        stream_of(call)>>>(
      static_cast<const D*>(pass.d_o), static_cast<const D*>(pass.o), pass.delta, s.tokens, static_cast<int>(s.heads), s.head_dim);
  check_launch(call);
}

}  // namespace

void row_sums(const OpCall& call, const Backward& pass) {
  with_activation(pass.shape.dtype, [&](auto tag) { row_sums_of<decltype(tag)>(call, pass); });
}

}  // namespace vltune::cuda::attn
