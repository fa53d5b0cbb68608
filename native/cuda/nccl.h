// NCCL, opened at run time so that the addon loads on a machine without it: from the loader's own path, or from VLTUNE_NCCL (a file).
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "shared_library.h"

namespace vltune::cuda {

const LibraryInfo& nccl_info();  // version: 22803 is 2.28.3

struct NcclId {  // ncclUniqueId
  std::array<char, 128> bytes;
};
NcclId nccl_unique_id();

// One process among those that share an id, each on a GPU of its own. Nothing here waits: what was begun is done, or has failed, when
// `settled` says so. ERR_DEVICE with NCCL's words.
class NcclComm {
 public:
  NcclComm(const NcclId& id, int rank, int size);
  ~NcclComm();
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  // data[i] is the sum over all processes, in place. Begun on the stream.
  void all_reduce(float* data, size_t count, cudaStream_t stream);
  bool settled() const;
  // Ends what runs on the device and frees everything; the object is of no use after it.
  void abort();

 private:
  void* comm_ = nullptr;
};

}  // namespace vltune::cuda
