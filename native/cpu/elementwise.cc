#include "../ops/elementwise.h"

#include "../ops/elementwise_checks.h"
#include "dispatch.h"
#include "nf4.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

void add(const OpCall& call) {
  const Tensor &a = input(call, 0), &b = input(call, 1), &y = output(call, 0);
  check_add(call, a, b, y);
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
  check_cast(call, x, y);
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
  check_fill(call, y);
  const Vec value = broadcast(static_cast<float>(call.attrs->number("value", 0)));
  call.pool->parallel_for(y.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int count) { store_part(y.as<float>() + begin + i, value, count); });
  });
}

void select_rows(const OpCall& call) {
  const Tensor &x = input(call, 0), &rows = input(call, 1), &y = output(call, 0);
  check_select_rows(call, x, rows, y);
  const int64_t m = rows.dim(0), d = x.dim(1);
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
  check_copy(call, x, y);
  call.pool->parallel_for(x.dim(0), 4 * kElementGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(y.as<char>() + begin, x.as<char>() + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
