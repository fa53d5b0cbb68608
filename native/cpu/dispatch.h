// From a dtype known at run time to a type known at compile time: with_activation(dtype, [&](auto tag) { using D = decltype(tag); ... }).
#pragma once
#include "../runtime/tensor.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

template <class Body> inline void with_activation(DType dtype, Body&& body) {
  if (dtype == DType::BF16) body(Bf16{});
  else body(float{});
}

template <class Body> inline void with_float(DType dtype, Body&& body) {
  if (dtype == DType::F16) body(F16{});
  else with_activation(dtype, body);
}

}  // namespace vltune::cpu::VLTUNE_ISA
