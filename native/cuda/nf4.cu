#include "../ops/nf4.h"

#include "../ops/check.h"
#include "nf4.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;

template <class T> __device__ T rounded(float x);
template <> __device__ inline float rounded(float x) { return x; }
template <> __device__ inline __nv_bfloat16 rounded(float x) { return __float2bfloat16_rn(x); }

// ---- dequantise -----------------------------------------------------------------------------------------------------

// Elements first..first + count of a tensor, as rows of `width` elements that start every `stride` elements of `to`.
template <class T> struct Rows {
  const uint8_t* codes;
  Nf4State state;
  int64_t first, count;
  T* to;
  int64_t stride, width;
};

// A warp takes 32 blocks or fewer: its lanes read a scale each, and words of 8 elements side by side. Reads and writes are
// coalesced in full, and a lane has kWords words under way. kIsFlat: one row.
template <class T, int kWords, bool kIsFlat> __global__ void __launch_bounds__(kThreads, 4) read_words(const Rows<T> rows) {
  constexpr int kWarpElements = kWords * kWarp * kNf4Word, kBlocks = kWarpElements / static_cast<int>(kNf4Block);
  static_assert(kBlocks <= kWarp);
  const int lane = threadIdx.x % kWarp;
  const int64_t end = rows.first + rows.count;
  const int64_t warp = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t base = rows.first / kNf4Block * kNf4Block + warp * kWarpElements;
  if (base >= end) return;  // the whole warp
  uint32_t word[kWords];
#pragma unroll
  for (int u = 0; u < kWords; ++u) {
    const int64_t e = base + (u * kWarp + lane) * kNf4Word;
    word[u] = e >= rows.first && e + kNf4Word <= end ? __ldg(reinterpret_cast<const uint32_t*>(rows.codes + e / 2)) : 0;
  }
  const int64_t block = base / kNf4Block + lane;
  const float block_scale = lane < kBlocks && block * kNf4Block < end ? nf4_scale(rows.state, block) : 0.0f;
  const float code = __ldg(kNf4Code + lane % 16);

  // Where the first word goes; each next one is a warp's words further on. Negative ones are before the first row, and not written.
  const int words_per_row = static_cast<int>(rows.width / kNf4Word);
  const int64_t place = (base - rows.first) / kNf4Word + lane;
  T* to = rows.to + place * kNf4Word;
  int column = 0;
  if (!kIsFlat) {
    const int row = place < 0 ? 0 : static_cast<int>(place) / words_per_row;  // words before the first are not written
    column = static_cast<int>(place) - row * words_per_row;
    to = rows.to + row * rows.stride + column * kNf4Word;
  }
#pragma unroll
  for (int u = 0; u < kWords; ++u) {
    const float scale = __shfl_sync(0xffffffffu, block_scale, (u * kWarp + lane) * kNf4Word / static_cast<int>(kNf4Block));
    const int64_t e = base + (u * kWarp + lane) * kNf4Word;
    float value[kNf4Word];
    nf4_decode(word[u], scale, code, value);
    if (e >= rows.first && e < end) {
      if (e + kNf4Word <= end) {
        if constexpr (sizeof(T) == 4) {
          reinterpret_cast<float4*>(to)[0] = make_float4(value[0], value[1], value[2], value[3]);
          reinterpret_cast<float4*>(to)[1] = make_float4(value[4], value[5], value[6], value[7]);
        } else {
          *reinterpret_cast<uint4*>(to) = make_uint4(pack_bf16(value[0], value[1]), pack_bf16(value[2], value[3]),
                                                     pack_bf16(value[4], value[5]), pack_bf16(value[6], value[7]));
        }
      } else {  // a last word of fewer elements; its bytes are read one by one, for there may be no four
        for (int k = 0; e + k < end; ++k) {
          const uint8_t byte = rows.codes[(e + k) / 2];
          to[k] = rounded<T>(__fmul_rn(kNf4Code[k % 2 ? byte & 15 : byte >> 4], scale));
        }
      }
    }
    to += kWarp * kNf4Word;
    if (!kIsFlat) {
      for (column += kWarp; column >= words_per_row; column -= words_per_row) to += rows.stride - rows.width;
    }
  }
}

