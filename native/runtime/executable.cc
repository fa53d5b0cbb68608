#include "executable.h"

#include <chrono>

#include "cpu_dispatch.h"

namespace vltune {
namespace {

const OpEntry* entry_of(const char* name) {
  const OpEntry* entry = cpu::find_op(name);
  VLTUNE_CHECK(entry, "ERR_ARGUMENT", "there is no op named %s", name);
  return entry;
}

OpCall make_call(const OpEntry* entry, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs,
                 ThreadPool& pool) {
  OpCall call;
  call.op = entry->name;
  call.in = in.data();
  call.in_count = static_cast<int>(in.size());
  call.out = out.data();
  call.out_count = static_cast<int>(out.size());
  call.attrs = &attrs;
  call.workspace = nullptr;
  call.workspace_bytes = 0;
  call.pool = &pool;
  return call;
}

}  // namespace

Executable::Executable(Program program) : program_(std::move(program)), timers_(program_.ops.size()) {
  const auto pool = default_pool();
  steps_.reserve(program_.ops.size());
  for (const ProgramOp& op : program_.ops) {
    Step step;
    step.entry = entry_of(op.name.c_str());
    step.in_values = op.in;
    step.out_values = op.out;
    for (int value : op.in) step.in.push_back(value < 0 ? Tensor{} : program_.values[value].tensor);
    for (int value : op.out) {
      VLTUNE_CHECK(value < 0 || !program_.values[value].read_only, "ERR_ARGUMENT", "%s: an output lies in a mapped file, which is read-only",
                   op.name.c_str());
      step.out.push_back(value < 0 ? Tensor{} : program_.values[value].tensor);
    }
    step.attrs = &op.attrs;
    steps_.push_back(std::move(step));
    prepare(steps_.back(), program_.dim_limits, *pool);
  }
}

OpCall Executable::prepare(Step& step, const std::vector<int64_t>& lengths, ThreadPool& pool) const {
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

void Executable::run(const std::vector<int64_t>& lengths) {
  for (size_t i = 0; i < lengths.size(); ++i) {
    VLTUNE_CHECK(lengths[i] >= 0 && lengths[i] <= program_.dim_limits[i], "ERR_SHAPE",
                 "dimension %s: expected 0 to %lld, got %lld", program_.dim_names[i].c_str(),
                 static_cast<long long>(program_.dim_limits[i]), static_cast<long long>(lengths[i]));
  }
  const auto pool = default_pool();  // one number of threads throughout
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (cancelled_.exchange(false)) VLTUNE_FAIL("ERR_CANCELLED", "the run was cancelled");
    const OpCall op = prepare(steps_[i], lengths, *pool);
    const auto start = std::chrono::steady_clock::now();
    steps_[i].entry->run(op);
    const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start);
    timers_[i].nanoseconds.fetch_add(passed.count(), std::memory_order_relaxed);
    timers_[i].calls.fetch_add(1, std::memory_order_relaxed);
  }
}

size_t op_workspace(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs) {
  const OpEntry* entry = entry_of(name);
  return entry->workspace ? entry->workspace(make_call(entry, in, out, attrs, *default_pool())) : 0;
}

void run_op(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs) {
  const OpEntry* entry = entry_of(name);
  const auto pool = default_pool();
  OpCall call = make_call(entry, in, out, attrs, *pool);
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
