// A copy that goes on beside the ops that follow, for what leaves the GPU's memory and comes back.
//   move_begin   in: x any[...]                   out: y of x's dtype and as many elements     starts y = x
//   move_end     in: x, y                         out: none                                    waits for the copy of this slot, if there is one
// attrs: slot (0 to kMostSlots - 1), the number of a copy: it is free again after move_end. Between the two nothing may write x, or touch y.
// On CUDA a second stream copies; either side may lie in pinned memory. On the CPU move_begin copies, and move_end does nothing.
#pragma once
#include "declare.h"

namespace vltune {
constexpr int64_t kMostSlots = 1024;
}

VLTUNE_OP(move_begin)
VLTUNE_OP(move_end)
