// Products that need no library: F32 by FMAs on any device, F16 by mma.sync, BF16 by it from sm_80 on, by FMAs on converted values before.
// An element's sum runs along K in ascending order, whatever the launch.
#include <algorithm>

#include "../mma.cuh"
#include "../vector.cuh"
#include "gemm.h"

namespace vltune::cuda {
namespace {

constexpr int kTile = 128;        // rows and columns of C that a block makes
constexpr int kThreads = 256;

// One run along K, as a kernel sees it.
struct Side {
  const void* data;
  int64_t ld;
  bool wide;                      // rows and base allow 16-byte accesses
};
struct Run {
  Side a, b;
  int64_t k;
};
struct Job {
  Run runs[2];
  int64_t m, n;
  const void* bias;
  DType bias_dtype;
  void* c;
  int64_t ldc;
  bool c_is_f32, accumulate;
};

// C[row][column..] of `values`, as far as the matrix goes.
template <class T, int kCount> __device__ inline void finish(const Job& job, int64_t row, int64_t column, const float (&values)[kCount]) {
  if (row >= job.m) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int64_t j = column + i;
    if (j >= job.n) return;
    float v = values[i];
    if (job.bias) v += element_of(job.bias, job.bias_dtype, j);
    const int64_t at = row * job.ldc + j;
    if (job.c_is_f32) {
      float* c = static_cast<float*>(job.c);
      c[at] = job.accumulate ? c[at] + v : v;
    } else {
      T* c = static_cast<T*>(job.c);
      c[at] = from_float<T>(job.accumulate ? to_float(c[at]) + v : v);
    }
  }
}

// ---- FMAs -----------------------------------------------------------------------------------------------------------
// 8 x 8 sums a thread, as four squares of 4 so that shared memory is read in 16-byte words without conflicts. While a slab is
// multiplied, the next one travels through registers.

constexpr int kSlab = 16;         // along K
constexpr int kPadded = kTile + 4;
constexpr int kFetch = 8;         // elements that a thread fetches of each side

// kAlong: K is the contiguous dimension of this side.
template <class T, bool kAlong> struct Fetch {
  float v[kFetch];

  __device__ static int outer(int thread) { return kAlong ? thread % kTile : thread % (kTile / kFetch) * kFetch; }
  __device__ static int inner(int thread) { return kAlong ? thread / kTile * kFetch : thread / (kTile / kFetch); }

  __device__ void load(const Side& side, int64_t first, int64_t limit, int64_t k0, int64_t k) {
    const int64_t o = first + outer(threadIdx.x), p = k0 + inner(threadIdx.x);
    const T* from = static_cast<const T*>(side.data) + (kAlong ? o * side.ld + p : p * side.ld + o);
    const int64_t there = kAlong ? (o < limit ? k - p : 0) : (p < k ? limit - o : 0);
    if (side.wide && there >= kFetch) {
      const auto lanes = load_lanes<kFetch, Use::Constant>(from);
#pragma unroll
      for (int i = 0; i < kFetch; ++i) v[i] = lanes[i];
    } else {
#pragma unroll
      for (int i = 0; i < kFetch; ++i) v[i] = i < there ? to_float(from[i]) : 0.0f;
    }
  }

  __device__ void put(float (*slab)[kPadded]) const {
    const int o = outer(threadIdx.x), p = inner(threadIdx.x);
    if constexpr (kAlong) {
#pragma unroll
      for (int i = 0; i < kFetch; ++i) slab[p + i][o] = v[i];
    } else {
#pragma unroll
      for (int i = 0; i < kFetch; i += 4) *reinterpret_cast<float4*>(&slab[p][o + i]) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
  }
};

template <class T, bool kAisKm, bool kBisNk> __global__ void __launch_bounds__(kThreads, 2) fma_kernel(Job job) {
  __shared__ __align__(16) float a_slab[2][kSlab][kPadded], b_slab[2][kSlab][kPadded];
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kTile, column0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;
  float sum[8][8] = {};
  Fetch<T, !kAisKm> a;
  Fetch<T, kBisNk> b;
  const int64_t slabs0 = ceil_div(job.runs[0].k, kSlab), slabs = slabs0 + ceil_div(job.runs[1].k, kSlab);
  const auto fetch = [&](int64_t s) {
    const Run& run = job.runs[s >= slabs0];
    const int64_t k0 = (s >= slabs0 ? s - slabs0 : s) * kSlab;
    a.load(run.a, row0, job.m, k0, run.k);
    b.load(run.b, column0, job.n, k0, run.k);
  };
  if (slabs > 0) {
    fetch(0);
    a.put(a_slab[0]);
    b.put(b_slab[0]);
  }
  __syncthreads();
  for (int64_t s = 0; s < slabs; ++s) {
    const int at = static_cast<int>(s & 1);
    if (s + 1 < slabs) fetch(s + 1);
#pragma unroll
    for (int k = 0; k < kSlab; ++k) {
      float x[8], y[8];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float4*>(x + 4 * half) = *reinterpret_cast<const float4*>(&a_slab[at][k][down + 64 * half]);
        *reinterpret_cast<float4*>(y + 4 * half) = *reinterpret_cast<const float4*>(&b_slab[at][k][across + 64 * half]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
    if (s + 1 < slabs) {
      a.put(a_slab[at ^ 1]);
      b.put(b_slab[at ^ 1]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float part[4] = {sum[i][4 * half], sum[i][4 * half + 1], sum[i][4 * half + 2], sum[i][4 * half + 3]};
      finish<T>(job, row0 + down + i % 4 + 64 * (i / 4), column0 + across + 64 * half, part);
    }
}

// ---- mma.sync -------------------------------------------------------------------------------------------------------
// Eight warps of 64 x 32; slabs of 32 along K arrive by cp.async, kStages of them in flight. Shared memory is swizzled in chunks
// of 16 bytes so that ldmatrix meets no bank twice.

constexpr int kDepth = 32;
constexpr int kStages = 4;
constexpr int kSideBytes = kTile * kDepth * 2;
constexpr int kMmaBytes = kStages * 2 * kSideBytes;

// Byte offset of the chunk that holds element (outer, inner) of a slab.
template <bool kAlong> __device__ inline int chunk_at(int outer, int inner) {
  if constexpr (kAlong) return outer * 64 + ((inner / 8) ^ (outer / 2 & 3)) * 16;   // rows of 32 along K
  else return inner * 256 + ((outer / 8) ^ (inner & 7)) * 16;                       // rows of 128 across
}

template <class T, bool kAlong>
__device__ inline void fill(const Side& side, uint32_t to, int64_t first, int64_t limit, int64_t k0, int64_t k) {
#pragma unroll
  for (int i = 0; i < kSideBytes / 16 / kThreads; ++i) {
    const int chunk = static_cast<int>(threadIdx.x) + i * kThreads;
    const int outer = kAlong ? chunk / 4 : chunk % 16 * 8, inner = kAlong ? chunk % 4 * 8 : chunk / 16;
    const int64_t o = first + outer, p = k0 + inner;
    const int64_t there = kAlong ? (o < limit ? k - p : 0) : (p < k ? limit - o : 0);
    const T* from = static_cast<const T*>(side.data) + (there <= 0 ? 0 : kAlong ? o * side.ld + p : p * side.ld + o);
    copy_async_16(to + chunk_at<kAlong>(outer, inner), from, there <= 0 ? 0 : there >= 8 ? 16 : static_cast<int>(there) * 2);
  }
}

template <class T, bool kAisKm, bool kBisNk> __global__ void __launch_bounds__(kThreads) mma_kernel(Job job) {
  if constexpr (!kHasMma<T>) return;
  extern __shared__ __align__(128) unsigned char slabs_of[];
  const uint32_t shared = shared_address(slabs_of);
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kTile, column0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int down = warp / 4 * 64, across = warp % 4 * 32;
  const int64_t slabs0 = ceil_div(job.runs[0].k, kDepth), slabs = slabs0 + ceil_div(job.runs[1].k, kDepth);
  const auto fetch = [&](int64_t s) {
    if (s < slabs) {
      const Run& run = job.runs[s >= slabs0];
      const int64_t k0 = (s >= slabs0 ? s - slabs0 : s) * kDepth;
      const uint32_t to = shared + static_cast<int>(s % kStages) * 2 * kSideBytes;
      fill<T, !kAisKm>(run.a, to, row0, job.m, k0, run.k);
      fill<T, kBisNk>(run.b, to + kSideBytes, column0, job.n, k0, run.k);
    }
    copy_async_commit();
  };
  for (int s = 0; s < kStages - 1; ++s) fetch(s);
  float sum[4][4][4] = {};
  const int low = lane % 8, high = lane / 8 % 2 * 8, far = lane / 16 * 8;
  for (int64_t s = 0; s < slabs; ++s) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    fetch(s + kStages - 1);
    const uint32_t a_at = shared + static_cast<int>(s % kStages) * 2 * kSideBytes, b_at = a_at + kSideBytes;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t a[4][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = down + 16 * i;
        if constexpr (kAisKm) load_matrices_turned(a[i], a_at + chunk_at<false>(m + high, k + low + far));
        else load_matrices(a[i], a_at + chunk_at<true>(m + low + high, k + far));
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int n = across + 16 * j;
        if constexpr (kBisNk) load_matrices(b[j], b_at + chunk_at<true>(n + low + far, k + high));
        else load_matrices_turned(b[j], b_at + chunk_at<false>(n + far, k + low + high));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma<T>(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float part[2] = {sum[i][j][2 * half], sum[i][j][2 * half + 1]};
        finish<T>(job, row0 + down + 16 * i + lane / 4 + 8 * half, column0 + across + 8 * j + lane % 4 * 2, part);
      }
}

// ---------------------------------------------------------------------------------------------------------------------

Side side_of(DType dtype, const void* data, int64_t ld) {
  return {data, ld, all_aligned(16, data) && dtype_bytes(dtype, ld) % 16 == 0};
}

constexpr int64_t kStretch = 16384;  // along K

using Kernel = void (*)(Job);
template <class T> Kernel fma_for(const Gemm& g) {
  if (g.a_is_km) return g.b_is_nk ? fma_kernel<T, true, true> : fma_kernel<T, true, false>;
  return g.b_is_nk ? fma_kernel<T, false, true> : fma_kernel<T, false, false>;
}
template <class T> Kernel mma_for(const Gemm& g) {
  if (g.a_is_km) return g.b_is_nk ? mma_kernel<T, true, true> : mma_kernel<T, true, false>;
  return g.b_is_nk ? mma_kernel<T, false, true> : mma_kernel<T, false, false>;
}
Kernel kernel_for(const Gemm& g, bool mma) {
  if (g.dtype == DType::F32) return fma_for<float>(g);
  if (g.dtype == DType::F16) return mma ? mma_for<F16>(g) : fma_for<F16>(g);
  return mma ? mma_for<Bf16>(g) : fma_for<Bf16>(g);
}

}  // namespace

void gemm_plain(const OpCall& call, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  // A sum of F32 terms loses bits as it grows: long ones are made in stretches, which are then added.
  if (g.dtype == DType::F32 && g.c_dtype == DType::F32 && g.k > kStretch) {
    Gemm part = g;
    part.k = kStretch;
    gemm_plain(call, part);
    Gemm rest = g;
    rest.k -= kStretch;
    rest.a = static_cast<const float*>(g.a) + kStretch * (g.a_is_km ? g.lda : 1);
    rest.b = static_cast<const float*>(g.b) + kStretch * (g.b_is_nk ? 1 : g.ldb);
    rest.k2 = 0;
    rest.bias = nullptr;
    rest.accumulate = true;
    gemm_plain(call, rest);
    return;
  }
  Job job{{{side_of(g.dtype, g.a, g.lda), side_of(g.dtype, g.b, g.ldb), g.k},
           {side_of(g.dtype, g.a2, g.lda2), side_of(g.dtype, g.b2, g.ldb2), g.k2}},
          g.m, g.n, g.bias, g.bias_dtype, g.c, g.ldc, g.c_dtype == DType::F32, g.accumulate};
  const auto wide = [](const Run& run) { return run.k == 0 || (run.a.wide && run.b.wide); };
  const bool mma = has_mma(g.dtype, device().capability()) && wide(job.runs[0]) && wide(job.runs[1]);
  const Kernel kernel = kernel_for(g, mma);
  const size_t bytes = mma ? kMmaBytes : 0;
  if (mma) VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMmaBytes));
  // Grids have at most 65,535 rows of blocks.
  constexpr int64_t kMostRows = int64_t{65535} * kTile;
  for (int64_t row = 0; row < g.m; row += kMostRows) {
    Job part = job;
    part.m = std::min(kMostRows, g.m - row);
    for (Run& run : part.runs)
      if (run.k) run.a.data = static_cast<const char*>(run.a.data) + dtype_bytes(g.dtype, row * (g.a_is_km ? 1 : run.a.ld));
    part.c = static_cast<char*>(part.c) + dtype_bytes(g.c_dtype, row * g.ldc);
    const dim3 grid(static_cast<unsigned>(ceil_div(g.n, kTile)), static_cast<unsigned>(ceil_div(part.m, kTile)));
    kernel<<<grid, kThreads, bytes, stream_of(call)>>>(part);
    check_launch(call);
  }
}

}  // namespace vltune::cuda
