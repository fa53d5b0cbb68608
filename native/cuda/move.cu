#include "../ops/move.h"

#include <vector>

#include "../ops/move_checks.h"
#include "device.h"
#include "move.h"

namespace vltune::cuda {
namespace {

// The stream that copies, and for each slot the events that tie it to the ops' stream, and whether its copy is begun and not ended. Made
// on first use, which is never under capture: a program is captured at its second run.
struct Mover {
  cudaStream_t stream = nullptr;
  std::vector<cudaEvent_t> begun, done;
  std::vector<bool> is_open;

  void reserve(int64_t slots) {
    if (!stream) VLTUNE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    while (static_cast<int64_t>(done.size()) < slots) {
      cudaEvent_t first, last;
      VLTUNE_CUDA(cudaEventCreateWithFlags(&first, cudaEventDisableTiming));
      VLTUNE_CUDA(cudaEventCreateWithFlags(&last, cudaEventDisableTiming));
      begun.push_back(first);
      done.push_back(last);
      is_open.push_back(false);
    }
  }
};

Mover& mover() {
  static Mover made;  // the ops' callers hold the stream's lock
  return made;
}

}  // namespace

cudaError_t settle_moves() {
  Mover& m = mover();
  m.is_open.assign(m.is_open.size(), false);
  return m.stream ? cudaStreamSynchronize(m.stream) : cudaSuccess;
}

// ---------------------------------------------------------------------------------------------------------------------------------

void move_begin(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  const auto slot = static_cast<size_t>(check_move(call, x, y));
  Mover& m = mover();
  m.reserve(static_cast<int64_t>(slot) + 1);
  m.is_open[slot] = true;
  VLTUNE_CUDA(cudaEventRecord(m.begun[slot], stream_of(call)));
  VLTUNE_CUDA(cudaStreamWaitEvent(m.stream, m.begun[slot]));
  const size_t bytes = dtype_bytes(x.dtype, x.numel());
  if (bytes > 0) VLTUNE_CUDA(cudaMemcpyAsync(y.data, x.data, bytes, cudaMemcpyDefault, m.stream));
  VLTUNE_CUDA(cudaEventRecord(m.done[slot], m.stream));
}

void move_end(const OpCall& call) {
  const auto slot = static_cast<size_t>(check_move(call, input(call, 0), input(call, 1)));
  Mover& m = mover();
  if (slot >= m.is_open.size() || !m.is_open[slot]) return;
  m.is_open[slot] = false;
  VLTUNE_CUDA(cudaStreamWaitEvent(stream_of(call), m.done[slot]));
}

}  // namespace vltune::cuda
