#include "../ops/qk_norm_rope.h"

#include "../ops/qk_norm_rope_checks.h"
#include "rotate.cuh"
#include "row_ranges.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// ---- tables

// Frequencies are found on the host, as the CPU finds them, and travel with the launch: this many at a time.
constexpr int kFrequencies = 256, kTableThreads = 256, kTableRows = 8;
struct Frequencies { float of[kFrequencies]; };

__device__ inline int axis(int64_t j, const RopeSections& section) {
  if (!section.interleaved) return j < section.t ? 0 : j < section.t + section.h ? 1 : 2;
  if (j % 3 == 1 && j < 3 * section.h) return 1;
  if (j % 3 == 2 && j < 3 * section.w) return 2;
  return 0;
}

// cos and sin of an F32 angle, computed in F64 with the CPU's reduction and polynomials (fdlibm), so both round to the same F32.
constexpr double kEasyAngle = 1048576;

__device__ inline void cos_sin(float angle, float* cos, float* sin) {
  const double x = angle;
  if (fabs(x) > kEasyAngle) {
    *cos = static_cast<float>(::cos(x));
    *sin = static_cast<float>(::sin(x));
    return;
  }
  const double shifted = x * 0.63661977236758134308 + 0x1.8p52, quarter = shifted - 0x1.8p52;
  const long long bits = __double_as_longlong(shifted);
  const double r = (x - quarter * 1.57079632673412561417e+00) - quarter * 6.07710050650619224932e-11, z = r * r;
  const double s = r + r * z * (-1.66666666666666324348e-01 +
                   z * (8.33333333332248946124e-03 + z * (-1.98412698298579493134e-04 +
                   z * (2.75573137070700676789e-06 + z * -2.50507602534068634195e-08))));
  const double c = 1.0 - 0.5 * z + z * z * (4.16666666666666019037e-02 +
                   z * (-1.38888888888741095749e-03 + z * (2.48015872894767294178e-05 +
                   z * (-2.75573143513906633035e-07 + z * 2.08757232129817482790e-09))));
  const bool swap = bits & 1;
  const double cosine = swap ? s : c, sine = swap ? c : s;
  *cos = static_cast<float>((bits + 1) & 2 ? -cosine : cosine);
  *sin = static_cast<float>(bits & 2 ? -sine : sine);
}

// Columns first..first+columns-1 of all rows.
__global__ void __launch_bounds__(kTableThreads) table_columns(const int32_t* positions, int64_t n, int64_t half, int64_t first,
                                                               int columns, const __grid_constant__ Frequencies frequencies,
                                                               const __grid_constant__ RopeSections section, float* cos, float* sin) {
  const int64_t total = n * columns, step = static_cast<int64_t>(gridDim.x) * kTableThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kTableThreads + threadIdx.x; i < total; i += step) {
    const int64_t t = i / columns, j = i % columns;
    const float angle = static_cast<float>(positions[axis(first + j, section) * n + t]) * frequencies.of[j];
    cos_sin(angle, cos + t * half + first + j, sin + t * half + first + j);
  }
}

// ---- heads

// Ones without a weight.
template <int N> __device__ inline Pair<N> load_weight(const void* weight, bool is_bf16, int j, int half) {
  if (!weight) {
    Pair<N> ones;
#pragma unroll
    for (int k = 0; k < N; ++k) ones.low[k] = ones.high[k] = 1;
    return ones;
  }
  if (is_bf16) return unpack(load_pair<N, Use::Constant>(static_cast<const Bf16*>(weight) + j, half));
  return unpack(load_pair<N, Use::Constant>(static_cast<const float*>(weight) + j, half));
}

struct Shape {
  int64_t n;
  int heads, half;
  int pieces;  // warps that share the heads of a token
};

