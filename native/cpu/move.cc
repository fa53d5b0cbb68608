#include "../ops/move.h"

#include <cstring>

#include "../ops/move_checks.h"
#include "partition.h"

namespace vltune::cpu::VLTUNE_ISA {

void move_begin(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_move(call, x, y);
  const auto* from = x.as<std::byte>();
  auto* to = y.as<std::byte>();
  call.pool->parallel_for(static_cast<int64_t>(dtype_bytes(x.dtype, x.numel())), kElementGrain * 4, [&](int64_t begin, int64_t end) {
    std::memmove(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

void move_end(const OpCall& call) { check_move(call, input(call, 0), input(call, 1)); }

}  // namespace vltune::cpu::VLTUNE_ISA
