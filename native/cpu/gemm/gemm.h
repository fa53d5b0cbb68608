// The one matrix product of the CPU backend.
//
//   C[m, n] (+)= alpha * (A B + drop'(A2 B2)) + bias
//
// The second product is a LoRA adapter's: it rides inside the first one, over the same tile of C. Operands lie in memory as
// row-major matrices of any storage dtype, straight or transposed, and become F32 (or BF16) while they are packed, so that no
// weight is ever dequantised whole. Sums are F32 in the order of k, cut in runs of fixed length: the bits of C depend on the
// shapes and on the instruction set, never on the number of threads.
#pragma once
#include "../../runtime/thread_pool.h"
#include "operand.h"

namespace vltune::cpu::VLTUNE_ISA {

struct Product {
  Operand a, b;   // A[m, k], B[k, n]
  int64_t k = 0;  // 0: no product
};

struct Gemm {
  int64_t m = 0, n = 0;
  Product base, extra;
  const Dropout* extra_dropout = nullptr;  // drop': the mask of (row, column) of C on extra's product
  float alpha = 1;
  const void* bias = nullptr;  // [n], F32 or BF16
  DType bias_dtype = DType::F32;
  void* c = nullptr;  // row-major, contiguous
  DType c_dtype = DType::F32;  // or BF16, rounded once
  bool accumulate = false;
  bool bf16 = false;  // factors are rounded to BF16
};

// Scratch bytes for gemm(): depends on shapes, dtypes and threads. Data pointers may be null.
size_t gemm_workspace(const Gemm& g, int threads);
// Enough for any smaller m too; and, where C is F32, for any smaller k.
size_t gemm_workspace_up_to(const Gemm& g, int threads);
void gemm(const Gemm& g, ThreadPool* pool, void* workspace);

// The products around an adapter: `down` makes main's second A, which those of `after` may read too. Any may be empty (m = 0).
struct AdapterProducts {
  Gemm down, main, after[2];
};
size_t gemm_workspace(const AdapterProducts& p, int threads);
void gemm(const AdapterProducts& p, ThreadPool* pool, void* workspace);

}  // namespace vltune::cpu::VLTUNE_ISA