// kLanes lanes hold a head, N elements of either half each; a warp takes kHeads times 32 / kLanes heads of a token, so cosines, sines and
// weights are loaded once for several heads, and all heads are loaded before the first is finished. What is loaded stays packed, for
// the registers that bound how many warps are resident. W: of the weight, if there is one.
template <class D, class W, int N, int kLanes, int kHeads>
__global__ void __launch_bounds__(kThreads) heads_forward(const D* x, const W* weight, const float* cos, const float* sin, Shape shape,
                                                          float eps, D* y, float* rstd) {
  constexpr int kGroups = kWarp / kLanes;
  const unsigned unit = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const int64_t t = unit / shape.pieces;
  if (t >= shape.n) return;
  const int half = shape.half, lane = threadIdx.x % kLanes, j = lane * N;
  const int first = unit % shape.pieces * (kGroups * kHeads) + threadIdx.x % kWarp / kLanes;
  const int64_t at = (t * shape.heads + first) * 2 * half + j;
  PackedPair<D, N> loaded[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
    loaded[h] = j < half && first + h * kGroups < shape.heads
                    ? load_pair<N>(x + at + static_cast<int64_t>(h) * kGroups * 2 * half, half)
                    : PackedPair<D, N>{};
  Lanes<N> c = {}, s = {};
  PackedPair<W, N> w = {};
  if (j < half) {
    c = load_lanes<N, Use::Constant>(cos + t * half + j);
    s = load_lanes<N, Use::Constant>(sin + t * half + j);
    if (weight) w = load_pair<N, Use::Constant>(weight + j, half);
  }
  float scale[kHeads];
  if (weight) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const Pair<N> z = unpack(loaded[h]);
      float squares = 0;
#pragma unroll
      for (int k = 0; k < N; ++k) squares = fmaf(z.low[k], z.low[k], fmaf(z.high[k], z.high[k], squares));
      scale[h] = 1.0f / sqrtf(warp_sum<kLanes>(squares) / static_cast<float>(2 * half) + eps);
      const int head = first + h * kGroups;
      if (lane == 0 && head < shape.heads) rstd[t * shape.heads + head] = scale[h];
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    Pair<N> z = unpack(loaded[h]);
    if (weight) {
      const Pair<N> factor = unpack(w);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        z.low[k] = factor.low[k] * (z.low[k] * scale[h]);
        z.high[k] = factor.high[k] * (z.high[k] * scale[h]);
      }
    }
    if (j < half && first + h * kGroups < shape.heads)
      store_pair(y + at + static_cast<int64_t>(h) * kGroups * 2 * half, half, rotate<1>(z, c, s));
  }
}

// Without kGradient as above. With it, block b takes rows b * range and on, and leaves its sums for dweight in row b of `partial`.
template <class D, int N, int kLanes, int kHeads, bool kGradient>
__global__ void __launch_bounds__(kThreads) heads_backward(const D* dy, const D* x, const void* weight, bool weight_is_bf16,
                                                           const float* rstd, const float* cos, const float* sin, Shape shape,
                                                           int64_t range, D* dx, float* partial) {
  constexpr int kGroups = kWarp / kLanes;
  const int half = shape.half, lane = threadIdx.x % kLanes, j = lane * N;
  int64_t unit = threadIdx.x / kWarp, end;
  if constexpr (kGradient) {
    const int64_t begin = blockIdx.x * range;
    unit += begin * shape.pieces;
    end = (begin + range < shape.n ? begin + range : shape.n) * shape.pieces;
  } else {
    unit += static_cast<int64_t>(blockIdx.x) * kWarps;
    end = unit < shape.n * shape.pieces ? unit + 1 : unit;
  }
  Pair<N> sums = {}, w = {};
  if (unit < end && j < half) w = load_weight<N>(weight, weight_is_bf16, j, half);
  for (; unit < end; unit += kWarps) {
    const int64_t t = static_cast<unsigned>(unit) / static_cast<unsigned>(shape.pieces);
    const int first = static_cast<unsigned>(unit) % static_cast<unsigned>(shape.pieces) * (kGroups * kHeads) + threadIdx.x % kWarp / kLanes;
    const int64_t at = (t * shape.heads + first) * 2 * half + j;
    PackedPair<D, N> grad[kHeads] = {}, value[kHeads] = {};
    float scales[kHeads] = {};
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
      if (first + h * kGroups < shape.heads) {
        const int64_t from = at + static_cast<int64_t>(h) * kGroups * 2 * half;
        if (j < half) grad[h] = load_pair<N>(dy + from, half);
        if (weight) {
          if (j < half) value[h] = load_pair<N>(x + from, half);
          scales[h] = rstd[t * shape.heads + first + h * kGroups];
        }
      }
    Lanes<N> c = {}, s = {};
    if (j < half) {
      c = load_lanes<N, Use::Constant>(cos + t * half + j);
      s = load_lanes<N, Use::Constant>(sin + t * half + j);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      Pair<N> dz = rotate<-1>(unpack(grad[h]), c, s);
      if (weight) {
        const float scale = scales[h];
        Pair<N> xhat = unpack(value[h]);
        float dot = 0;
#pragma unroll
        for (int k = 0; k < N; ++k) {
          xhat.low[k] *= scale;
          xhat.high[k] *= scale;
          if constexpr (kGradient) {
            sums.low[k] = fmaf(dz.low[k], xhat.low[k], sums.low[k]);
            sums.high[k] = fmaf(dz.high[k], xhat.high[k], sums.high[k]);
          }
          dz.low[k] *= w.low[k];
          dz.high[k] *= w.high[k];
          dot = fmaf(dz.low[k], xhat.low[k], fmaf(dz.high[k], xhat.high[k], dot));
        }
        const float mean = warp_sum<kLanes>(dot) / static_cast<float>(2 * half);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          dz.low[k] = scale * fmaf(-xhat.low[k], mean, dz.low[k]);
          dz.high[k] = scale * fmaf(-xhat.high[k], mean, dz.high[k]);
        }
      }
      if (j < half && first + h * kGroups < shape.heads) store_pair(dx + at + static_cast<int64_t>(h) * kGroups * 2 * half, half, dz);
    }
  }
  if constexpr (kGradient) {  // the groups of a warp, then the warps, in order
    __shared__ Pair<N> shared[kWarps][kLanes];
#pragma unroll
    for (int offset = kLanes; offset < kWarp; offset *= 2)
#pragma unroll
      for (int k = 0; k < N; ++k) {
        sums.low[k] += __shfl_xor_sync(kAllLanes, sums.low[k], offset);
        sums.high[k] += __shfl_xor_sync(kAllLanes, sums.high[k], offset);
      }
    if (threadIdx.x % kWarp < kLanes) shared[threadIdx.x / kWarp][lane] = sums;
    __syncthreads();
    if (threadIdx.x >= kLanes || j >= half) return;
    for (int i = 1; i < kWarps; ++i)
#pragma unroll
      for (int k = 0; k < N; ++k) {
        sums.low[k] += shared[i][lane].low[k];
        sums.high[k] += shared[i][lane].high[k];
      }
    store_pair(partial + static_cast<int64_t>(blockIdx.x) * 2 * half + j, half, sums);
  }
}

