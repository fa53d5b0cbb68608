// cuBLASLt, opened at run time so that the addon loads on a machine without it: 13 or 12, from the loader's own path, from
// VLTUNE_CUBLASLT (a file) if it is set, else from the usual folders of a CUDA toolkit.
#pragma once
#include <string>

namespace vltune::cuda {

struct BlasInfo {
  bool found;
  std::string path;     // of the library
  int version;          // as the library counts: 130001 is 13.0.1
  std::string reason;   // why there is none
};

// Opens the library on first use, with the memory that its products share: call it before a graph is captured.
const BlasInfo& blas_info();

}  // namespace vltune::cuda
