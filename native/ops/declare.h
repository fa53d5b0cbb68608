// VLTUNE_OP(name) declares an op's functions. On the CPU there is one for every instruction set that the addon carries:
// native/cpu/*.cc is compiled once for each, with VLTUNE_ISA set to its name, and the best one is chosen at run time
// (native/runtime/dispatch.cc). On CUDA (native/cuda) there is one, in a build that has it.
// D in the contracts is the dtype of activations: F32 or BF16, and on CUDA also F16, whose results are infinite where they are too large.
#pragma once
#include "../runtime/op.h"

#define VLTUNE_OP(name)                                              \
  namespace vltune::cpu {                                            \
  namespace portable { void name(const OpCall&); }                   \
  namespace avx2 { void name(const OpCall&); }                       \
  namespace avx512 { void name(const OpCall&); }                     \
  }                                                                  \
  namespace vltune::cuda { void name(const OpCall&); }
#define VLTUNE_OP_WORKSPACE(name)                                    \
  namespace vltune::cpu {                                            \
  namespace portable { size_t name##_workspace(const OpCall&); }     \
  namespace avx2 { size_t name##_workspace(const OpCall&); }         \
  namespace avx512 { size_t name##_workspace(const OpCall&); }       \
  }                                                                  \
  namespace vltune::cuda { size_t name##_workspace(const OpCall&); }
