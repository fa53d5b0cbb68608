#include "../ops/nf4.h"

#include <cfloat>
#include <cmath>

#include "../ops/nf4_checks.h"
#include "fast_math.cuh"
#include "nf4.cuh"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kThreads = 256;

// ---- quantise -------------------------------------------------------------------------------------------------------
// As bitsandbytes' kQuantizeBlockwiseSmall and kQuantizeBlockwise, which multiply by the approximate reciprocal of the absmax.

// dQuantizeNF4's literals: code k + 1 rather than k above the k-th, strictly.
constexpr float kThresholds[15] = {-0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f,
                                   -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
                                   0.1202552504837513f, 0.2035212516784668f, 0.2920137718319893f, 0.3893125355243683f,
                                   0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f};

// x in -1..1 is looked up by the whole number nearest to 16 x, in whose reach there is at most one threshold. NaN has the last cell,
// and with it code 0.
constexpr int kCells = 64, kCellOfZero = 16;
struct Cells {
  float above[kCells];
  int code[kCells];
  bool sound;
};
constexpr Cells make_cells() {
  Cells cells{};
  cells.sound = true;
  for (int c = 0; c < kCells; ++c) {
    cells.above[c] = INFINITY;
    for (int k = 0; k < 15; ++k) {
      const double sixteen = static_cast<double>(kThresholds[k]) * 16 + kCellOfZero + 0.5;
      const int cell = static_cast<int>(sixteen);
      if (sixteen - cell < 0.01 || sixteen - cell > 0.99) cells.sound = false;  // too near to an edge for the product's rounding
      if (cell < c && c <= 2 * kCellOfZero) cells.code[c] = k + 1;
      if (cell != c) continue;
      if (cells.above[c] != INFINITY) cells.sound = false;
      cells.above[c] = kThresholds[k];
    }
  }
  return cells;
}
static_assert(make_cells().sound);
__device__ const Cells kNf4Cells = make_cells();

// A thread takes a word of 8 elements, 8 threads a block. Elements that the last block lacks count as zeros.
template <class T, bool kIsAligned>
__global__ void __launch_bounds__(kThreads) quantize(const T* x, int64_t n, uint8_t* codes, float* absmax) {
  __shared__ float above[kCells];
  __shared__ int code_of[kCells];
  if (threadIdx.x < kCells) {
    above[threadIdx.x] = kNf4Cells.above[threadIdx.x];
    code_of[threadIdx.x] = kNf4Cells.code[threadIdx.x];
  }
  __syncthreads();
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kNf4Word;
  const bool is_whole = first + kNf4Word <= n;
  Lanes<kNf4Word> v;
  if (kIsAligned && is_whole) {
    v = load_lanes<kNf4Word, Use::Constant>(x + first);
  } else {
    for (int k = 0; k < kNf4Word; ++k) v[k] = first + k < n ? to_float(x[first + k]) : 0.0f;
  }
  float largest = -FLT_MAX;
#pragma unroll
  for (int k = 0; k < kNf4Word; ++k) largest = fast::max(fabsf(v[k]), largest);
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) largest = fast::max(__shfl_xor_sync(kAllLanes, largest, offset), largest);
  if (first >= n) return;
  if (first % kNf4Block == 0) absmax[first / kNf4Block] = largest;
  const float scale = fast::reciprocal(largest);
  uint32_t word = 0;
#pragma unroll
  for (int k = 0; k < kNf4Word; ++k) {
    const float scaled = fast::mul(v[k], scale);
    const uint32_t cell = __float_as_uint(__fmaf_rn(scaled, 16.0f, 0x1p23f + kCellOfZero)) % kCells;
    const uint32_t code = static_cast<uint32_t>(code_of[cell]) + (scaled > above[cell]);
    word |= code << (k / 2 * 8 + (k % 2 ? 0 : 4));
  }
  if (kIsAligned && is_whole) {
    *reinterpret_cast<uint32_t*>(codes + first / 2) = word;
  } else {
    for (int k = 0; k < kNf4Word && first + k < n; k += 2) codes[(first + k) / 2] = static_cast<uint8_t>(word >> (k / 2 * 8));
  }
}

