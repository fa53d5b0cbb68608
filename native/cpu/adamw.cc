#include "../ops/adamw.h"

#include <cmath>
#include <cstdlib>

#include "../ops/adamw_checks.h"
#include "../ops/code_tables.h"
#include "dynamic_map.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

constexpr int64_t kStateBlock = kAdamwBlock;
constexpr int64_t kChunk = 64 * kStateBlock;  // elements that a thread takes at a time

struct Segment {
  int64_t offset, numel, state;
  bool is_8bit, decays;
};

Segment read_segment(const int32_t* row) {
  return {row[0] * kStateBlock, row[1], row[2] * kStateBlock, row[3] != 0, row[4] != 0};
}

struct Arrays {
  float* params;
  const float* grads;
  uint8_t *m8, *v8;
  float *m8_absmax, *v8_absmax, *m32, *v32;
};

// Scalars of one step, in F32 as the kernels take them.
struct Step {
  float clip, beta1, beta2;
  float one_minus_beta1, one_minus_beta2;
  float step_size;  // -lr * c2 / c1 (bitsandbytes), -lr / c1 (torch)
  float eps;        // c2 * eps is formed with one rounding inside the sum
  float c2;
  float decay;      // 1 - lr * weight_decay
  bool decays;
};

// What bitsandbytes' CUDA kernels compute (csrc/kernels.cu: kOptimizer32bit2State, kOptimizerStatic8bit2StateBlockwise), with
// products and sums fused where nvcc fuses them in the published binaries. Exact here, approximate there (--use_fast_math):
// reciprocals, square roots and powers, so parameters agree closely and the states' bytes but for rare ties; subnormals, which
// CUDA flushes, are kept.
inline Vec update_bitsandbytes(Vec p, Vec m, Vec v, const Step& step) {
  Vec inverse = broadcast(1.0f) / fma_once(broadcast(step.c2), broadcast(step.eps), sqrt(v));
  p = fma_once(broadcast(step.step_size), m * inverse, p);
  return step.decays ? p * broadcast(step.decay) : p;
}

void step_32bit_bitsandbytes(float* p, const float* g, float* m, float* v, int64_t n, const Step& step) {
  each_vector(n, [&](int64_t i, int count) {
    Vec grad = load_part(g + i, count) * broadcast(step.clip);
    Vec v_new = fma_once(load_part(v + i, count), broadcast(step.beta2), broadcast(step.one_minus_beta2) * (grad * grad));
    Vec m_new = fma_once(load_part(m + i, count), broadcast(step.beta1), broadcast(step.one_minus_beta1) * grad);
    store_part(m + i, m_new, count);
    store_part(v + i, v_new, count);
    store_part(p + i, update_bitsandbytes(load_part(p + i, count), m_new, v_new, step), count);
  });
}

// torch.optim.AdamW, single tensor on the CPU: decay, lerp, addcmul, addcdiv, each rounded as ATen rounds it.
void step_32bit_torch(float* p, const float* g, float* m, float* v, int64_t n, const Step& step) {
  each_vector(n, [&](int64_t i, int count) {
    Vec grad = load_part(g + i, count) * broadcast(step.clip), old = load_part(m + i, count);
    Vec decayed = load_part(p + i, count);
    if (step.decays) decayed = decayed * broadcast(step.decay);
    Vec m_new = fma_once(broadcast(step.one_minus_beta1), grad - old, old);
    Vec v_new = fma_once(broadcast(step.one_minus_beta2) * grad, grad, load_part(v + i, count) * broadcast(step.beta2));
    store_part(m + i, m_new, count);
    store_part(v + i, v_new, count);
    Vec denominator = sqrt(v_new) / broadcast(step.c2) + broadcast(step.eps);
    store_part(p + i, decayed + broadcast(step.step_size) * m_new / denominator, count);
  });
}

inline void look_up(const float* map, const uint8_t* codes, int n, float* to) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    _mm512_store_ps(to + i, _mm512_i32gather_ps(index, map, 4));
  }
#endif
  for (; i < n; ++i) to[i] = map[codes[i]];
}

