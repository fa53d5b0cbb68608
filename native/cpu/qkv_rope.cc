#include "../ops/qkv_rope.h"

#include "../ops/qkv_rope_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "rotate.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

// turn(pair, cos, sin) for every pair of the heads in a row.
template <class D, class Turn>
void turn_heads(const D* from, D* to, const float* cos, const float* sin, const Heads& heads, Turn&& turn) {
  for (int64_t head = 0; head < heads.heads * heads.dim; head += heads.dim)
    each_vector(heads.half, [&](int64_t j, int count) {
      const Pair pair = load_pair(from + head + j, heads.half, count);
      store_pair(to + head + j, heads.half, turn(pair, load_part(cos + j, count), load_part(sin + j, count)), count);
    });
}

}  // namespace

void qkv_rope(const OpCall& call) {
  const Tensor &qkv = input(call, 0), &cos = input(call, 1), &sin = input(call, 2);
  const Tensor parts[3] = {output(call, 0), output(call, 1), output(call, 2)};
  const Heads heads = check_qkv_rope(call);
  const int64_t width = heads.heads * heads.dim;
  with_activation(qkv.dtype, [&](auto tag) {
    using D = decltype(tag);
    call.pool->parallel_for(heads.n, row_grain(3 * width), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const D* row = qkv.as<D>() + t * 3 * width;
        const float *c = cos.as<float>() + t * heads.half, *s = sin.as<float>() + t * heads.half;
        for (int part = 0; part < 2; ++part) turn_heads(row + part * width, parts[part].as<D>() + t * width, c, s, heads, rotate);
        std::memcpy(parts[2].as<D>() + t * width, row + 2 * width, static_cast<size_t>(width) * sizeof(D));
      }
    });
  });
}

void qkv_rope_backward(const OpCall& call) {
  const Tensor &cos = input(call, 3), &sin = input(call, 4), &dqkv = output(call, 0);
  const Tensor parts[3] = {input(call, 0), input(call, 1), input(call, 2)};
  const Heads heads = check_qkv_rope_backward(call);
  const int64_t width = heads.heads * heads.dim;
  with_activation(dqkv.dtype, [&](auto tag) {
    using D = decltype(tag);
    call.pool->parallel_for(heads.n, row_grain(3 * width), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        D* row = dqkv.as<D>() + t * 3 * width;
        const float *c = cos.as<float>() + t * heads.half, *s = sin.as<float>() + t * heads.half;
        for (int part = 0; part < 2; ++part) turn_heads(parts[part].as<D>() + t * width, row + part * width, c, s, heads, rotate_back);
        std::memcpy(row + 2 * width, parts[2].as<D>() + t * width, static_cast<size_t>(width) * sizeof(D));
      }
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
