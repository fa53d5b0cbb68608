#include "executable.h"

#include <chrono>

#include "cpu_dispatch.h"

namespace vltune {
namespace {

const OpEntry* entry_of(const char* name, Device device) {
  const OpEntry* entry = device == Device::Cuda ? gpu::find_op(name) : cpu::find_op(name);
  VLTUNE_CHECK(entry, "ERR_ARGUMENT", "there is no op named %s", name);
  return entry;
}

// CUDA if any operand lies there: then all must, or lie in pinned memory. ERR_ARGUMENT if they do not.
Device device_of(const char* op, const std::vector<Tensor>& in, const std::vector<Tensor>& out) {
  bool cuda = false;
  const Tensor* cpu = nullptr;
  for (const auto* tensors : {&in, &out})
    for (const Tensor& tensor : *tensors) {
      if (!tensor.present()) continue;
      if (tensor.device == Device::Cuda) cuda = true;
      if (tensor.device == Device::Cpu) cpu = &tensor;
    }
  VLTUNE_CHECK(!cuda || !cpu, "ERR_ARGUMENT", "%s: some operands lie on cuda, some on cpu, expected one device", op);
  return cuda ? Device::Cuda : Device::Cpu;
}

OpCall make_call(const OpEntry* entry, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs,
                 ThreadPool* pool) {
  OpCall call;
  call.op = entry->name;
  call.in = in.data();
  call.in_count = static_cast<int>(in.size());
  call.out = out.data();
  call.out_count = static_cast<int>(out.size());
  call.attrs = &attrs;
  call.workspace = nullptr;
  call.workspace_bytes = 0;
  call.pool = pool;
  call.stream = nullptr;
  call.fault = nullptr;
  return call;
}

}  // namespace

Executable::Executable(Program program) : program_(std::move(program)), timers_(program_.ops.size()) {
  for (const ProgramValue& value : program_.values)
    if (value.tensor.device == Device::Cuda) device_ = Device::Cuda;
  if (device_ == Device::Cuda) runner_ = gpu::make_runner();
  const auto pool = device_ == Device::Cuda ? nullptr : default_pool();
  steps_.reserve(program_.ops.size());
  for (const ProgramOp& op : program_.ops) {
    Step step;
    step.entry = entry_of(op.name.c_str(), device_);
    step.in_values = op.in;
    step.out_values = op.out;
    for (int value : op.in) step.in.push_back(value < 0 ? Tensor{} : program_.values[value].tensor);
    for (int value : op.out) {
      VLTUNE_CHECK(value < 0 || !program_.values[value].read_only, "ERR_ARGUMENT", "%s: an output lies in a mapped file, which is read-only",
                   op.name.c_str());
      step.out.push_back(value < 0 ? Tensor{} : program_.values[value].tensor);
    }
    VLTUNE_CHECK(device_of(op.name.c_str(), step.in, step.out) == device_, "ERR_ARGUMENT", "%s: its operands do not lie on %s, as the program's do",
                 op.name.c_str(), device_name(device_));
    step.attrs = &op.attrs;
    steps_.push_back(std::move(step));
    prepare(steps_.back(), program_.dim_limits, pool.get());
  }
}

OpCall Executable::prepare(Step& step, const std::vector<int64_t>& lengths, ThreadPool* pool) const {
  auto resize = [&](std::vector<Tensor>& tensors, const std::vector<int>& values) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (values[i] < 0) continue;
      const ProgramValue& value = program_.values[values[i]];
      for (int d = 0; d < value.tensor.rank; ++d)
        if (value.dims[d] >= 0) tensors[i].shape[d] = lengths[value.dims[d]];
    }
  };
  resize(step.in, step.in_values);
  resize(step.out, step.out_values);
  OpCall op = make_call(step.entry, step.in, step.out, *step.attrs, pool);
  if (step.entry->workspace) {
    const size_t need = step.entry->workspace(op);
    VLTUNE_CHECK(need <= program_.workspace_bytes, "ERR_ARGUMENT", "%s needs %zu bytes of scratch memory, the program has %zu",
                 step.entry->name, need, program_.workspace_bytes);
    op.workspace = program_.workspace;
    op.workspace_bytes = program_.workspace_bytes;
  }
  return op;
}

