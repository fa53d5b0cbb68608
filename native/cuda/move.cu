#include "../ops/move.h"

#include <vector>

#include "../ops/move_checks.h"
#include "device.h"
#include "move.h"

namespace vltune::cuda {
namespace {

// The stream that copies, and for each slot the events that tie it to the ops' stream. Made on first use, which is never under capture:
// a program is captured at its second run.
struct Mover {
  cudaStream_t stream = nullptr;
  std::vector<cudaEvent_t> begun, done;

  void reserve(int64_t slots) {
    if (!stream) VLTUNE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    while (static_cast<int64_t>(done.size()) < slots) {
      cudaEvent_t first, last;
      VLTUNE_CUDA(cudaEventCreateWithFlags(&first, cudaEventDisableTiming));
      VLTUNE_CUDA(cudaEventCreateWithFlags(&last, cudaEventDisableTiming));
      begun.push_back(first);
      done.push_back(last);
    }
  }
};

Mover& mover() {
  static Mover made;  // the ops' callers hold the stream's lock
  return made;
}

}  // namespace

void wait_for_moves() {
  if (mover().stream) VLTUNE_CUDA(cudaStreamSynchronize(mover().stream));
}

// ---------------------------------------------------------------------------------------------------------------------------------

void move_begin(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  const auto slot = static_cast<size_t>(check_move(call, x, y));
  Mover& m = mover();
  m.reserve(static_cast<int64_t>(slot) + 1);
  VLTUNE_CUDA(cudaEventRecord(m.begun[slot], stream_of(call)));
  VLTUNE_CUDA(cudaStreamWaitEvent(m.stream, m.begun[slot]));
  const size_t bytes = dtype_bytes(x.dtype, x.numel());
  if (bytes > 0) VLTUNE_CUDA(cudaMemcpyAsync(y.data, x.data, bytes, cudaMemcpyDefault, m.stream));
  VLTUNE_CUDA(cudaEventRecord(m.done[slot], m.stream));
}

void move_end(const OpCall& call) {
  const auto slot = static_cast<size_t>(check_move(call, input(call, 0), input(call, 1)));
  Mover& m = mover();
  if (slot < m.done.size()) VLTUNE_CUDA(cudaStreamWaitEvent(stream_of(call), m.done[slot]));
}

}  // namespace vltune::cuda
