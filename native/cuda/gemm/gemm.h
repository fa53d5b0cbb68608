// The dense product that every linear layer, its gradient and the loss are made of, with a second run along K: the adapter rides
// inside. Row-major throughout.
//   C[m,n] (+)= A[m,k] B + A2[m,k2] B2 (+ bias[n]);   B is [n,k] if b_is_nk (a weight as it lies: C = A W^T), else [k,n] (dX = dY W)
#pragma once
#include <cstdint>

#include "../device.h"

namespace vltune::cuda {

struct Gemm {
  int64_t m, n, k;
  DType dtype;                   // of A, B, A2 and B2: F32 (products in F32, never TF32), BF16 or F16 (accumulated in F32)
  const void* a; int64_t lda;    // elements between rows
  const void* b; int64_t ldb;
  bool b_is_nk;
  // The second run: k2 = 0 if there is none, else a multiple of 16 (zero-padded); same dtype and same form (b_is_nk) as the first.
  int64_t k2 = 0;
  const void* a2 = nullptr; int64_t lda2 = 0;
  const void* b2 = nullptr; int64_t ldb2 = 0;
  const void* bias = nullptr;    // F32, BF16 or F16 [n], or none
  DType bias_dtype = DType::F32;
  void* c; int64_t ldc;
  DType c_dtype;                 // F32 or dtype; rounded once
  bool accumulate = false;       // C += instead of C =
  bool a_is_km = false;          // A lies [k,m] (dW = dY^T X); A2 too
};

// Best of what is there for this product on this device. ERR_DEVICE. Needs no host wait; workspace for cuBLASLt is its own.
void gemm(const OpCall& call, const Gemm& product);

// wgmma + TMA, sm_90a (gemm_sm90.cu): false if it does not take this product (dtype, alignment, sizes where cuBLASLt is faster).
bool gemm_sm90(const OpCall& call, const Gemm& product);
// cuBLASLt, opened at run time (blas.cu): false if there is no library. The second run is a second product that accumulates.
bool gemm_cublaslt(const OpCall& call, const Gemm& product);
// Our own kernels for any device: mma.sync (BF16 from sm_80, F16 from sm_75), plain FMAs otherwise (gemm_simt.cu).
void gemm_plain(const OpCall& call, const Gemm& product);

}  // namespace vltune::cuda