std::vector<Executable::Time> Executable::times() const {
  std::vector<Time> times;
  for (size_t i = 0; i < steps_.size(); ++i)
    times.push_back({steps_[i].entry->name, timers_[i].calls.load(std::memory_order_relaxed),
                     timers_[i].nanoseconds.load(std::memory_order_relaxed)});
  return times;
}

void Executable::run(const std::vector<int64_t>& lengths, int repeats) {
  for (size_t i = 0; i < lengths.size(); ++i) {
    VLTUNE_CHECK(lengths[i] >= 0 && lengths[i] <= program_.dim_limits[i], "ERR_SHAPE",
                 "dimension %s: expected 0 to %lld, got %lld", program_.dim_names[i].c_str(),
                 static_cast<long long>(program_.dim_limits[i]), static_cast<long long>(lengths[i]));
  }
  if (device_ == Device::Cuda) return run_on_cuda(lengths, repeats);
  for (int i = 0; i < repeats; ++i) run_on_cpu(lengths);
}

void Executable::run_on_cpu(const std::vector<int64_t>& lengths) {
  const auto pool = default_pool();  // one number of threads throughout
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (cancelled_.exchange(false)) VLTUNE_FAIL("ERR_CANCELLED", "the run was cancelled");
    const OpCall op = prepare(steps_[i], lengths, pool.get());
    const auto start = std::chrono::steady_clock::now();
    steps_[i].entry->run(op);
    const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start);
    timers_[i].nanoseconds.fetch_add(passed.count(), std::memory_order_relaxed);
    timers_[i].calls.fetch_add(1, std::memory_order_relaxed);
  }
}

// The host is far ahead of the GPU, so a cancellation is seen while ops are handed over, or not at all.
void Executable::run_on_cuda(const std::vector<int64_t>& lengths, int repeats) {
  const auto enqueue = [&](gpu::Queue& queue) {
    for (Step& step : steps_) {
      if (cancelled_.exchange(false)) VLTUNE_FAIL("ERR_CANCELLED", "the run was cancelled");
      OpCall op = prepare(step, lengths, nullptr);
      queue.run(*step.entry, op);
    }
  };
  if (!profiling_.load()) return runner_->run(lengths, enqueue, repeats);
  for (int i = 0; i < repeats; ++i) {
    const std::vector<int64_t> nanoseconds = runner_->run_timed(enqueue);
    for (size_t k = 0; k < nanoseconds.size(); ++k) {
      timers_[k].nanoseconds.fetch_add(nanoseconds[k], std::memory_order_relaxed);
      timers_[k].calls.fetch_add(1, std::memory_order_relaxed);
    }
  }
}

size_t op_workspace(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs, Device device) {
  const OpEntry* entry = entry_of(name, device);
  const auto pool = device == Device::Cuda ? nullptr : default_pool();
  return entry->workspace ? entry->workspace(make_call(entry, in, out, attrs, pool.get())) : 0;
}

std::vector<double> time_op(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs, int repeats,
                            bool flush_l2) {
  VLTUNE_CHECK(device_of(name, in, out) == Device::Cuda, "ERR_NO_DEVICE", "%s: its operands lie on the CPU, expected cuda", name);
  const OpEntry* entry = entry_of(name, Device::Cuda);
  OpCall call = make_call(entry, in, out, attrs, nullptr);
  return gpu::time_op(*entry, call, repeats, flush_l2);
}

void run_op(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs) {
  const Device device = device_of(name, in, out);
  const OpEntry* entry = entry_of(name, device);
  if (device == Device::Cuda) {
    OpCall call = make_call(entry, in, out, attrs, nullptr);
    return gpu::run_op(*entry, call);
  }
  const auto pool = default_pool();
  OpCall call = make_call(entry, in, out, attrs, pool.get());
  std::shared_ptr<Storage> scratch;
  if (entry->workspace) {
    const size_t need = entry->workspace(call);
    if (need > 0) {
      scratch = Storage::allocate(need, Device::Cpu);
      call.workspace = scratch->data();
      call.workspace_bytes = need;
    }
  }
  entry->run(call);
}

}  // namespace vltune
