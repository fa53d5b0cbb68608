// How every op is called, from a program or eagerly: operands by position, attributes by name, scratch memory by size.
#pragma once
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "tensor.h"
#include "thread_pool.h"

namespace vltune {

// A short list of named numbers (booleans are 0 and 1). Looked up by linear search: lists hold fewer than ten entries.
class Attrs {
 public:
  void set(std::string name, double value) { items_.emplace_back(std::move(name), value); }
  const double* find(const char* name) const {
    for (const auto& item : items_)
      if (std::strcmp(item.first.c_str(), name) == 0) return &item.second;
    return nullptr;
  }
  double number(const char* name, double fallback) const {
    const double* value = find(name);
    return value ? *value : fallback;
  }
  // ERR_ARGUMENT: not a whole number that a double holds exactly. Out of line for the reason that error.h gives.
  int64_t integer(const char* name, int64_t fallback) const;
  bool flag(const char* name) const { return number(name, 0) != 0; }

 private:
  std::vector<std::pair<std::string, double>> items_;
};

struct Fault;

struct OpCall {
  const char* op;       // name, for errors
  const Tensor* in;     // operands in the order of native/ops/<op>.h; absent ones have rank 0
  int in_count;
  const Tensor* out;
  int out_count;
  const Attrs* attrs;
  void* workspace;      // at least as large as the op's workspace function said; 256-byte aligned; contents undefined
  size_t workspace_bytes;
  ThreadPool* pool;     // the caller of the op keeps it alive. CPU only: nullptr on CUDA
  void* stream;         // cudaStream_t that the op's work is put on; the op never waits for it. nullptr on the CPU
  Fault* fault;         // where a CUDA kernel reports an operand's bad value (native/cuda/fault.h); nullptr on the CPU
};

using OpRun = void (*)(const OpCall&);
// Bytes of scratch for operands of these shapes. Pure: looks at shapes, dtypes, presence and, on the CPU, pool->size(); never at data.
using OpWorkspace = size_t (*)(const OpCall&);

struct OpEntry {
  const char* name;
  OpRun run;
  OpWorkspace workspace;  // nullptr: none
};

}  // namespace vltune
