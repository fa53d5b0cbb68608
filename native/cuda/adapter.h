// The adapter's small products around the large one, each bound by reading one activation once. D is F32, BF16 or F16; factors
// are rounded to D, and sums are F32.
#pragma once
#include "device.h"
#include "dropout.cuh"

namespace vltune::cuda {

// The large product's second run along K is this many columns or a multiple.
constexpr int64_t kRankStep = 16;
__host__ __device__ constexpr int64_t padded_rank(int64_t rank) { return (rank + kRankStep - 1) / kRankStep * kRankStep; }

// Copied on the way: F32[from_rows,from_columns] to D[to_rows,to_columns], zeros outside.
struct Pad {
  const float* from = nullptr;
  void* to = nullptr;          // nullptr: nothing
  int64_t from_rows = 0, from_columns = 0, to_rows = 0, to_columns = 0;
};
constexpr int kMostPads = 2;

// result = scale * drop(x) F, where F is lora_a transposed (forward) or lora_b as it lies (backward).
struct Down {
  int64_t n, k, rank;          // n may be 0, for the pads alone
  DType dtype;
  const void* x;               // D[n,k]
  const float* factor;         // [k,rank] if factor_is_kr, else [rank,k]
  bool factor_is_kr;
  float scale;
  Dropout dropout;
  float* result;               // F32[n,rank], or nullptr
  void* padded;                // D[n,padded_rank], zeros behind the rank; or nullptr
  Pad pads[kMostPads];
  // Converted on the way, or by itself: the large product's weight, to D in scratch memory (weight.h). nullptr: nothing.
  const Tensor* weight = nullptr;
  void* plain = nullptr;
};
void adapter_down(const OpCall& call, const Down& down);

// dx (+)= drop'(V A): the mask of dx on V A. V is D[n,padded_rank], A F32[rank,columns].
void adapter_through(const OpCall& call, DType dtype, int64_t n, int64_t columns, int64_t rank, const void* v, const float* a,
                     const Dropout& dropout, bool accumulate, void* dx);

// sums += M^T F over the rows of M, as [columns,rank], or as [rank,columns] if rank_first. No factor: ones, rank 1.
struct Sum {
  int64_t columns = 0, rank = 0;
  const void* m = nullptr;       // D[n,columns]
  const void* factor = nullptr;  // D[n,ld]; with 16 bits ld is the padded rank, and rows start at multiples of 16 bytes
  int64_t ld = 0;
  bool rank_first = false;
  Dropout dropout{};             // of M
  float* sums = nullptr;         // F32
};
constexpr int kMostSums = 3;
// Rows are taken in fixed stretches, whose sums are added in order.
size_t adapter_sums_workspace(DType dtype, int64_t n, const Sum* sums, int count);
void adapter_sums(const OpCall& call, DType dtype, int64_t n, const Sum* sums, int count, void* workspace);

}  // namespace vltune::cuda
