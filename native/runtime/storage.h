// A block of memory of one device, or a read-only mapping of a file. Everything that vltune allocates is one of these.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "tensor.h"

namespace vltune {

class Storage {
 public:
  // Zeroed and at least 64-byte aligned. ERR_OUT_OF_MEMORY, ERR_NO_DEVICE.
  static std::shared_ptr<Storage> allocate(size_t bytes, Device device);
  // ERR_IO. An empty file gives a storage of 0 bytes.
  static std::shared_ptr<Storage> map_file(const std::string& path);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool read_only() const { return mapped_; }
  // Drops the pages that lie wholly in a mapped range; they are read again when touched.
  void advise_unneeded(size_t offset, size_t bytes) const;

 private:
  Storage() = default;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  size_t reserved_ = 0;
  Device device_ = Device::Cpu;
  bool mapped_ = false;
};

// Copies between any two devices; waits for the work on the GPU that comes before.
void copy_bytes(const Storage& to, std::byte* target, const Storage& from, const std::byte* source, size_t bytes);

// Bytes in allocated storages of a device (mappings do not count): now, and the most at any time.
struct MemoryCount {
  std::atomic<size_t> current{0};
  std::atomic<size_t> peak{0};
};
MemoryCount& memory_count(Device device);

}  // namespace vltune