// One block of at most 256 elements, whose state is code * absmax; a gradient that is NaN or infinite zeroes its state
// and leaves its parameter alone.
void step_8bit_block(float* p, const float* g, uint8_t* m8, uint8_t* v8, float* m_absmax, float* v_absmax, int n, const Step& step) {
  const DynamicMap &signed_map = signed_dynamic_map(), &unsigned_map = unsigned_dynamic_map();
  alignas(64) float m[kStateBlock], v[kStateBlock];
  const float m_scale = *m_absmax, v_scale = *v_absmax;
  look_up(kDynamicMapSigned, m8, n, m);
  look_up(kDynamicMapUnsigned, v8, n, v);
  // Lanes of a short block that have no element hold code 128 of m in the CUDA kernel, and so count in its absmax.
  const float m_least = n < kStateBlock ? kDynamicMapSigned[128] * m_scale * step.beta1 : 0.0f;
  Vec m_largest = broadcast(m_least), v_largest = zero();
  each_vector(n, [&](int64_t i, int count) {
    Vec raw = load_part(g + i, count), grad = raw * broadcast(step.clip);
    Vec m_new = fma_once(grad, broadcast(step.one_minus_beta1), load_part(m + i, count) * broadcast(m_scale) * broadcast(step.beta1));
    Vec v_new = fma_once(grad, broadcast(step.one_minus_beta2) * grad, load_part(v + i, count) * broadcast(v_scale) * broadcast(step.beta2));
    Mask finite = less(abs(raw), broadcast(bits_float(0x7f800000)));
    m_new = select(finite, m_new, zero());
    v_new = select(finite, v_new, zero());
    store_part(m + i, m_new, count);
    store_part(v + i, v_new, count);
    m_largest = max(abs(m_new), m_largest);
    v_largest = max(abs(v_new), v_largest);
    Vec old = load_part(p + i, count);
    store_part(p + i, select(finite, update_bitsandbytes(old, m_new, v_new, step), old), count);
  });
  const float m_most = reduce_max(m_largest), v_most = reduce_max(v_largest);
  *m_absmax = m_most;
  *v_absmax = v_most;
  signed_map.nearest(m, 1.0f / m_most, n, m8);
  unsigned_map.nearest(v, 1.0f / v_most, n, v8);
  // The code must have m's sign; where it does not, it moves by one. Codes below 127 are negative, 127 is zero. (A block of zeros:
  // 0 * inf is NaN, code 0; one less, in 8 bits, is 255, whose value, 1.0 * absmax, is 0 again.)
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = float_bits(m[i]);
    const bool negative = bits >> 31, wrong = (m8[i] < 127) != negative;
    m8[i] = static_cast<uint8_t>(m8[i] + (wrong ? (!negative && (bits << 1) != 0 ? 1 : -1) : 0));
  }
}

// F32 hyperparameters come from decimal numbers. torch computes 1 - beta and the like in F64 from those, so take the number of
// seven digits that rounds to this F32 if there is one, else the F32 itself.
double as_written(float x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", static_cast<double>(x));
  const double decimal = std::strtod(text, nullptr);
  return static_cast<float>(decimal) == x ? decimal : static_cast<double>(x);
}

Step make_step(const float* hyper, float clip, bool torch) {
  const float lr = hyper[0], eps = hyper[3], weight_decay = hyper[4];
  const double b1 = as_written(hyper[1]), b2 = as_written(hyper[2]), t = static_cast<double>(hyper[5]);
  const double c1 = 1 - std::pow(b1, t), c2 = std::sqrt(1 - std::pow(b2, t));
  Step step{};
  step.clip = clip;
  step.beta1 = hyper[1];
  step.beta2 = hyper[2];
  step.eps = eps;
  step.c2 = static_cast<float>(c2);
  if (torch) {
    const double rate = as_written(lr);
    step.one_minus_beta1 = static_cast<float>(1 - b1);
    step.one_minus_beta2 = static_cast<float>(1 - b2);
    step.step_size = static_cast<float>(-(rate / c1));
    step.decay = static_cast<float>(1 - rate * as_written(weight_decay));
  } else {
    // The kernel's own powers are approximate: off by some 1e-4 of c1 and c2 in the first steps. These are exact.
    step.one_minus_beta1 = 1.0f - step.beta1;
    step.one_minus_beta2 = 1.0f - step.beta2;
    step.step_size = -(lr * step.c2) / static_cast<float>(c1);
    step.decay = ::fmaf(-lr, weight_decay, 1.0f);
  }
  return step;
}

}  // namespace

size_t grad_norm_workspace(const OpCall&) { return 0; }

