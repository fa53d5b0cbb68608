// What the runtime asks of a GPU. native/cuda/runtime.cu answers in a build with CUDA; native/runtime/no_gpu.cc throws ERR_NO_DEVICE in
// any other. All work of the process goes on one stream, in the order in which it was asked for.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "op.h"

namespace vltune::gpu {

struct DeviceSummary {
  int index;
  std::string name, compute_capability;
  int multiprocessors;
  size_t total_bytes;
  std::optional<size_t> free_bytes;  // of the chosen one: to ask another opens it, which takes memory there
};

// A library that is opened at run time.
struct LibrarySummary {
  bool found = false;
  std::string path, version, reason;  // reason: why there is none
};

struct Info {
  bool compiled = false;
  std::string reason;  // why there is no device; empty if there is one
  std::string driver, runtime;
  std::vector<DeviceSummary> devices;
  LibrarySummary blas;
};

// Never throws: what is missing is said in `reason`.
Info info();
void select_device(int index);

const OpEntry* find_op(const char* name);  // nullptr: no such op

// Zeroed. ERR_OUT_OF_MEMORY with what the device has.
void* allocate(size_t bytes);
void release(void* data);
void* allocate_pinned(size_t bytes);
void release_pinned(void* data);
// The card's memory as the driver counts it, all processes together.
void memory(size_t* free_bytes, size_t* total_bytes);

// Copies after all work asked for so far, and waits. Either side may be the device's; the other is any host memory.
void copy(void* to, const void* from, size_t bytes);
// The same for megabytes of host memory that is not pinned (a mapped file): staged through pinned buffers, on several threads.
void upload(void* to, const void* from, size_t bytes);
// Puts a write of a few kilobytes in the queue; `from` may be reused at once. Does not wait for the device.
void write(void* to, const void* from, size_t bytes);

// One op with scratch memory of the process's own; waits, and throws what a kernel reported.
void run_op(const OpEntry& entry, OpCall& call);
// Microseconds of each of `repeats` launches, the L2 cache overwritten before each if asked.
std::vector<double> time_op(const OpEntry& entry, OpCall& call, int repeats, bool flush_l2);

// Enqueues one op's call; the queue fills in stream and fault record.
class Queue {
 public:
  virtual void run(const OpEntry& entry, OpCall& call) = 0;

 protected:
  ~Queue() = default;
};

// Runs lists of ops that are the same each time they have the same key: the first time op by op, from the second time as a CUDA graph.
class Runner {
 public:
  virtual ~Runner() = default;
  // Runs the list `repeats` times, waits for the end and throws what a kernel reported.
  virtual void run(const std::vector<int64_t>& key, const std::function<void(Queue&)>& enqueue, int repeats) = 0;
  // Runs it once, without a graph: the nanoseconds of each op.
  virtual std::vector<int64_t> run_timed(const std::function<void(Queue&)>& enqueue) = 0;
};
std::unique_ptr<Runner> make_runner();

// NCCL, with which processes on several GPUs add up their tensors.
LibrarySummary nccl_info();
// What the first process makes and hands to the others. ERR_NO_DEVICE without NCCL.
std::string nccl_unique_id();

// This process among `size`, each on a GPU of its own.
class Communicator {
 public:
  virtual ~Communicator() = default;
  // The sum over all processes, in place, after all work asked for so far; waits for the others. The first call connects them. Until it
  // returns, the thread that may call `abort` asks nothing else of the GPU: it could wait for this.
  virtual void all_reduce(float* data, size_t count) = 0;
  // From any thread: whoever waits for the others, now or later, has ERR_CANCELLED.
  virtual void abort() = 0;
};
std::unique_ptr<Communicator> make_communicator(const std::string& id, int rank, int size);

}  // namespace vltune::gpu
