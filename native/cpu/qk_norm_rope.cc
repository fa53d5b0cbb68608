#include "../ops/qk_norm_rope.h"

#include <cmath>

#include "../ops/qk_norm_rope_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "rotate.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

// cos and sin of F32 angles, computed in F64 and so rounded correctly but for about one in 10^8. Up to kEasyAngle the multiple
// of pi/2 times its first part (33 bits) is exact; the loop has no branch and is compiled to vector code. Polynomials: fdlibm.
constexpr double kEasyAngle = 1048576;

void cos_sin_easy(const float* angle, int64_t n, float* cos, float* sin) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = angle[i];
    const double shifted = x * 0.63661977236758134308 + 0x1.8p52;
    const double quarter = shifted - 0x1.8p52;
    uint64_t bits;
    std::memcpy(&bits, &shifted, 8);
    const double r = (x - quarter * 1.57079632673412561417e+00) - quarter * 6.07710050650619224932e-11;
    const double z = r * r;
    const double s = r + r * z * (-1.66666666666666324348e-01 +
                     z * (8.33333333332248946124e-03 + z * (-1.98412698298579493134e-04 +
                     z * (2.75573137070700676789e-06 + z * -2.50507602534068634195e-08))));
    const double c = 1.0 - 0.5 * z + z * z * (4.16666666666666019037e-02 +
                     z * (-1.38888888888741095749e-03 + z * (2.48015872894767294178e-05 +
                     z * (-2.75573143513906633035e-07 + z * 2.08757232129817482790e-09))));
    const bool swap = bits & 1;
    const double cosine = swap ? s : c, sine = swap ? c : s;
    cos[i] = static_cast<float>(((bits + 1) & 2) ? -cosine : cosine);
    sin[i] = static_cast<float>((bits & 2) ? -sine : sine);
  }
}

void cos_sin(const float* angle, int64_t n, float* cos, float* sin) {
  for (int64_t i = 0; i < n; ++i) {
    if (angle[i] <= kEasyAngle && angle[i] >= -kEasyAngle) continue;
    for (int64_t j = 0; j < n; ++j) {
      cos[j] = static_cast<float>(std::cos(static_cast<double>(angle[j])));
      sin[j] = static_cast<float>(std::sin(static_cast<double>(angle[j])));
    }
    return;
  }
  cos_sin_easy(angle, n, cos, sin);
}

// The heads of a token are gone through together, some kTogether at a time, once for their sums and once for their results: a
// sum over the lanes, a root and a division take long to arrive, and otherwise each head would wait for its own.
constexpr int64_t kTogether = 16;

// Null weight: no norm, and rstd is not written.
template <class D, class W>
inline void forward_heads(const D* x, int64_t heads, const W* weight, const float* cos, const float* sin, float eps, int64_t half, D* y,
                          float* rstd) {
  if (weight) {
    const float dim = static_cast<float>(2 * half);
    float squares[kTogether];
    for (int64_t i = 0; i < heads; ++i) {
      Vec low = zero(), high = zero();
      each_vector(half, [&](int64_t j, int count) {
        Pair v = load_pair(x + i * 2 * half + j, half, count);
        low = fma(v.low, v.low, low);
        high = fma(v.high, v.high, high);
      });
      squares[i] = reduce_add(low + high);
    }
    each_vector(heads, [&](int64_t i, int count) {
      Vec root = sqrt(load_part(squares + i, count) / broadcast(dim) + broadcast(eps));
      store_part(rstd + i, broadcast(1.0f) / root, count);
    });
  }
  for (int64_t i = 0; i < heads; ++i) {
    const D* from = x + i * 2 * half;
    D* to = y + i * 2 * half;
    prefetch(from + heads * 2 * half, 2 * half);
    const Vec scale = broadcast(weight ? rstd[i] : 1.0f);
    each_vector(half, [&](int64_t j, int count) {
      Pair z = load_pair(from + j, half, count);
      if (weight) {
        Pair w = load_pair(weight + j, half, count);
        z = {w.low * (z.low * scale), w.high * (z.high * scale)};
      }
      store_pair(to + j, half, rotate(z, load_part(cos + j, count), load_part(sin + j, count)), count);
    });
  }
}

