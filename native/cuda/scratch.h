// An op's scratch memory, cut into pieces. The op's workspace function cuts as the op does, from no start, and asks what was used.
#pragma once
#include <cstddef>

namespace vltune::cuda {

// Pieces one after the other, each at a multiple of 256 bytes; nullptr for all of them without a start.
class Scratch {
 public:
  explicit Scratch(void* start) : start_(static_cast<char*>(start)) {}
  void* take(size_t bytes) {
    void* piece = start_ ? start_ + used_ : nullptr;
    used_ += (bytes + 255) / 256 * 256;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

}  // namespace vltune::cuda