// Any width and alignment.
template <class T> __global__ void __launch_bounds__(kThreads) read_elements(const Rows<T> rows) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows.count; i += int64_t{gridDim.x} * kThreads) {
    const int64_t e = rows.first + i;
    const uint8_t byte = rows.codes[e / 2];
    rows.to[i / rows.width * rows.stride + i % rows.width] =
        rounded<T>(__fmul_rn(kNf4Code[e % 2 ? byte & 15 : byte >> 4], nf4_scale(rows.state, e / kNf4Block)));
  }
}

bool is_aligned(const void* pointer, int64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0; }

// ---------------------------------------------------------------------------------------------------------------------

// Blocks for `tasks` of them at `per_block`, at most a number that fills any device several times.
int blocks_for(int64_t tasks, int64_t per_block, int64_t most = INT32_MAX) {
  const int64_t blocks = (tasks + per_block - 1) / per_block;
  return static_cast<int>(blocks < most ? blocks : most);
}

// A wave of warps is long enough to hide its start only where there are many; small tensors are spread over more.
constexpr int kManyWords = 8, kFewWords = 4;
constexpr int64_t kElementsForMany = int64_t{1} << 23;

template <class T, int kWords, bool kIsFlat> void launch_words(const OpCall& call, const Rows<T>& rows) {
  const int64_t covered = rows.count + rows.first % kNf4Block;
  const int blocks = blocks_for(covered, int64_t{kThreads} * kWords * kNf4Word);
  read_words<T, kWords, kIsFlat><<<blocks, kThreads, 0, stream_of(call)>>>(rows);
}

template <class T> void read_rows(const OpCall& call, const Rows<T>& rows) {
  if (rows.count <= 0) return;
  const bool is_flat = rows.width == rows.stride || rows.count <= rows.width;
  const bool fits_words = rows.width % kNf4Word == 0 && rows.stride * static_cast<int64_t>(sizeof(T)) % 16 == 0 &&
                          rows.count / kNf4Word < INT32_MAX - kManyWords * kWarp;
  if ((is_flat || fits_words) && rows.first % kNf4Word == 0 && is_aligned(rows.codes, 4) && is_aligned(rows.to, 16)) {
    const bool many = rows.count >= kElementsForMany;
    if (is_flat) many ? launch_words<T, kManyWords, true>(call, rows) : launch_words<T, kFewWords, true>(call, rows);
    else many ? launch_words<T, kManyWords, false>(call, rows) : launch_words<T, kFewWords, false>(call, rows);
  } else {
    read_elements<T><<<blocks_for(rows.count, kThreads, 1 << 16), kThreads, 0, stream_of(call)>>>(rows);
  }
  check_launch(call);
}

}  // namespace

void dequantize_rows(const OpCall& call, const Tensor& nf4_weight, int64_t first_row, int64_t rows, void* to, DType to_dtype,
                     int64_t to_stride) {
  const int64_t width = nf4_weight.dim(-1), first = first_row * width, count = rows * width;
  const auto* codes = nf4_weight.as<uint8_t>();
  if (to_dtype == DType::F32) read_rows<float>(call, {codes, nf4_weight.nf4, first, count, static_cast<float*>(to), to_stride, width});
  else read_rows<__nv_bfloat16>(call, {codes, nf4_weight.nf4, first, count, static_cast<__nv_bfloat16*>(to), to_stride, width});
}

void nf4_dequantize(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_present(call, x, "x");
  check_present(call, y, "y");
  check_dtype(call, x, "x", kIsNf4);
  check_dtype(call, y, "y", kIsActivation);
  check_numel(call, y, "y", x.numel());
  Tensor row = x;
  row.rank = 1;
  row.shape[0] = x.numel();
  dequantize_rows(call, row, 0, 1, y.data, y.dtype, row.shape[0]);
}

}  // namespace vltune::cuda
