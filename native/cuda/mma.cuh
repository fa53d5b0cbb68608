// Tensor cores and asynchronous copies as functions: m16n8k16 products of F16 and BF16, ldmatrix, cp.async. F16 is multiplied from sm_75
// on, BF16 from sm_80 on. Before sm_80 a copy is done when the function that begins it returns.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "vector.cuh"

namespace vltune::cuda {

// Whether a device multiplies a dtype.
inline bool has_mma(DType dtype, int capability) {
  return (dtype == DType::F16 && capability >= 75) || (dtype == DType::BF16 && capability >= 80);
}

// And whether the architecture that is compiled for does: a kernel of products is empty where not.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class T> constexpr bool kHasMma = std::is_same_v<T, F16>;
#else
template <class T> constexpr bool kHasMma = true;
#endif

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory, of which the first `bytes`, an even number, are read and the rest are zeros.
__device__ inline void copy_async_16(uint32_t to, const void* from, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#elif defined(__CUDA_ARCH__)
  uint4 words = make_uint4(0, 0, 0, 0);
  if (bytes == 16) {
    words = __ldg(static_cast<const uint4*>(from));
  } else {
    const auto* halves = static_cast<const unsigned short*>(from);
    auto* of = reinterpret_cast<unsigned short*>(&words);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (2 * i < bytes) of[i] = __ldg(halves + i);
  }
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"r"(to), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w) : "memory");
#endif
}
// 4, 8 or 16 bytes, from sm_80 on.
template <int kBytes> __device__ inline void copy_async_small(uint32_t to, const void* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n" ::"r"(to), "l"(from), "n"(kBytes) : "memory");
#endif
}
// Of a float, or zero.
__device__ inline void copy_float_async(uint32_t to, const float* from, bool wanted) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(wanted ? 4 : 0) : "memory");
#elif defined(__CUDA_ARCH__)
  asm volatile("st.shared.f32 [%0], %1;\n" ::"r"(to), "f"(wanted ? __ldg(from) : 0.0f) : "memory");
#endif
}
__device__ inline void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
// Until at most kPending of this thread's groups are under way.
template <int kPending> __device__ inline void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements; lanes 8 i.. give the addresses of the rows of matrix i.
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t row) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
#endif
}
__device__ inline void load_matrices_turned(uint32_t (&to)[4], uint32_t row) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
#endif
}

// c += a b, a being 16 x 16 and b 16 x 8, of T with F32 sums. Of lane l, g = l / 4 and t = l % 4: a holds (row g, k 2t..), (g + 8, 2t..),
// (g, 2t + 8..), (g + 8, 2t + 8..); b (k 2t.., column g), (2t + 8.., g); c (g, 2t..), (g + 8, 2t..).
template <class T> __device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, Bf16>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, F16>) {  // in two steps of k8, whose operands are the halves of k16's
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
  }
#endif
}

}  // namespace vltune::cuda
