#include "../ops/scatter_rows.h"

#include <algorithm>

#include "../ops/scatter_rows_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

void scatter_rows(const OpCall& call) {
  const Tensor &x = input(call, 0), &rows = input(call, 1), &values = input(call, 2), &y = output(call, 0);
  check_scatter_rows(call, x, rows, values, y);
  const int64_t n = x.dim(0), d = x.dim(1), m = rows.dim(0);
  const bool accumulate = call.attrs->flag("accumulate");
  const int32_t* row = rows.as<int32_t>();
  check_ids(call, "rows", row, m, n);
  for (int64_t i = 1; i < m; ++i)
    VLTUNE_CHECK(row[i] > row[i - 1], "ERR_ARGUMENT", "%s: rows[%lld] is %d, expected more than rows[%lld], %d", call.op,
                 static_cast<long long>(i), row[i], static_cast<long long>(i - 1), row[i - 1]);
  with_activation(x.dtype, [&](auto tag) {
    using D = decltype(tag);
    const size_t bytes = static_cast<size_t>(d) * sizeof(D);
    call.pool->parallel_for(n, row_grain(d), [&](int64_t begin, int64_t end) {
      int64_t i = std::lower_bound(row, row + m, begin) - row;
      for (int64_t t = begin; t < end; ++t) {
        const D* from = x.as<D>() + t * d;
        D* to = y.as<D>() + t * d;
        if (i == m || row[i] != t) {
          if (from != to) std::memcpy(to, from, bytes);
          continue;
        }
        const D* value = values.present() ? values.as<D>() + i * d : nullptr;
        ++i;
        if (accumulate)
          each_vector(d, [&](int64_t j, int count) {
            store_part(to + j, load_part(from + j, count) + load_part(value + j, count), count);
          });
        else if (value)
          std::memcpy(to, value, bytes);
        else
          std::memset(static_cast<void*>(to), 0, bytes);
      }
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
