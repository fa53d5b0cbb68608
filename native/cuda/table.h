#pragma once
#include "../runtime/op.h"

namespace vltune::cuda {

extern const OpEntry kTable[];  // ends with name == nullptr

}  // namespace vltune::cuda
