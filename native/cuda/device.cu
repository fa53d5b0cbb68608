#include "device.h"

#include <atomic>
#include <mutex>

namespace vltune::cuda {
namespace {

constexpr size_t kStackBytes = 128;

std::mutex mutex;
int chosen = 0;
DeviceInfo info;
bool is_open = false;

// "CUDA driver version is insufficient", "no CUDA-capable device is detected" and the like, in words that help.
[[noreturn]] void no_device(cudaError_t error) {
  cudaGetLastError();
  int driver = 0;
  cudaDriverGetVersion(&driver);
  VLTUNE_FAIL("ERR_NO_DEVICE", "no CUDA device: %s", driver == 0 ? "no NVIDIA driver was found" : cudaGetErrorString(error));
}

}  // namespace

const DeviceInfo& device() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (is_open) return info;
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) no_device(error);
  VLTUNE_CHECK(chosen < count, "ERR_NO_DEVICE", "cuda:%d: there %s %d CUDA device%s", chosen, count == 1 ? "is" : "are", count,
               count == 1 ? "" : "s");
  cudaDeviceProp properties;
  if ((error = cudaGetDeviceProperties(&properties, chosen)) != cudaSuccess) no_device(error);
  VLTUNE_CHECK(properties.major * 10 + properties.minor >= 75, "ERR_NO_DEVICE",
               "cuda:%d: %s has compute capability %d.%d, expected 7.5 or newer", chosen, properties.name, properties.major,
               properties.minor);
  if ((error = cudaSetDevice(chosen)) != cudaSuccess) no_device(error);
  // The driver holds a stack for every thread that can be resident: at its default of 1 KB a quarter of a gigabyte on a large GPU. Our
  // kernels call nothing; what one spills is known when it is loaded, and comes on top.
  if ((error = cudaDeviceSetLimit(cudaLimitStackSize, kStackBytes)) != cudaSuccess) no_device(error);
  info = {chosen,
          properties.name,
          properties.major,
          properties.minor,
          properties.multiProcessorCount,
          properties.totalGlobalMem,
          static_cast<size_t>(properties.l2CacheSize),
          properties.sharedMemPerBlockOptin};
  is_open = true;
  return info;
}

void select_device(int index) {
  const std::lock_guard<std::mutex> lock(mutex);
  VLTUNE_CHECK(!is_open || index == chosen, "ERR_ARGUMENT", "cuda:%d: this process computes on cuda:%d already", index, chosen);
  chosen = index;
}

void enter() {
  thread_local bool entered = false;
  if (entered) return;
  VLTUNE_CUDA(cudaSetDevice(device().index));
  entered = true;
}

void check(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky is cleared
  if (error == cudaErrorMemoryAllocation)
    throw_error("ERR_OUT_OF_MEMORY", file, line, "%s: the GPU is out of memory", what);
  throw_error("ERR_DEVICE", file, line, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

void check_launch(const OpCall& call) {
  const cudaError_t error = cudaGetLastError();
  VLTUNE_CHECK(error == cudaSuccess, "ERR_DEVICE", "%s: %s (%s)", call.op, cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace vltune::cuda