// The mean as torch's CUDA kernel adds it (ATen/native/cuda/Reduce.cuh, a contiguous list reduced to one number): `blocks` blocks of
// `threads`, a thread's four sums over every blocks * threads-th vector of 4, lanes halved, then the blocks' sums likewise.
constexpr int kMeanThreads = 512;
struct MeanShape {
  int threads, blocks;
};
int last_power_of_two(int64_t n) {
  int power = 1;
  while (power * 2 <= n) power *= 2;
  return power;
}
MeanShape mean_shape(int64_t n, const DeviceInfo& device) {
  constexpr int64_t kLeast = 16, kMost = 256;  // elements of a thread
  const int64_t wide = n >= 128 ? n / 4 : n;
  const int threads = wide < kMeanThreads ? last_power_of_two(wide) : kMeanThreads;
  const int64_t each = ceil_div(n, threads);
  if (each < kMost) return {threads, 1};
  const int capability = device.capability();
  const int resident = capability == 75 ? 1024 : capability == 80 || capability == 90 || capability == 100 ? 2048 : 1536;  // threads
  int64_t blocks = int64_t{device.multiprocessors} * (resident / threads);
  if (blocks > ceil_div(each, kLeast)) blocks = ceil_div(each, kLeast);
  if (blocks < ceil_div(each, kMost)) blocks = ceil_div(each, kMost);
  return {threads, static_cast<int>(blocks)};
}

// Thread 0 has the sum.
__device__ float halved_sum(float sum, float* shared) {
  const int threads = static_cast<int>(blockDim.x);
  shared[threadIdx.x] = sum;
  for (int offset = threads / 2; offset > 0; offset /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < offset) {
      sum = __fadd_rn(sum, shared[threadIdx.x + offset]);
      shared[threadIdx.x] = sum;
    }
  }
  return sum;
}

// sums[block], or the mean itself where there is one block.
__global__ void __launch_bounds__(kMeanThreads) add_blocks(const float* x, int64_t n, float factor, float* sums) {
  __shared__ float shared[kMeanThreads];
  float sum[4] = {0, 0, 0, 0};
  if (n >= 128) {
    const int64_t step = int64_t{gridDim.x} * blockDim.x * 4;
    for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4; i + 3 < n; i += step)
      for (int k = 0; k < 4; ++k) sum[k] = __fadd_rn(sum[k], x[i + k]);
    const int64_t tail = n / 4 * 4 + threadIdx.x;
    if (blockIdx.x == 0 && tail < n) sum[0] = __fadd_rn(sum[0], x[tail]);
  } else {
    for (int k = 0; k < 4; ++k)
      if (threadIdx.x + k * blockDim.x < n) sum[k] = x[threadIdx.x + k * blockDim.x];
  }
  for (int k = 1; k < 4; ++k) sum[0] = __fadd_rn(sum[0], sum[k]);
  const float total = halved_sum(sum[0], shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = gridDim.x == 1 ? __fmul_rn(total, factor) : total;
}

__global__ void __launch_bounds__(kMeanThreads) add_sums(const float* sums, int count, float factor, float* mean) {
  __shared__ float shared[kMeanThreads];
  float sum = 0;
  for (int i = threadIdx.x; i < count; i += kMeanThreads) sum = __fadd_rn(sum, sums[i]);
  sum = halved_sum(sum, shared);
  if (threadIdx.x == 0) *mean = __fmul_rn(sum, factor);
}

// The nearest code of the signed dynamic map, as bitsandbytes' dQuantize finds it: by midpoints, a tie goes to the even code where
// the search ends, and NaN to 0.
__device__ int nearest_code(const float* map, float x) {
  int code = 127;
#pragma unroll
  for (int step = 64; step > 0; step /= 2) code += x > map[code] ? step : -step;
  if (x > map[code]) return x > __fmul_rn(__fadd_rn(map[code + 1], map[code]), 0.5f) ? code + 1 : code;
  if (code > 0 && x < __fmul_rn(__fadd_rn(map[code - 1], map[code]), 0.5f)) return code - 1;
  return code;
}

