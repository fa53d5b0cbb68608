// What the kernels for a few tokens against a long cache share (decode.cu, decode_mma.cu).
#pragma once
#include "shape.h"
#include "tiles.cuh"

namespace vltune::cuda::attn {

constexpr int kLeastKeys = 64;  // of a stretch: fewer are not worth a block

struct DecodeArgs {
  const void *q, *k, *v;
  void *k_cache, *v_cache, *o;
  float* sums;                // [stretches][tokens * heads][head_dim]
  float2* states;             // [stretches][tokens * heads] of maximum (base 2) and sum
  const int32_t* past;
  int64_t capacity;
  int tokens, heads, kv_heads, head_dim, stretches, row_blocks;
  float scale;
  Fault* fault;
};

#ifdef __CUDACC__
// The cache's rows before the new tokens; false if these do not fit.
__device__ inline bool room(const int32_t* past, int tokens, int64_t capacity, int* before) {
  *before = *past;
  return *before >= 0 && *before + int64_t{tokens} <= capacity;
}

__device__ inline int stretch_keys(int keys, int stretches) {
  const int even = (keys + stretches - 1) / stretches;
  return max((even + 7) / 8 * 8, kLeastKeys);
}

#endif

// The stretches' sums and states by the matrix units, 16 queries to a block (args.row_blocks); the caller has asked takes_stretches_mma.
constexpr int kMatrixRows = 16;
bool takes_stretches_mma(const Cached& pass);
void stretches_mma(const OpCall& call, const DecodeArgs& args, DType dtype);

}  // namespace vltune::cuda::attn
