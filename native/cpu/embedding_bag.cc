#include "../ops/embedding_bag.h"

#include "../ops/embedding_bag_checks.h"
#include "dispatch.h"
#include "partition.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

void embedding_bag(const OpCall& call) {
  const Tensor &ids = input(call, 0), &weights = input(call, 1), &table = input(call, 2), &x = input(call, 3), &y = output(call, 0);
  check_embedding_bag(call, ids, weights, table, x, y);
  const int64_t n = ids.dim(0), taps = ids.dim(1), d = table.dim(1);
  const int32_t* id = ids.as<int32_t>();
  check_ids(call, "ids", id, n * taps, table.dim(0));
  const float* weight = weights.as<float>();
  with_float(table.dtype, [&](auto table_tag) {
    with_activation(y.dtype, [&](auto y_tag) {
      using D = decltype(y_tag);
      const auto* rows = table.as<decltype(table_tag)>();
      call.pool->parallel_for(n, row_grain(d), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
          each_vector(d, [&](int64_t j, int count) {
            Vec sum = x.present() ? load_part(x.as<D>() + t * d + j, count) : zero();
            for (int64_t k = t * taps; k < (t + 1) * taps; ++k)
              sum = fma(broadcast(weight[k]), load_part(rows + id[k] * d + j, count), sum);
            store_part(y.as<D>() + t * d + j, sum, count);
          });
      });
    });
  });
}

// Threads take columns, so each element of dtable is summed by one thread, in order.
void embedding_bag_backward(const OpCall& call) {
  const Tensor &ids = input(call, 0), &weights = input(call, 1), &dy = input(call, 2), &dtable = output(call, 0);
  check_embedding_bag_backward(call, ids, weights, dy, dtable);
  const int64_t n = ids.dim(0), taps = ids.dim(1), d = dy.dim(1);
  const int32_t* id = ids.as<int32_t>();
  check_ids(call, "ids", id, n * taps, dtable.dim(0));
  const float* weight = weights.as<float>();
  constexpr int64_t kColumns = 256;
  with_activation(dy.dtype, [&](auto tag) {
    const auto* rows = dy.as<decltype(tag)>();
    call.pool->parallel_for(d, kColumns, [&](int64_t begin, int64_t end) {
      for (int64_t t = 0; t < n; ++t)
        for (int64_t k = t * taps; k < (t + 1) * taps; ++k) {
          const auto* from = rows + t * d + begin;
          float* to = dtable.as<float>() + id[k] * d + begin;
          const Vec share = broadcast(weight[k]);
          each_vector(end - begin, [&](int64_t j, int count) {
            store_part(to + j, fma(share, load_part(from + j, count), load_part(to + j, count)), count);
          });
        }
    });
  });
}

}  // namespace vltune::cpu::VLTUNE_ISA