// Any head_dim and alignment: a block takes `range` tokens, head after head, and reads each twice.
__device__ inline float weight_at(const void* weight, bool is_bf16, int j) {
  return is_bf16 ? to_float(static_cast<const Bf16*>(weight)[j]) : static_cast<const float*>(weight)[j];
}

template <class D>
__global__ void __launch_bounds__(kThreads) heads_forward_loop(const D* x, const void* weight, bool weight_is_bf16, const float* cos,
                                                               const float* sin, Shape shape, float eps, D* y, float* rstd) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= shape.n * shape.heads) return;
  const int half = shape.half, lane = threadIdx.x % kWarp;
  x += row * 2 * half;
  y += row * 2 * half;
  cos += row / shape.heads * half;
  sin += row / shape.heads * half;
  float scale = 1;
  if (weight) {
    float squares = 0;
    for (int j = lane; j < 2 * half; j += kWarp) squares = fmaf(to_float(x[j]), to_float(x[j]), squares);
    scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(2 * half) + eps);
    if (lane == 0) rstd[row] = scale;
  }
  for (int j = lane; j < half; j += kWarp) {
    float low = to_float(x[j]), high = to_float(x[j + half]);
    if (weight) {
      low = weight_at(weight, weight_is_bf16, j) * (low * scale);
      high = weight_at(weight, weight_is_bf16, j + half) * (high * scale);
    }
    y[j] = from_float<D>(fmaf(-high, sin[j], low * cos[j]));
    y[j + half] = from_float<D>(fmaf(low, sin[j], high * cos[j]));
  }
}

