#include "../ops/qkv_rope.h"

#include "../ops/check.h"
#include "dispatch.h"
#include "partition.h"
#include "rotate.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

struct Heads { int64_t n, width, half; };  // width: of all heads together

// The parts are what stands beside qkv [n, 3 * width]: three of [n, width].
Heads check_heads(const OpCall& call, const Tensor& qkv, const char* name, const Tensor& cos, const Tensor& sin,
                  const Tensor (&parts)[3], const char* const (&names)[3]) {
  check_operand(call, qkv, name, kIsActivation, {kAny, kAny});
  const int64_t dim = call.attrs->integer("head_dim", 0), columns = qkv.dim(1);
  VLTUNE_CHECK(dim > 0 && dim % 2 == 0, "ERR_ARGUMENT", "%s: head_dim is %lld, expected a positive even number", call.op,
               static_cast<long long>(dim));
  VLTUNE_CHECK(columns % 3 == 0 && columns / 3 % dim == 0, "ERR_SHAPE",
               "%s: %s has %lld columns, expected a multiple of 3 times head_dim %lld", call.op, name, static_cast<long long>(columns),
               static_cast<long long>(dim));
  const Heads heads{qkv.dim(0), columns / 3, dim / 2};
  check_operand(call, cos, "cos", kIsF32, {heads.n, heads.half});
  check_operand(call, sin, "sin", kIsF32, {heads.n, heads.half});
  for (int i = 0; i < 3; ++i) check_operand(call, parts[i], names[i], dtype_bit(qkv.dtype), {heads.n, heads.width});
  return heads;
}

// turn(pair, cos, sin) for every pair of the heads in a row.
template <class D, class Turn>
void turn_heads(const D* from, D* to, const float* cos, const float* sin, const Heads& heads, Turn&& turn) {
  for (int64_t head = 0; head < heads.width; head += 2 * heads.half)
    each_vector(heads.half, [&](int64_t j, int count) {
      const Pair pair = load_pair(from + head + j, heads.half, count);
      store_pair(to + head + j, heads.half, turn(pair, load_part(cos + j, count), load_part(sin + j, count)), count);
    });
}

}  // namespace

void qkv_rope(const OpCall& call) {
  const Tensor &qkv = input(call, 0), &cos = input(call, 1), &sin = input(call, 2);
  const Tensor parts[3] = {output(call, 0), output(call, 1), output(call, 2)};
  const Heads heads = check_heads(call, qkv, "qkv", cos, sin, parts, {"q", "k", "v"});
  const int64_t width = heads.width;
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
  const Heads heads = check_heads(call, dqkv, "dqkv", cos, sin, parts, {"dq", "dk", "dv"});
  const int64_t width = heads.width;
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
