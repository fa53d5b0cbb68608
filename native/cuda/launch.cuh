// Launches with what <<<>>> cannot say: blocks in clusters, and kernels that overlap. A kernel that overlaps may start while the one
// before it on the stream still runs, brings from memory what that one does not write, and waits only then.
#pragma once
#include <cuda_runtime.h>

#include "device.h"

namespace vltune::cuda {

// For cudaLaunchKernelEx(&launch.config, kernel, ...).
class LaunchConfig {
 public:
  cudaLaunchConfig_t config{};

  LaunchConfig(cudaStream_t stream, dim3 grid, int threads, size_t shared_bytes) {
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes_;
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  // In clusters of this shape; without where it is one block.
  void in_clusters(dim3 cluster) {
    if (cluster.x * cluster.y * cluster.z == 1) return;
    cudaLaunchAttribute& attribute = attributes_[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster.x;
    attribute.val.clusterDim.y = cluster.y;
    attribute.val.clusterDim.z = cluster.z;
  }
  // The kernel calls wait_for_previous. Nothing changes before sm_90.
  void overlapping() {
    if (device().capability() < 90) return;
    cudaLaunchAttribute& attribute = attributes_[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  // All blocks at the same time, or an error.
  void together() {
    cudaLaunchAttribute& attribute = attributes_[config.numAttrs++];
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }

 private:
  cudaLaunchAttribute attributes_[3]{};
};

// More than 48 KiB of shared memory, which a kernel must ask for.
inline void allow_shared(const void* kernel, int bytes) {
  VLTUNE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

#ifdef __CUDACC__
// The kernel that follows on the stream may start, and wait in turn.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// All of the kernel before has ended, and what it wrote is seen. Every block of a kernel that overlaps calls it, so that a kernel's end
// means the end of all before it.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#endif

}  // namespace vltune::cuda
