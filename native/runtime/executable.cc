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

OpCall make_call(const OpEntry* entry, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs) {
  OpCall call;
  call.op = entry->name;
  call.in = in.data();
  call.in_count = static_cast<int>(in.size());
  call.out = out.data();
  call.out_count = static_cast<int>(out.size());
  call.attrs = &attrs;
  call.workspace = nullptr;
  call.workspace_bytes = 0;
  call.pool = &default_pool();
  return call;
}

}  // namespace

Executable::Executable(Program program) : program_(std::move(program)) {
  steps_.reserve(program_.ops.size());
  for (const ProgramOp& op : program_.ops) {
    Step step;
    step.entry = entry_of(op.name.c_str());
    step.in_values = op.in;
    step.out_values = op.out;
    for (int value : op.in) step.in.push_back(value < 0 ? Tensor{} : program_.values[value].tensor);
    for (int value : op.out) step.out.push_back(value < 0 ? Tensor{} : program_.values[value].tensor);
    step.attrs = &op.attrs;
    steps_.push_back(std::move(step));
    call(steps_.back(), program_.dim_limits, true);
  }
}

void Executable::call(Step& step, const std::vector<int64_t>& lengths, bool check_only) {
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
  OpCall op = make_call(step.entry, step.in, step.out, *step.attrs);
  if (step.entry->workspace) {
    const size_t need = step.entry->workspace(op);
    VLTUNE_CHECK(need <= program_.workspace_bytes, "ERR_ARGUMENT", "%s needs %zu bytes of scratch memory, the program has %zu",
                 step.entry->name, need, program_.workspace_bytes);
    op.workspace = program_.workspace;
    op.workspace_bytes = program_.workspace_bytes;
  }
  if (check_only) return;
  const auto start = std::chrono::steady_clock::now();
  step.entry->run(op);
  step.nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  ++step.calls;
}

std::vector<Executable::Time> Executable::times() const {
  std::vector<Time> times;
  for (const Step& step : steps_) times.push_back({step.entry->name, step.calls, step.nanoseconds});
  return times;
}

void Executable::run(const std::vector<int64_t>& lengths) {
  for (size_t i = 0; i < lengths.size(); ++i) {
    VLTUNE_CHECK(lengths[i] >= 0 && lengths[i] <= program_.dim_limits[i], "ERR_SHAPE",
                 "dimension %s: expected 0 to %lld, got %lld", program_.dim_names[i].c_str(),
                 static_cast<long long>(program_.dim_limits[i]), static_cast<long long>(lengths[i]));
  }
  for (Step& step : steps_) {
    if (cancelled_.exchange(false)) VLTUNE_FAIL("ERR_CANCELLED", "the run was cancelled");
    call(step, lengths, false);
  }
}

size_t op_workspace(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs) {
  const OpEntry* entry = entry_of(name);
  return entry->workspace ? entry->workspace(make_call(entry, in, out, attrs)) : 0;
}

void run_op(const char* name, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const Attrs& attrs) {
  const OpEntry* entry = entry_of(name);
  OpCall call = make_call(entry, in, out, attrs);
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
