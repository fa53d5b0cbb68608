// Blocks of a cluster, from sm_90 on (LaunchConfig::in_clusters): their common barrier, and reading each other's shared memory. The
// functions are empty before sm_90, where no kernel that calls them is launched.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "launch.cuh"

namespace vltune::cuda {

// What was written to shared memory before it is seen by the whole cluster behind it. All threads call it.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same place in the shared memory of block `rank` of the cluster.
__device__ inline uint32_t peer_address(const void* p, int rank) {
  uint32_t address = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(p))), "r"(rank));
#endif
  return address;
}
__device__ inline float peer_float(const float* p, int rank) {
  float v = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(peer_address(p, rank)) : "memory");
#endif
  return v;
}
__device__ inline double peer_double(const double* p, int rank) {
  double v = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("ld.shared::cluster.f64 %0, [%1];" : "=d"(v) : "r"(peer_address(p, rank)) : "memory");
#endif
  return v;
}

}  // namespace vltune::cuda
