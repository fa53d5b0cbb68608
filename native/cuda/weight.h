// A stored weight in the dtype that a product takes: as it lies, or converted into scratch memory.
#pragma once
#include "device.h"

namespace vltune::cuda {

// Bytes of scratch that weight_as needs: 0 where the weight is used as it lies.
size_t weight_workspace(const Tensor& weight, DType dtype);
// F32, BF16 or F16 [o,i], rounded once.
const void* weight_as(const OpCall& call, const Tensor& weight, DType dtype, void* scratch);

}  // namespace vltune::cuda