template <class D>
__global__ void __launch_bounds__(kThreads) heads_backward_loop(const D* dy, const D* x, const void* weight, bool weight_is_bf16,
                                                                const float* rstd, const float* cos, const float* sin, Shape shape,
                                                                int64_t range, D* dx, float* partial) {
  __shared__ float shared[2][kWarps];
  const int half = shape.half;
  const int64_t begin = blockIdx.x * range * shape.heads, limit = shape.n * shape.heads;
  const int64_t end = begin + range * shape.heads < limit ? begin + range * shape.heads : limit;
  if (partial) partial += static_cast<int64_t>(blockIdx.x) * 2 * half;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * 2 * half;
    const float *c = cos + row / shape.heads * half, *s = sin + row / shape.heads * half;
    const float scale = weight ? rstd[row] : 1;
    float dot = 0;
    for (int j = threadIdx.x; weight && j < half; j += kThreads) {
      const float low = to_float(dy[at + j]), high = to_float(dy[at + j + half]);
      dot = fmaf(fmaf(high, s[j], low * c[j]) * weight_at(weight, weight_is_bf16, j), to_float(x[at + j]) * scale, dot);
      dot = fmaf(fmaf(-low, s[j], high * c[j]) * weight_at(weight, weight_is_bf16, j + half), to_float(x[at + j + half]) * scale, dot);
    }
    const float mean = weight ? block_sum<kThreads>(dot, shared[row & 1]) / static_cast<float>(2 * half) : 0;
    for (int j = threadIdx.x; j < half; j += kThreads) {
      const float low = to_float(dy[at + j]), high = to_float(dy[at + j + half]);
      float dz_low = fmaf(high, s[j], low * c[j]), dz_high = fmaf(-low, s[j], high * c[j]);
      if (weight) {
        const float x_low = to_float(x[at + j]) * scale, x_high = to_float(x[at + j + half]) * scale;
        if (partial) {
          partial[j] = fmaf(dz_low, x_low, row == begin ? 0.0f : partial[j]);
          partial[j + half] = fmaf(dz_high, x_high, row == begin ? 0.0f : partial[j + half]);
        }
        dz_low = scale * fmaf(-x_low, mean, dz_low * weight_at(weight, weight_is_bf16, j));
        dz_high = scale * fmaf(-x_high, mean, dz_high * weight_at(weight, weight_is_bf16, j + half));
      }
      dx[at + j] = from_float<D>(dz_low);
      dx[at + j + half] = from_float<D>(dz_high);
    }
  }
}

template <int N, int kLanes> struct HeldHead {
  static constexpr int kElements = N, kLanesOfHead = kLanes;
};
// Calls body(HeldHead) with the widest vectors and the fewest lanes that hold a head, or returns false.
template <class D, class Body> bool with_held_head(int half, bool aligned, Body&& body) {
  constexpr int kWide = kVector<D>;
  if (!aligned) return false;
  if (half % kWide == 0) {
    if (half <= kWide * 4) return body(HeldHead<kWide, 4>{}), true;
    if (half <= kWide * 8) return body(HeldHead<kWide, 8>{}), true;
    if (half <= kWide * 16) return body(HeldHead<kWide, 16>{}), true;
    return false;
  }
  if (kWide > 4 && half % 4 == 0 && half <= 64) return body(HeldHead<4, 16>{}), true;  // 72, the head of a vision tower
  return false;
}
// How many heads a lane takes: two, measured best on an H200, if that leaves none idle.
template <class Body> void with_heads(int groups, int heads, Body&& body) {
  if (heads % (2 * groups) == 0) body(std::integral_constant<int, 2>{});
  else body(std::integral_constant<int, 1>{});
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------------------------------

void rope_table(const OpCall& call) {
  const Tensor &positions = input(call, 0), &cos = output(call, 0), &sin = output(call, 1);
  const RopeSections sections = check_rope_table(call);
  const int64_t n = positions.dim(1), half = cos.dim(1);
  if (n == 0) return;
  for (int64_t first = 0; first < half; first += kFrequencies) {
    const int columns = static_cast<int>(half - first < kFrequencies ? half - first : kFrequencies);
    Frequencies frequencies = {};
    for (int j = 0; j < columns; ++j) frequencies.of[j] = rope_frequency(sections, first + j);
    const int64_t blocks = ceil_div(n * columns, kTableThreads * kTableRows);
    table_columns<<<static_cast<unsigned>(blocks), kTableThreads, 0, stream_of(call)>>>(
        positions.as<int32_t>(), n, half, first, columns, frequencies, sections, cos.as<float>(), sin.as<float>());
    check_launch(call);
  }
}

void qk_norm_rope(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &cos = input(call, 2), &sin = input(call, 3);
  const Tensor &y = output(call, 0), &rstd = output(call, 1);
  const Heads heads = check_qk_norm_rope(call);
  if (x.numel() == 0) return;
  const float eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  const bool weight_is_bf16 = weight.dtype == DType::BF16;
  const void* w = weight.present() ? weight.data : nullptr;
  Shape shape = {heads.n, static_cast<int>(heads.heads), static_cast<int>(heads.half), 1};
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    const bool held = with_held_head<D>(shape.half, all_aligned(kVectorBytes, x.data, w, cos.data, sin.data, y.data), [&](auto head) {
      constexpr int N = decltype(head)::kElements, kLanes = decltype(head)::kLanesOfHead, kGroups = kWarp / kLanes;
      with_heads(kGroups, shape.heads, [&](auto together) {
        constexpr int kHeads = decltype(together)::value;
        shape.pieces = static_cast<int>(ceil_div(shape.heads, kGroups * kHeads));
        with_norm_weight(weight.dtype, [&](auto weight_tag) {
          using W = decltype(weight_tag);
          heads_forward<D, W, N, kLanes, kHeads>
              <<<static_cast<unsigned>(ceil_div(shape.n * shape.pieces, kWarps)), kThreads, 0, stream_of(call)>>>(
                  x.as<D>(), static_cast<const W*>(w), cos.as<float>(), sin.as<float>(), shape, eps, y.as<D>(), rstd.as<float>());
        });
      });
    });
    if (!held)
      heads_forward_loop<<<static_cast<unsigned>(ceil_div(shape.n * shape.heads, kWarps)), kThreads, 0, stream_of(call)>>>(
          x.as<D>(), w, weight_is_bf16, cos.as<float>(), sin.as<float>(), shape, eps, y.as<D>(), rstd.as<float>());
    check_launch(call);
  });
}

