// How a kernel reports an operand whose value is bad (an id outside the table): it cannot throw, and the host does not wait for it.
// The record lies in host memory that the device can write; whoever waits for the stream looks at it and throws (runtime).
#pragma once
#include <cstdint>

namespace vltune {

enum class FaultKind : int32_t {
  None = 0,
  Id,          // embedding: ids[index] = value, expected 0..limit-1
  Target,      // linear_cross_entropy: targets[index] = value, expected 0..limit-1 or -100
  Row,         // select_rows and the like: rows[index] = value, expected 0..limit-1
  Bound,       // attention: bounds[index] = value, expected ascending from 0 to limit
  CacheFull,   // attention_cached: past = value, expected at most limit
  Segment,     // adamw: segments[index] lies outside its arrays
  BagId,       // embedding_bag: ids[index] = value, of all ids in order, expected 0..limit-1
  Scatter,     // scatter_rows: rows[index] = value, expected 0..limit-1 and more than the one before
};

struct Fault {
  int32_t kind;
  int32_t value;
  int64_t index;
  int64_t limit;
};

#ifdef __CUDACC__
// One of the reports is kept if there are several. kind is written last.
__device__ inline void report_fault(Fault* fault, FaultKind kind, int64_t index, int32_t value, int64_t limit) {
  if (fault == nullptr || *reinterpret_cast<volatile int32_t*>(&fault->kind) != 0) return;
  fault->index = index;
  fault->value = value;
  fault->limit = limit;
  __threadfence_system();
  *reinterpret_cast<volatile int32_t*>(&fault->kind) = static_cast<int32_t>(kind);
}
#endif

}  // namespace vltune
