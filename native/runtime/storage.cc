#include "storage.h"

#include <cerrno>
#include <cstring>

#include "error.h"
#include "gpu.h"
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace vltune {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

void count_allocation(Device device, size_t bytes) {
  MemoryCount& count = memory_count(device);
  const size_t now = count.current.fetch_add(bytes) + bytes;
  size_t peak = count.peak.load();
  while (now > peak && !count.peak.compare_exchange_weak(peak, now)) {
  }
}

}  // namespace

MemoryCount& memory_count(Device device) {
  static MemoryCount counts[kDevices];
  return counts[static_cast<int>(device)];
}

#ifdef _WIN32

static std::byte* reserve_memory(size_t bytes, size_t* reserved) {
  *reserved = bytes;
  return static_cast<std::byte*>(VirtualAlloc(nullptr, bytes, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE));
}
static void free_memory(std::byte* data, size_t) { VirtualFree(data, 0, MEM_RELEASE); }
static void unmap(std::byte* data, size_t) { UnmapViewOfFile(data); }

std::shared_ptr<Storage> Storage::map_file(const std::string& path) {
  HANDLE file = CreateFileA(path.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  VLTUNE_CHECK(file != INVALID_HANDLE_VALUE, "ERR_IO", "%s: cannot open (error %lu)", path.c_str(), GetLastError());
  std::shared_ptr<Storage> storage(new Storage);
  storage->mapped_ = true;
  LARGE_INTEGER size;
  GetFileSizeEx(file, &size);
  storage->bytes_ = static_cast<size_t>(size.QuadPart);
  if (storage->bytes_ > 0) {
    HANDLE mapping = CreateFileMappingA(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping) storage->data_ = static_cast<std::byte*>(MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0));
    if (mapping) CloseHandle(mapping);
  }
  CloseHandle(file);
  VLTUNE_CHECK(storage->bytes_ == 0 || storage->data_, "ERR_IO", "%s: cannot map", path.c_str());
  storage->reserved_ = storage->bytes_;
  return storage;
}

void Storage::advise_unneeded(size_t, size_t) const {}

#else

// Pages come zeroed from the system and count as used only once touched. Large blocks ask for huge pages, which spare the
// matrix products most of their TLB misses.
static std::byte* reserve_memory(size_t bytes, size_t* reserved) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  *reserved = (bytes + page - 1) / page * page;
  void* data = mmap(nullptr, *reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  if (*reserved >= 4 * kHugePage) madvise(data, *reserved, MADV_HUGEPAGE);
#endif
  return static_cast<std::byte*>(data);
}
static void free_memory(std::byte* data, size_t reserved) { munmap(data, reserved); }
static void unmap(std::byte* data, size_t reserved) { munmap(data, reserved); }

std::shared_ptr<Storage> Storage::map_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  VLTUNE_CHECK(file >= 0, "ERR_IO", "%s: %s", path.c_str(), std::strerror(errno));
  struct stat info;
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(file);
    VLTUNE_FAIL("ERR_IO", "%s: not a regular file", path.c_str());
  }
  std::shared_ptr<Storage> storage(new Storage);
  storage->mapped_ = true;
  storage->bytes_ = static_cast<size_t>(info.st_size);
  storage->reserved_ = storage->bytes_;
  if (storage->bytes_ > 0) {
    void* data = mmap(nullptr, storage->bytes_, PROT_READ, MAP_PRIVATE, file, 0);
    const int error = errno;
    close(file);
    VLTUNE_CHECK(data != MAP_FAILED, "ERR_IO", "%s: %s", path.c_str(), std::strerror(error));
    storage->data_ = static_cast<std::byte*>(data);
  } else {
    close(file);
  }
  return storage;
}

void Storage::advise_unneeded(size_t offset, size_t bytes) const {
  if (!mapped_ || bytes == 0) return;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
  if (end > begin) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

#endif

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->bytes_ = bytes;
  storage->device_ = device;
  if (bytes > 0) {
    if (device == Device::Cuda) {
      storage->data_ = static_cast<std::byte*>(gpu::allocate(bytes));
    } else if (device == Device::Pinned) {
      storage->data_ = static_cast<std::byte*>(gpu::allocate_pinned(bytes));
    } else {
      storage->data_ = reserve_memory(bytes, &storage->reserved_);
      VLTUNE_CHECK(storage->data_, "ERR_OUT_OF_MEMORY", "cannot allocate %.1f MiB (%.1f MiB are in use by vltune)",
                   static_cast<double>(bytes) / 1048576.0,
                   static_cast<double>(memory_count(Device::Cpu).current.load()) / 1048576.0);
    }
  }
  count_allocation(device, bytes);
  return storage;
}

Storage::~Storage() {
  if (mapped_) {
    if (data_) unmap(data_, reserved_);
    return;
  }
  if (!data_) return;
  if (device_ == Device::Cuda) gpu::release(data_);
  else if (device_ == Device::Pinned) gpu::release_pinned(data_);
  else free_memory(data_, reserved_);
  memory_count(device_).current.fetch_sub(bytes_);
}

void copy_bytes(const Storage& to, std::byte* target, const Storage& from, const std::byte* source, size_t bytes) {
  if (bytes == 0) return;
  const bool to_gpu = to.device() == Device::Cuda, from_gpu = from.device() == Device::Cuda;
  if (to_gpu && from.device() == Device::Cpu) gpu::upload(target, source, bytes);
  else if (to_gpu || from_gpu) gpu::copy(target, source, bytes);
  else std::memmove(target, source, bytes);
}

}  // namespace vltune
