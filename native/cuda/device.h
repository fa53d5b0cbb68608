// The GPU that this process computes on, and errors of CUDA calls as vltune's own.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "../runtime/error.h"
#include "../runtime/op.h"
#include "fault.h"

namespace vltune::cuda {

struct DeviceInfo {
  int index;
  std::string name;
  int major, minor;           // compute capability that kernels are chosen by
  int multiprocessors;
  size_t total_bytes;         // of the card
  size_t l2_bytes;
  size_t shared_bytes;        // most that a block can have, after opting in
  bool sm90a() const { return major == 9 && minor == 0; }  // wgmma and TMA kernels run
  int capability() const { return major * 10 + minor; }
};

// The compute capability that a device counts as, times ten: its own, or, for tests of the kernels that older GPUs have, the lower one
// that VLTUNE_CUDA_CAPABILITY=75|80|86|89|... names. ERR_ARGUMENT if that is no such number.
int counted_capability(const cudaDeviceProp& properties);

// The chosen device (the first, unless select_device named another). Opens the driver on first use. ERR_NO_DEVICE with the reason.
const DeviceInfo& device();
void select_device(int index);
// Makes the chosen device this thread's: before any CUDA call on a thread that vltune did not come from.
void enter();

// Throws for a failed CUDA call. ERR_OUT_OF_MEMORY for an allocation, ERR_DEVICE otherwise ("device lost" and the like).
void check(cudaError_t error, const char* what, const char* file, int line);
#define VLTUNE_CUDA(expression) ::vltune::cuda::check((expression), #expression, __FILE__, __LINE__)

inline cudaStream_t stream_of(const OpCall& call) { return static_cast<cudaStream_t>(call.stream); }
// After every kernel launch of an op: a launch that was refused throws ERR_DEVICE with the op's name.
void check_launch(const OpCall& call);

}  // namespace vltune::cuda
