#pragma once
#include <cuda_runtime.h>

namespace vltune::cuda {

// Waits for copies that were begun and not ended, and forgets them: those of single ops, and of a run that broke off. Never under
// capture; after one that was dropped no move_end may look for an event that it recorded.
cudaError_t settle_moves();

}  // namespace vltune::cuda
