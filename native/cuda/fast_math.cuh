// F32 arithmetic as nvcc compiles it under --use_fast_math, which bitsandbytes' kernels are built with: subnormals are zeros, and
// reciprocals, roots and powers are the hardware's approximations. Where the bytes must be bitsandbytes', these are its instructions;
// products and sums that it fuses are written as fma.
#pragma once

namespace vltune::cuda::fast {

__device__ inline float mul(float a, float b) { float r; asm("mul.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
__device__ inline float sub(float a, float b) { float r; asm("sub.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
__device__ inline float fma(float a, float b, float c) {
  float r;
  asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
  return r;
}
// The other one where one is NaN.
__device__ inline float max(float a, float b) { float r; asm("max.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
__device__ inline float reciprocal(float x) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
__device__ inline float sqrt(float x) { float r; asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
__device__ inline float pow(float base, float exponent) {
  float log, r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(log) : "f"(base));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(mul(exponent, log)));
  return r;
}

}  // namespace vltune::cuda::fast
