// The linear layer for a few rows, as in generation: bound by reading the weight once, as it is stored.
#pragma once
#include "device.h"
#include "dropout.cuh"

namespace vltune::cuda {

constexpr int64_t kGemvRows = 8;

struct Gemv {
  int64_t n, in, out, rank;  // n at most kGemvRows; rank 0: no adapter
  DType dtype;               // of x and y
  const void* x;
  const Tensor* weight;      // NF4, F32, BF16 or F16, [out,in]
  const void* bias;          // or nullptr
  DType bias_dtype;
  const float *a, *b;
  float scale;
  Dropout dropout;
  float* u;                  // F32[n,rank]
  void* y;
};
void linear_gemv(const OpCall& call, const Gemv& gemv);

}  // namespace vltune::cuda
