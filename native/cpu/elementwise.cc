#include "../ops/elementwise.h"

#include "../ops/check.h"
#include "dispatch.h"
#include "nf4.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

void add(const OpCall& call) {
  const Tensor &a = input(call, 0), &b = input(call, 1), &y = output(call, 0);
  check_present(call, a, "a");
  check_present(call, b, "b");
  check_present(call, y, "y");
  check_dtype(call, a, "a", kIsActivation);
  check_dtype(call, b, "b", dtype_bit(a.dtype));
  check_dtype(call, y, "y", dtype_bit(a.dtype));
  check_numel(call, b, "b", a.numel());
  check_numel(call, y, "y", a.numel());
  with_activation(a.dtype, [&](auto tag) {
    using D = decltype(tag);
    call.pool->parallel_for(a.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
      const D *from_a = a.as<D>() + begin, *from_b = b.as<D>() + begin;
      D* to = y.as<D>() + begin;
      each_vector(end - begin, [&](int64_t i, int count) {
        store_part(to + i, load_part(from_a + i, count) + load_part(from_b + i, count), count);
      });
    });
  });
}

void cast(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_present(call, x, "x");
  check_present(call, y, "y");
  check_dtype(call, x, "x", kIsFloat | kIsNf4);
  check_dtype(call, y, "y", kIsActivation);
  check_numel(call, y, "y", x.numel());
  with_activation(y.dtype, [&](auto y_tag) {
    auto* to = y.as<decltype(y_tag)>();
    call.pool->parallel_for(x.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
      if (x.dtype == DType::NF4) {
        nf4_read(x, begin, end - begin, to + begin);
      } else {
        with_float(x.dtype, [&](auto x_tag) { convert(x.as<decltype(x_tag)>() + begin, to + begin, end - begin); });
      }
    });
  });
}

void fill(const OpCall& call) {
  const Tensor& y = output(call, 0);
  check_present(call, y, "y");
  check_dtype(call, y, "y", kIsF32);
  const Vec value = broadcast(static_cast<float>(call.attrs->number("value", 0)));
  call.pool->parallel_for(y.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int count) { store_part(y.as<float>() + begin + i, value, count); });
  });
}

void select_rows(const OpCall& call) {
  const Tensor &x = input(call, 0), &rows = input(call, 1), &y = output(call, 0);
  check_operand(call, x, "x", kIsActivation, {kAny, kAny});
  check_operand(call, rows, "rows", kIsI32, {kAny});
  const int64_t m = rows.dim(0), d = x.dim(1);
  check_operand(call, y, "y", dtype_bit(x.dtype), {m, d});
  const int32_t* row = rows.as<int32_t>();
  check_ids(call, "rows", row, m, x.dim(0));
  const int64_t bytes = static_cast<int64_t>(dtype_bytes(x.dtype, d));
  call.pool->parallel_for(m, row_grain(d), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      std::memcpy(y.as<char>() + t * bytes, x.as<char>() + row[t] * bytes, static_cast<size_t>(bytes));
  });
}

void copy(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_operand(call, x, "x", kIsU8, {kAny});
  check_operand(call, y, "y", kIsU8, {x.dim(0)});
  call.pool->parallel_for(x.dim(0), 4 * kElementGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(y.as<char>() + begin, x.as<char>() + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
