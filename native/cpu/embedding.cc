#include "../ops/embedding.h"

#include "../ops/embedding_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

void embedding(const OpCall& call) {
  const Tensor &ids = input(call, 0), &weight = input(call, 1), &y = output(call, 0);
  check_embedding(call, ids, weight, y);
  const int64_t n = ids.dim(0), d = weight.dim(1);
  const int32_t* id = ids.as<int32_t>();
  check_ids(call, "ids", id, n, weight.dim(0));
  with_float(weight.dtype, [&](auto weight_tag) {
    with_activation(y.dtype, [&](auto y_tag) {
      const auto* table = weight.as<decltype(weight_tag)>();
      auto* rows = y.as<decltype(y_tag)>();
      call.pool->parallel_for(n, row_grain(d), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) convert(table + id[t] * d, rows + t * d, d);
      });
    });
  });
}

// Threads take columns, so each element of dweight is summed by one thread, in ascending t.
void embedding_backward(const OpCall& call) {
  const Tensor &ids = input(call, 0), &dy = input(call, 1), &dweight = output(call, 0);
  check_embedding_backward(call, ids, dy, dweight);
  const int64_t n = ids.dim(0), d = dy.dim(1);
  const int32_t* id = ids.as<int32_t>();
  check_ids(call, "ids", id, n, dweight.dim(0));
  float* sums = dweight.as<float>();
  constexpr int64_t kColumns = 256;
  with_activation(dy.dtype, [&](auto tag) {
    const auto* rows = dy.as<decltype(tag)>();
    call.pool->parallel_for(d, kColumns, [&](int64_t begin, int64_t end) {
      for (int64_t t = 0; t < n; ++t) {
        const auto* from = rows + t * d + begin;
        float* to = sums + id[t] * d + begin;
        each_vector(end - begin, [&](int64_t j, int count) {
          store_part(to + j, load_part(to + j, count) + load_part(from + j, count), count);
        });
      }
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