// A block of threads, a nested block; elements that the last one lacks count as zeros.
__global__ void __launch_bounds__(kNf4NestedBlock) quantize_absmax(const float* absmax, int64_t n, const float* offset, uint8_t* codes,
                                                                   float* nested) {
  constexpr int kWarps = static_cast<int>(kNf4NestedBlock) / kWarp;
  __shared__ float map[256];
  __shared__ float warp_largest[kWarps];
  map[threadIdx.x] = kDynamicMapSigned[threadIdx.x];
  const int64_t i = int64_t{blockIdx.x} * kNf4NestedBlock + threadIdx.x;
  const float value = i < n ? __fsub_rn(absmax[i], *offset) : 0.0f;
  float largest = fast::max(fabsf(value), -FLT_MAX);
#pragma unroll
  for (int width = kWarp / 2; width > 0; width /= 2) largest = fast::max(__shfl_xor_sync(kAllLanes, largest, width), largest);
  if (threadIdx.x % kWarp == 0) warp_largest[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) largest = fast::max(warp_largest[w], largest);
  if (threadIdx.x == 0) nested[blockIdx.x] = largest;
  if (i < n) codes[i] = static_cast<uint8_t>(nearest_code(map, fast::mul(value, fast::reciprocal(largest))));
}

__global__ void copy_maps(float* of_signed, float* of_unsigned) {
  of_signed[threadIdx.x] = kDynamicMapSigned[threadIdx.x];
  of_unsigned[threadIdx.x] = kDynamicMapUnsigned[threadIdx.x];
}

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
    const float scale = __shfl_sync(kAllLanes, block_scale, (u * kWarp + lane) * kNf4Word / static_cast<int>(kNf4Block));
    const int64_t e = base + (u * kWarp + lane) * kNf4Word;
    float value[kNf4Word];
    nf4_decode(word[u], scale, code, value);
    if (e >= rows.first && e < end) {
      if (e + kNf4Word <= end) {
        if constexpr (sizeof(T) == 4) {
          reinterpret_cast<float4*>(to)[0] = make_float4(value[0], value[1], value[2], value[3]);
          reinterpret_cast<float4*>(to)[1] = make_float4(value[4], value[5], value[6], value[7]);
        } else {
          *reinterpret_cast<uint4*>(to) = make_uint4(pack_pair<T>(value[0], value[1]), pack_pair<T>(value[2], value[3]),
                                                     pack_pair<T>(value[4], value[5]), pack_pair<T>(value[6], value[7]));
        }
      } else {  // a last word of fewer elements; its bytes are read one by one, for there may be no four
        for (int k = 0; e + k < end; ++k) {
          const uint8_t byte = rows.codes[(e + k) / 2];
          to[k] = from_float<T>(__fmul_rn(kNf4Code[k % 2 ? byte & 15 : byte >> 4], scale));
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
        from_float<T>(__fmul_rn(kNf4Code[e % 2 ? byte & 15 : byte >> 4], nf4_scale(rows.state, e / kNf4Block)));
  }
}

// ---------------------------------------------------------------------------------------------------------------------

// At most a number that fills any device several times, for kernels that go on by strides of the grid.
constexpr int64_t kMostBlocks = 1 << 16;

// Words of a lane. Four keep most bytes moving; but one wave of warps with eight is faster than two or three with four.
constexpr int kFewWords = 4, kManyWords = 8;
constexpr int64_t kFewWarps = 32, kManyWarps = 48;  // of a multiprocessor at once, by their registers
bool takes_many_words(int64_t count) {
  const int64_t lanes = int64_t{device().multiprocessors} * kWarp * kNf4Word;
  return count > lanes * kFewWarps * kFewWords && count <= lanes * kManyWarps * kManyWords;
}

template <class T, int kWords, bool kIsFlat> void launch_words(const OpCall& call, const Rows<T>& rows) {
  const int64_t covered = rows.count + rows.first % kNf4Block;
  const auto blocks = static_cast<unsigned>(ceil_div(covered, int64_t{kThreads} * kWords * kNf4Word));
  read_words<T, kWords, kIsFlat><<<blocks, kThreads, 0, stream_of(call)>>>(rows);
}

template <class T> void read_rows(const OpCall& call, const Rows<T>& rows) {
  if (rows.count <= 0) return;
  const bool is_flat = rows.width == rows.stride || rows.count <= rows.width;
  const bool fits_words = rows.width % kNf4Word == 0 && rows.stride * static_cast<int64_t>(sizeof(T)) % 16 == 0 &&
                          rows.count / kNf4Word < INT32_MAX - kManyWords * kWarp;
  if ((is_flat || fits_words) && rows.first % kNf4Word == 0 && all_aligned(4, rows.codes) && all_aligned(kVectorBytes, rows.to)) {
    const bool many = takes_many_words(rows.count);
    if (is_flat) many ? launch_words<T, kManyWords, true>(call, rows) : launch_words<T, kFewWords, true>(call, rows);
    else many ? launch_words<T, kManyWords, false>(call, rows) : launch_words<T, kFewWords, false>(call, rows);
  } else {
    const int64_t blocks = ceil_div(rows.count, kThreads);
    read_elements<T><<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0, stream_of(call)>>>(rows);
  }
  check_launch(call);
}

}  // namespace