// One head of sums for each range of rows.
size_t qk_norm_rope_backward_workspace(const OpCall& call) {
  const Tensor& dweight = output(call, 1);
  return dweight.present() ? row_ranges_workspace(input(call, 0).dim(0), dweight.dim(0)) : 0;
}

void qk_norm_rope_backward(const OpCall& call) {
  const Tensor &dy = input(call, 0), &x = input(call, 1), &weight = input(call, 2), &rstd = input(call, 3), &cos = input(call, 4),
               &sin = input(call, 5), &dx = output(call, 0), &dweight = output(call, 1);
  const Heads heads = check_qk_norm_rope_backward(call);
  if (dy.numel() == 0) return;

  float* partial = dweight.present() ? static_cast<float*>(call.workspace) : nullptr;
  const int64_t range = partial ? row_range(heads.n) : 1;
  const unsigned ranges = static_cast<unsigned>(ceil_div(heads.n, range));
  const bool weight_is_bf16 = weight.dtype == DType::BF16;
  const void* w = weight.present() ? weight.data : nullptr;
  Shape shape = {heads.n, static_cast<int>(heads.heads), static_cast<int>(heads.half), 1};
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    const bool aligned = all_aligned(kVectorBytes, dy.data, x.data, w, cos.data, sin.data, dx.data, partial);
    const bool held = with_held_head<D>(shape.half, aligned, [&](auto head) {
      constexpr int N = decltype(head)::kElements, kLanes = decltype(head)::kLanesOfHead, kGroups = kWarp / kLanes;
      with_heads(kGroups, shape.heads, [&](auto together) {
        constexpr int kHeads = decltype(together)::value;
        shape.pieces = static_cast<int>(ceil_div(shape.heads, kGroups * kHeads));
        if (partial) {
          heads_backward<D, N, kLanes, kHeads, true><<<ranges, kThreads, 0, stream_of(call)>>>(
              dy.as<D>(), x.as<D>(), w, weight_is_bf16, rstd.as<float>(), cos.as<float>(), sin.as<float>(), shape, range, dx.as<D>(),
              partial);
        } else {
          heads_backward<D, N, kLanes, kHeads, false>
              <<<static_cast<unsigned>(ceil_div(shape.n * shape.pieces, kWarps)), kThreads, 0, stream_of(call)>>>(
                  dy.as<D>(), x.as<D>(), w, weight_is_bf16, rstd.as<float>(), cos.as<float>(), sin.as<float>(), shape, 1, dx.as<D>(),
                  nullptr);
        }
      });
    });
    if (!held)
      heads_backward_loop<<<ranges, kThreads, 0, stream_of(call)>>>(dy.as<D>(), x.as<D>(), w, weight_is_bf16, rstd.as<float>(),
                                                                    cos.as<float>(), sin.as<float>(), shape, range, dx.as<D>(), partial);
    check_launch(call);
  });
  if (partial) launch_add_row_ranges(call, partial, row_ranges(heads.n), heads.dim, dweight.as<float>());
}

}  // namespace vltune::cuda