void grad_norm(const OpCall& call) {
  const Tensor &grads = input(call, 0), &scale = input(call, 1), &norm = output(call, 0), &clip = output(call, 1);
  check_grad_norm(call, grads, scale, norm, clip);
  // At most 64 ranges, and 16 sums in each whatever the width of the vectors: the same bits on every machine.
  constexpr int64_t kRanges = 64, kSums = 16;
  const int64_t n = grads.dim(0), longest = (n + kRanges - 1) / kRanges;
  const int64_t range = longest > kElementGrain ? longest : kElementGrain;
  const float* g = grads.as<float>();
  double partial[kRanges] = {};
  call.pool->parallel_for(n, range, [&](int64_t begin, int64_t end) {
    double sums[kSums] = {};
    int64_t i = begin;
    for (; i + kSums <= end; i += kSums)
      for (int j = 0; j < kSums; ++j) sums[j] += static_cast<double>(g[i + j]) * static_cast<double>(g[i + j]);
    for (int j = 0; i < end; ++i, ++j) sums[j] += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    double total = 0;
    for (double sum : sums) total += sum;
    partial[begin / range] = total;
  });
  double total = 0;
  for (double sum : partial) total += sum;
  const float by = scale.present() ? *scale.as<float>() : 1.0f, length = static_cast<float>(std::sqrt(total)) / by;
  const float most = static_cast<float>(call.attrs->number("max_grad_norm", 0));
  *norm.as<float>() = length;
  const float coefficient = most > 0 ? most / (length + 1e-6f) : 1.0f;
  *clip.as<float>() = std::isfinite(length) ? (coefficient > 1.0f ? 1.0f : coefficient) / by : 0.0f;
}

void adamw(const OpCall& call) {
  const Tensor &grads = input(call, 0), &clip = input(call, 1), &hyper = input(call, 2), &segments = input(call, 3);
  const AdamwSizes sizes = check_adamw(call);
  const int32_t* rows = segments.as<int32_t>();
  const int64_t count = segments.dim(0);
  int64_t chunks = 0;
  for (int64_t k = 0; k < count; ++k) {
    const Segment s = read_segment(rows + k * 6);
    const int64_t state_size = s.is_8bit ? sizes.state8 : sizes.state32;
    VLTUNE_CHECK(s.offset >= 0 && s.numel >= 0 && s.state >= 0 && s.offset + s.numel <= sizes.params && s.state + s.numel <= state_size,
                 "ERR_ARGUMENT",
                 "%s: segments[%lld] is elements %lld..%lld of params, %lld..%lld of %s state; those hold %lld and %lld", call.op,
                 static_cast<long long>(k), static_cast<long long>(s.offset), static_cast<long long>(s.offset + s.numel),
                 static_cast<long long>(s.state), static_cast<long long>(s.state + s.numel), s.is_8bit ? "8-bit" : "32-bit",
                 static_cast<long long>(sizes.params), static_cast<long long>(state_size));
    VLTUNE_CHECK(!s.is_8bit || !sizes.torch, "ERR_ARGUMENT", "%s: segments[%lld] has 8-bit state, which variant 1 (torch) has not",
                 call.op, static_cast<long long>(k));
    chunks += (s.numel + kChunk - 1) / kChunk;
  }
  const Arrays a = {output(call, 0).as<float>(), grads.as<float>(),           output(call, 1).as<uint8_t>(), output(call, 2).as<uint8_t>(),
                    output(call, 3).as<float>(), output(call, 4).as<float>(), output(call, 5).as<float>(),   output(call, 6).as<float>()};
  if (*clip.as<float>() == 0) return;
  const Step shared = make_step(hyper.as<float>(), *clip.as<float>(), sizes.torch);
  const bool weight_decay = hyper.as<float>()[4] > 0;
  // One task a chunk; all segments' chunks are counted through.
  call.pool->parallel_for(chunks, 1, [&](int64_t begin, int64_t) {
    int64_t chunk = begin, k = 0;
    Segment s = read_segment(rows);
    for (int64_t of_segment; chunk >= (of_segment = (s.numel + kChunk - 1) / kChunk); s = read_segment(rows + ++k * 6)) chunk -= of_segment;
    const int64_t first = chunk * kChunk, last = first + kChunk < s.numel ? first + kChunk : s.numel;
    Step step = shared;
    step.decays = weight_decay && s.decays;
    float* p = a.params + s.offset;
    const float* g = a.grads + s.offset;
    if (s.is_8bit) {
      for (int64_t i = first; i < last; i += kStateBlock) {
        const int64_t state = s.state + i;
        const int n = static_cast<int>(last - i < kStateBlock ? last - i : kStateBlock);
        step_8bit_block(p + i, g + i, a.m8 + state, a.v8 + state, a.m8_absmax + state / kStateBlock, a.v8_absmax + state / kStateBlock, n, step);
      }
    } else if (!sizes.torch) {
      step_32bit_bitsandbytes(p + first, g + first, a.m32 + s.state + first, a.v32 + s.state + first, last - first, step);
    } else {
      step_32bit_torch(p + first, g + first, a.m32 + s.state + first, a.v32 + s.state + first, last - first, step);
    }
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