void dequantize_rows(const OpCall& call, const Tensor& nf4_weight, int64_t first_row, int64_t rows, void* to, DType to_dtype,
                     int64_t to_stride) {
  const int64_t width = nf4_weight.dim(-1), first = first_row * width, count = rows * width;
  const auto* codes = nf4_weight.as<uint8_t>();
  with_activation(to_dtype, [&](auto tag) {
    using T = decltype(tag);
    read_rows<T>(call, {codes, nf4_weight.nf4, first, count, static_cast<T*>(to), to_stride, width});
  });
}

void nf4_quantize(const OpCall& call) {
  const Tensor &x = input(call, 0), &codes = output(call, 0), &absmax = output(call, 1);
  check_nf4_quantize(call, x, codes, absmax);
  const int64_t n = x.numel();
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(n, int64_t{kThreads} * kNf4Word));
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const bool aligned = all_aligned(kVectorBytes, x.data) && all_aligned(4, codes.data);
    const auto kernel = aligned ? quantize<T, true> : quantize<T, false>;
    kernel<<<blocks, kThreads, 0, stream_of(call)>>>(x.as<T>(), n, codes.as<uint8_t>(), absmax.as<float>());
  });
  check_launch(call);
}

void nf4_quantize_absmax(const OpCall& call) {
  const Tensor &absmax = input(call, 0), &codes = output(call, 0), &nested = output(call, 1), &offset = output(call, 2);
  check_nf4_quantize_absmax(call, absmax, codes, nested, offset);
  const int64_t n = absmax.dim(0), blocks = nested.dim(0);
  if (n == 0) return;
  // The blocks' sums wait in nested, which is longer and is not written yet.
  const MeanShape shape = mean_shape(n, device());
  const float factor = 1.0f / static_cast<float>(n);
  float* sums = shape.blocks == 1 ? offset.as<float>() : nested.as<float>();
  add_blocks<<<shape.blocks, shape.threads, 0, stream_of(call)>>>(absmax.as<float>(), n, factor, sums);
  check_launch(call);
  if (shape.blocks > 1) {
    add_sums<<<1, kMeanThreads, 0, stream_of(call)>>>(sums, shape.blocks, factor, offset.as<float>());
    check_launch(call);
  }
  quantize_absmax<<<static_cast<unsigned>(blocks), kNf4NestedBlock, 0, stream_of(call)>>>(absmax.as<float>(), n, offset.as<float>(),
                                                                                          codes.as<uint8_t>(), nested.as<float>());
  check_launch(call);
}

void nf4_dequantize(const OpCall& call) {
  const Tensor &x = input(call, 0), &y = output(call, 0);
  check_nf4_dequantize(call, x, y);
  Tensor row = x;
  row.rank = 1;
  row.shape[0] = x.numel();
  dequantize_rows(call, row, 0, 1, y.data, y.dtype, row.shape[0]);
}

void dynamic_map(const OpCall& call) {
  const Tensor &of_signed = output(call, 0), &of_unsigned = output(call, 1);
  check_dynamic_map(call, of_signed, of_unsigned);
  copy_maps<<<1, 256, 0, stream_of(call)>>>(of_signed.as<float>(), of_unsigned.as<float>());
  check_launch(call);
}

}  // namespace vltune::cuda
