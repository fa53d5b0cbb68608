// cuBLASLt, opened at run time so that the addon loads on a machine without it: 13 or 12, from the loader's own path, from
// VLTUNE_CUBLASLT (a file) if it is set, else from the usual folders of a CUDA toolkit.
#pragma once
#include "../shared_library.h"

namespace vltune::cuda {

// Opens the library on first use, with the memory that its products share: call it before a graph is captured. version: 130001 is 13.0.1.
const LibraryInfo& blas_info();

}  // namespace vltune::cuda
