// The adapter's small products (adapter.h) on Hopper, by TMA and wgmma: false if they do not take this one.
#pragma once
#include "adapter.h"

namespace vltune::cuda {

// BF16, rank up to 64, k a multiple of 8, no dropout. `splits` blocks share rows along K: 1, 2 or 4, or 0 for the best.
bool adapter_down_sm90(const OpCall& call, const Down& down, int splits = 0);
// The same, columns being multiples of 8; every sum has a factor. No workspace.
bool adapter_sums_sm90(const OpCall& call, DType dtype, int64_t n, const Sum* sums, int count, int splits = 0);

}  // namespace vltune::cuda
