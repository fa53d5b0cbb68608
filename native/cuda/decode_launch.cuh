// Kernels of one token follow each other closely: each may start while the one before still runs, brings from memory what that one does
// not write, and waits only then.
#pragma once
#include "device.h"

namespace vltune::cuda {

#ifdef __CUDACC__
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Every block of a kernel calls it, so that a kernel's end means the end of all before it.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// cluster: blocks that share their memory, 1 for none.
template <class Args>
void launch_chained(const OpCall& call, void (*kernel)(Args), const Args& args, int64_t blocks, int threads, size_t shared_bytes, int cluster = 1) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_of(call);
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  VLTUNE_CUDA(cudaLaunchKernelEx(&config, kernel, args));
  check_launch(call);
}
#endif

}  // namespace vltune::cuda