// dx may be dy. dweight is null where it is not wanted.
template <class D, class W>
void backward_head(const D* dy, const D* x, const W* weight, float rstd, const float* cos, const float* sin, int64_t half, D* dx,
                   float* dweight) {
  auto load_dz = [&](int64_t j, int count) {
    return rotate_back(load_pair(dy + j, half, count), load_part(cos + j, count), load_part(sin + j, count));
  };
  if (!weight) {
    each_vector(half, [&](int64_t j, int count) { store_pair(dx + j, half, load_dz(j, count), count); });
    return;
  }
  const Vec scale = broadcast(rstd);
  Vec low = zero(), high = zero();
  each_vector(half, [&](int64_t j, int count) {
    Pair dz = load_dz(j, count), w = load_pair(weight + j, half, count), v = load_pair(x + j, half, count);
    low = fma(dz.low * w.low, v.low * scale, low);
    high = fma(dz.high * w.high, v.high * scale, high);
  });
  const Vec mean = broadcast(reduce_add(low + high) / static_cast<float>(2 * half));
  each_vector(half, [&](int64_t j, int count) {
    Pair dz = load_dz(j, count), w = load_pair(weight + j, half, count), v = load_pair(x + j, half, count);
    Pair xhat = {v.low * scale, v.high * scale};
    store_pair(dx + j, half, {scale * fnma(xhat.low, mean, dz.low * w.low), scale * fnma(xhat.high, mean, dz.high * w.high)}, count);
    if (dweight) {
      Pair sums = load_pair(dweight + j, half, count);
      store_pair(dweight + j, half, {fma(dz.low, xhat.low, sums.low), fma(dz.high, xhat.high, sums.high)}, count);
    }
  });
}

}  // namespace

void rope_table(const OpCall& call) {
  const Tensor &positions = input(call, 0), &cos = output(call, 0), &sin = output(call, 1);
  const RopeSections section = check_rope_table(call);
  const int64_t n = positions.dim(1), half = cos.dim(1);
  auto axis = [&](int64_t j) -> int64_t {
    if (!section.interleaved) return j < section.t ? 0 : j < section.t + section.h ? 1 : 2;
    if (j % 3 == 1 && j < 3 * section.h) return 1;
    if (j % 3 == 2 && j < 3 * section.w) return 2;
    return 0;
  };
  const int32_t* position = positions.as<int32_t>();
  // Columns outside: each is one frequency, found once; a block of rows of it is staged to be turned into cosines together.
  constexpr int64_t kRows = 16, kColumns = 64;
  call.pool->parallel_for(n, kRows * 4, [&](int64_t begin, int64_t end) {
    float angles[kColumns];
    for (int64_t first = 0; first < half; first += kColumns) {
      const int64_t columns = half - first < kColumns ? half - first : kColumns;
      float frequency[kColumns];
      int64_t row_of_axis[kColumns];
      for (int64_t j = 0; j < columns; ++j) {
        frequency[j] = rope_frequency(section, first + j);
        row_of_axis[j] = axis(first + j) * n;
      }
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t j = 0; j < columns; ++j) angles[j] = static_cast<float>(position[row_of_axis[j] + t]) * frequency[j];
        cos_sin(angles, columns, cos.as<float>() + t * half + first, sin.as<float>() + t * half + first);
      }
    }
  });
}

void qk_norm_rope(const OpCall& call) {
  const Tensor &x = input(call, 0), &weight = input(call, 1), &cos = input(call, 2), &sin = input(call, 3);
  const Tensor &y = output(call, 0), &rstd = output(call, 1);
  const Heads shape = check_qk_norm_rope(call);
  const float eps = static_cast<float>(call.attrs->number("eps", 1e-6));
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      call.pool->parallel_for(shape.n, row_grain(x.dim(1)), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
          for (int64_t i = 0; i < shape.heads; i += kTogether) {
            const int64_t head = t * shape.heads + i, heads = shape.heads - i < kTogether ? shape.heads - i : kTogether;
            forward_heads(x.as<D>() + head * shape.dim, heads, weight.present() ? weight.as<W>() : nullptr,
                          cos.as<float>() + t * shape.half, sin.as<float>() + t * shape.half, eps, shape.half,
                          y.as<D>() + head * shape.dim, weight.present() ? rstd.as<float>() + head : nullptr);
          }
      });
    });
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
  const Heads shape = check_qk_norm_rope_backward(call);

  float* partial = dweight.present() ? static_cast<float*>(call.workspace) : nullptr;
  const int64_t range = partial ? row_range(shape.n) : row_grain(dy.dim(1));
  with_activation(dy.dtype, [&](auto tag) {
    using D = decltype(tag);
    with_activation(weight.dtype, [&](auto weight_tag) {
      using W = decltype(weight_tag);
      call.pool->parallel_for(shape.n, range, [&](int64_t begin, int64_t end) {
        float* sums = partial ? partial + begin / range * shape.dim : nullptr;
        if (sums) std::memset(sums, 0, static_cast<size_t>(shape.dim) * sizeof(float));
        for (int64_t t = begin; t < end; ++t)
          for (int64_t i = 0; i < shape.heads; ++i) {
            const int64_t head = t * shape.heads + i;
            backward_head(dy.as<D>() + head * shape.dim, x.as<D>() + head * shape.dim,
                          weight.present() ? weight.as<W>() : nullptr, weight.present() ? rstd.as<float>()[head] : 1.0f,
                          cos.as<float>() + t * shape.half, sin.as<float>() + t * shape.half, shape.half,
                          dx.as<D>() + head * shape.dim, sums);
          }
      });
    });
  });
  if (partial && shape.n > 0) add_row_ranges(*call.pool, partial, row_ranges(shape.n), shape.dim, dweight.as<float>());
}

}  // namespace vltune::cpu::VLTUNE_ISA
