// Kernels of one token follow each other closely, so that they overlap.
#pragma once
#include "../launch.cuh"

namespace vltune::cuda {

#ifdef __CUDACC__
// cluster: blocks that share their memory, 1 for none.
template <class Args>
void launch_chained(const OpCall& call, void (*kernel)(Args), const Args& args, int64_t blocks, int threads, size_t shared_bytes, int cluster = 1) {
  LaunchConfig launch(stream_of(call), dim3(static_cast<unsigned>(blocks)), threads, shared_bytes);
  launch.overlapping();
  launch.in_clusters(dim3(static_cast<unsigned>(cluster)));
  VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, kernel, args));
  check_launch(call);
}
#endif

}  // namespace vltune::cuda
