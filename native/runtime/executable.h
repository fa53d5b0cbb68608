// A program made ready to run: ops resolved, operands laid out, checked once. Running it is a loop over ops.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gpu.h"
#include "op.h"
#include "storage.h"

namespace vltune {

// A tensor together with what keeps its memory alive.
struct BoundTensor {
  Tensor tensor;
  std::vector<std::shared_ptr<Storage>> storages;
};

struct ProgramValue {
  Tensor tensor;                        // data resolved; shape holds the largest lengths
  bool read_only = false;               // in a mapped file
  int dims[kMaxRank] = {-1, -1, -1, -1};  // index of the named dimension, or -1
};

struct ProgramOp {
  std::string name;
  std::vector<int> in, out;  // value indices, -1: absent
  Attrs attrs;
};

struct Program {
  std::vector<std::string> dim_names;
  std::vector<int64_t> dim_limits;
  std::vector<ProgramValue> values;
  std::vector<ProgramOp> ops;
  std::vector<std::shared_ptr<Storage>> storages;  // kept alive
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

class Executable {
 public:
  // ERR_ARGUMENT: an op that does not exist, or a workspace too small for the largest lengths.
  explicit Executable(Program program);

  // Runs all ops with the given lengths of the named dimensions, `repeats` times. ERR_CANCELLED if cancel() was called meanwhile.
  void run(const std::vector<int64_t>& lengths, int repeats = 1);
  void cancel() { cancelled_.store(true); }
  // Takes the executable for one run; false if a run is under way.
  bool acquire() {
    if (busy_.exchange(true)) return false;
    cancelled_.store(false);  // a cancellation that came too late for the last run is not meant for this one
    return true;
  }
  void release() { busy_.store(false); }

  const Program& program() const { return program_; }

  // Runs of each step and the time they took together, since the start: two readings of a clock a step are free. May be asked
  // for while a run is under way.
  struct Time {
    const char* op;
    int64_t calls;
    int64_t nanoseconds;
  };
  std::vector<Time> times() const;
  // On CUDA, times are taken only while this is on: by events, and without graphs.
  void profile(bool on) { profiling_.store(on); }

 private:
  struct Step {
    const OpEntry* entry;
    std::vector<Tensor> in, out;
    std::vector<int> in_values, out_values;
    const Attrs* attrs;
  };
  struct Timer {
    std::atomic<int64_t> calls{0}, nanoseconds{0};
  };
  // The step's call with its operands at these lengths and its scratch memory: checked, and ready to run.
  OpCall prepare(Step& step, const std::vector<int64_t>& lengths, ThreadPool* pool) const;
  void run_on_cpu(const std::vector<int64_t>& lengths);
  void run_on_cuda(const std::vector<int64_t>& lengths, int repeats);

  Program program_;
  Device device_ = Device::Cpu;
  std::unique_ptr<gpu::Runner> runner_;  // on CUDA
  std::vector<Step> steps_;
  std::vector<Timer> timers_;  // one for each step
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> busy_{false};
  std::atomic<bool> profiling_{false};
};

// Runs one op with scratch memory of its own.
void run_op(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs);
size_t op_workspace(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs, Device device);
// Microseconds of each of `repeats` runs on the GPU. ERR_NO_DEVICE for operands on the CPU.
std::vector<double> time_op(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs, int repeats,
                            bool flush_l2);

}  // namespace vltune
