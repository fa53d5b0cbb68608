#pragma once

namespace vltune::cuda {

// Waits for copies that were begun and not ended: of single ops, outside of a program.
void wait_for_moves();

}  // namespace vltune::cuda
