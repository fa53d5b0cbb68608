#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

namespace vltune::cuda {
namespace {

constexpr size_t kStackBytes = 128;
constexpr int kLeastCapability = 75;

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

// Shared memory of a block at most, after opting in: what a device that counts as an older one can be asked for.
size_t shared_bytes_of(int capability) {
  constexpr size_t kKiB = 1024;
  switch (capability) {
    case 75: return 64 * kKiB;
    case 86: case 89: case 120: case 121: return 99 * kKiB;
    case 80: case 87: return 163 * kKiB;
    default: return 227 * kKiB;
  }
}

}  // namespace

int counted_capability(const cudaDeviceProp& properties) {
  int own = properties.major * 10 + properties.minor;
#ifdef VLTUNE_MOST_CAPABILITY  // a build whose code is that of an older architecture (CMakeLists.txt)
  own = std::min(own, VLTUNE_MOST_CAPABILITY);
#endif
  const char* named = std::getenv("VLTUNE_CUDA_CAPABILITY");
  if (!named || !*named) return own;
  char* end = nullptr;
  const long capability = std::strtol(named, &end, 10);
  VLTUNE_CHECK(*end == '\0' && capability >= kLeastCapability && capability < 1000, "ERR_ARGUMENT",
               "VLTUNE_CUDA_CAPABILITY is %s, expected a compute capability times ten, from %d on (80 is 8.0)", named, kLeastCapability);
  return std::min(own, static_cast<int>(capability));
}

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
  VLTUNE_CHECK(properties.major * 10 + properties.minor >= kLeastCapability, "ERR_NO_DEVICE",
               "cuda:%d: %s has compute capability %d.%d, expected 7.5 or newer", chosen, properties.name, properties.major,
               properties.minor);
  const int capability = counted_capability(properties);
  if ((error = cudaSetDevice(chosen)) != cudaSuccess) no_device(error);
  // The driver holds a stack for every thread that can be resident: at its default of 1 KB a quarter of a gigabyte on a large GPU. Our
  // kernels call nothing; what one spills is known when it is loaded, and comes on top.
  if ((error = cudaDeviceSetLimit(cudaLimitStackSize, kStackBytes)) != cudaSuccess) no_device(error);
  info = {chosen,
          properties.name,
          capability / 10,
          capability % 10,
          properties.multiProcessorCount,
          properties.totalGlobalMem,
          static_cast<size_t>(properties.l2CacheSize),
          std::min(properties.sharedMemPerBlockOptin, shared_bytes_of(capability))};
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
