// A build without CUDA.
#ifndef VLTUNE_WITH_CUDA
#include "gpu.h"

namespace vltune::gpu {

[[noreturn]] static void no_gpu() { VLTUNE_FAIL("ERR_NO_DEVICE", "this build of vltune has no CUDA: device cpu is the only one"); }

Info info() {
  Info info;
  info.reason = "this build of vltune has no CUDA kernels";
  return info;
}
void select_device(int) { no_gpu(); }
const OpEntry* find_op(const char*) { no_gpu(); }
void* allocate(size_t) { no_gpu(); }
void release(void*) {}
void* allocate_pinned(size_t) { no_gpu(); }
void release_pinned(void*) {}
void memory(size_t*, size_t*) { no_gpu(); }
void copy(void*, const void*, size_t) { no_gpu(); }
void upload(void*, const void*, size_t) { no_gpu(); }
void write(void*, const void*, size_t) { no_gpu(); }
void run_op(const OpEntry&, OpCall&) { no_gpu(); }
std::vector<double> time_op(const OpEntry&, OpCall&, int, bool) { no_gpu(); }
std::unique_ptr<Runner> make_runner() { no_gpu(); }
LibrarySummary nccl_info() { return {false, "", "", "this build of vltune has no CUDA kernels"}; }
std::string nccl_unique_id() { no_gpu(); }
std::unique_ptr<Communicator> make_communicator(const std::string&, int, int) { no_gpu(); }

}  // namespace vltune::gpu
#endif
