// A tensor view: pointer, dtype, device and shape, always contiguous and row-major. It owns nothing.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vltune {

// The numbers are shared with lib/native.ts.
enum class DType : uint8_t { F32 = 0, BF16 = 1, F16 = 2, I32 = 3, U8 = 4, I64 = 5, NF4 = 6 };
// Pinned: page-locked host memory, which the GPU reads and writes too.
enum class Device : uint8_t { Cpu = 0, Cuda = 1, Pinned = 2 };
constexpr int kDevices = 3;

const char* device_name(Device device);

const char* dtype_name(DType dtype);

// Bytes of `count` elements; NF4 counts its packed codes only ((count + 1) / 2).
inline size_t dtype_bytes(DType dtype, int64_t count) {
  switch (dtype) {
    case DType::F32: case DType::I32: return static_cast<size_t>(count) * 4;
    case DType::BF16: case DType::F16: return static_cast<size_t>(count) * 2;
    case DType::U8: return static_cast<size_t>(count);
    case DType::I64: return static_cast<size_t>(count) * 8;
    case DType::NF4: return static_cast<size_t>((count + 1) / 2);
  }
  return 0;
}

// The scales of an NF4 tensor in bitsandbytes' layout: row-major flat blocks of 64 elements, element 2j in the high nibble.
// Single: `absmax` F32 [ceil(numel/64)]. Double: `absmax_u8` U8 of the same length, and then
//   absmax[b] = dynamic_map_signed[absmax_u8[b]] * nested_absmax[b / 256] + offset      (all F32)
struct Nf4State {
  const float* absmax = nullptr;
  const uint8_t* absmax_u8 = nullptr;
  const float* nested_absmax = nullptr;
  float offset = 0;
};

constexpr int64_t kNf4Block = 64;
constexpr int64_t kNf4NestedBlock = 256;
constexpr int kMaxRank = 4;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::F32;
  Device device = Device::Cpu;
  uint8_t rank = 0;  // 0: an optional operand that is absent
  int64_t shape[kMaxRank] = {0, 0, 0, 0};
  Nf4State nf4;      // for DType::NF4 only

  bool present() const { return rank > 0; }
  int64_t numel() const {
    if (rank == 0) return 0;
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t dim(int i) const { return shape[i < 0 ? rank + i : i]; }
  template <class T> T* as() const { return static_cast<T*>(data); }
};

}  // namespace vltune
