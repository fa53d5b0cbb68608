// What the kernels share: vectors of elements in memory and as F32 lanes, sums over a warp and a block in a fixed order, dtype dispatch.
//
//   load<8>(p), store(p, packed)       8 elements at p, in accesses of up to 16 bytes: p is aligned to min(16, 8 * sizeof(T)) bytes
//   unpack(packed), pack<T>(lanes)     to F32 lanes, and back, rounded to nearest even
//   load_lanes<8>(p), store_lanes(p, lanes)     both steps in one
//   warp_sum<32>(v), block_sum<256>(v, shared)  every thread gets the sum; the order of additions depends on the width alone
//   with_float(dtype, [&](auto tag) { using T = decltype(tag); ... })          and with_activation, with_norm_weight; on the host
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "../runtime/tensor.h"

namespace vltune::cuda {

using Bf16 = __nv_bfloat16;
using F16 = __half;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kVectorBytes = 16;                                                   // the widest access of a thread
template <class T> constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));  // elements in one

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Absent pointers (null) count as aligned.
template <class... Pointers> bool all_aligned(size_t bytes, Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(Bf16 v) { return __bfloat162float(v); }
__device__ inline float to_float(F16 v) { return __half2float(v); }
template <class T> __device__ T from_float(float v);
template <> __device__ inline float from_float<float>(float v) { return v; }
template <> __device__ inline Bf16 from_float<Bf16>(float v) { return __float2bfloat16_rn(v); }
template <> __device__ inline F16 from_float<F16>(float v) { return __float2half_rn(v); }

template <class T> __device__ inline float rounded(float v) { return to_float(from_float<T>(v)); }

// Two numbers rounded to T (BF16 or F16), the first in the lower half.
template <class T> __device__ inline uint32_t pack_pair(float first, float second) {
  if constexpr (std::is_same_v<T, Bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// One element of F32, BF16 or F16, where which of them is known only as the kernel runs.
__device__ inline float element_of(const void* from, DType dtype, int64_t i) {
  if (dtype == DType::BF16) return to_float(static_cast<const Bf16*>(from)[i]);
  if (dtype == DType::F16) return to_float(static_cast<const F16*>(from)[i]);
  return static_cast<const float*>(from)[i];
}

// How soon memory is used again. Constant: nothing writes it while the kernel runs. Once: it leaves the caches first.
enum class Use { Again, Once, Constant };

template <Use kUse, class Word> __device__ inline Word load_word(const Word* p) {
  if constexpr (kUse == Use::Constant) return __ldg(p);
  else if constexpr (kUse == Use::Once) return __ldcs(p);
  else return *p;
}
template <Use kUse, class Word> __device__ inline void store_word(Word* p, Word word) {
  if constexpr (kUse == Use::Once) __stcs(p, word);
  else *p = word;
}

template <int kBytes> struct WordOf;
template <> struct WordOf<1> { using type = unsigned char; };
template <> struct WordOf<2> { using type = unsigned short; };
template <> struct WordOf<4> { using type = unsigned; };
template <> struct WordOf<8> { using type = uint2; };
template <> struct WordOf<16> { using type = uint4; };

// N elements as they lie in memory, N * sizeof(T) being 1, 2, 4, 8 or a multiple of 16.
template <class T, int N> struct Packed {
  static constexpr int kBytes = N * static_cast<int>(sizeof(T));
  using Word = typename WordOf<(kBytes < kVectorBytes ? kBytes : kVectorBytes)>::type;
  static constexpr int kWords = kBytes / static_cast<int>(sizeof(Word));
  Word words[kWords];
};

template <int N> struct Lanes {
  float v[N];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ float operator[](int i) const { return v[i]; }
  __device__ Lanes& operator+=(const Lanes& more) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] += more[i];
    return *this;
  }
};

template <int N, Use kUse = Use::Again, class T> __device__ inline Packed<T, N> load(const T* p) {
  Packed<T, N> packed;
#pragma unroll
  for (int i = 0; i < packed.kWords; ++i)
    packed.words[i] = load_word<kUse>(reinterpret_cast<const typename Packed<T, N>::Word*>(p) + i);
  return packed;
}
template <Use kUse = Use::Again, class T, int N> __device__ inline void store(T* p, const Packed<T, N>& packed) {
#pragma unroll
  for (int i = 0; i < packed.kWords; ++i)
    store_word<kUse>(reinterpret_cast<typename Packed<T, N>::Word*>(p) + i, packed.words[i]);
}

template <class T, int N> __device__ inline Lanes<N> unpack(const Packed<T, N>& packed) {
  Lanes<N> lanes;
#pragma unroll
  for (int i = 0; i < N; ++i) lanes[i] = to_float(reinterpret_cast<const T*>(packed.words)[i]);
  return lanes;
}
template <class T, int N> __device__ inline Packed<T, N> pack(const Lanes<N>& lanes) {
  Packed<T, N> packed;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {  // two are converted by one instruction
#pragma unroll
    for (int i = 0; i < N; i += 2) reinterpret_cast<uint32_t*>(packed.words)[i / 2] = pack_pair<T>(lanes[i], lanes[i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) reinterpret_cast<T*>(packed.words)[i] = from_float<T>(lanes[i]);
  }
  return packed;
}

template <int N, Use kUse = Use::Again, class T> __device__ inline Lanes<N> load_lanes(const T* p) { return unpack(load<N, kUse>(p)); }
template <Use kUse = Use::Again, class T, int N> __device__ inline void store_lanes(T* p, const Lanes<N>& lanes) {
  store<kUse>(p, pack<T>(lanes));
}

// Over groups of kWidth neighbouring lanes (a power of two up to 32). Every lane of the warp calls it.
template <int kWidth = kWarp> __device__ inline float warp_sum(float v) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// Over kThreads threads, all of the block: a multiple of 32 up to 1024. `shared` holds kThreads / 32 floats. It may be used again
// only after another barrier: callers that sum in a loop take two in turn.
template <int kThreads> __device__ inline float block_sum(float v, float* shared) {
  constexpr int kWarps = kThreads / kWarp;
  v = warp_sum(v);
  if constexpr (kWarps == 1) return v;
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum += shared[i];
  return sum;
}

template <class Body> void with_float(DType dtype, Body&& body) {
  if (dtype == DType::BF16) body(Bf16{});
  else if (dtype == DType::F16) body(F16{});
  else body(float{});
}
template <class Body> void with_activation(DType dtype, Body&& body) { with_float(dtype, body); }
template <class Body> void with_norm_weight(DType dtype, Body&& body) {
  if (dtype == DType::BF16) body(Bf16{});
  else body(float{});
}

}  // namespace vltune::cuda
