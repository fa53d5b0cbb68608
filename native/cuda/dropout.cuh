// Philox4x32-10 on the device: the same words, so the same masks, as native/cpu/philox.h.
#pragma once
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "../ops/linear_checks.h"

namespace vltune::cuda {

struct Dropout {
  const int32_t* key = nullptr;  // on the device; nullptr: nothing is dropped
  uint32_t site = 0;
  uint32_t threshold = 0;        // keep if word >= threshold
  float scale = 1;               // 1 / (1 - p)
};

static inline Dropout dropout_of(const OpCall& call, const Tensor& rng) {
  if (!rng.present() || dropout_probability(call) == 0) return {};
  const double p = dropout_probability(call), threshold = std::ceil(p * 4294967296.0);
  return {rng.as<int32_t>(), static_cast<uint32_t>(call.attrs->integer("site", 0)),
          threshold >= 4294967295.0 ? 0xffffffffu : static_cast<uint32_t>(threshold), static_cast<float>(1.0 / (1.0 - p))};
}

// A mask's generator with its key read: made once by a thread.
struct Mask {
  uint32_t key0, key1, site, threshold;
  float scale;
  __device__ explicit Mask(const Dropout& d)
      : key0(d.key ? static_cast<uint32_t>(d.key[0]) : 0), key1(d.key ? static_cast<uint32_t>(d.key[1]) : 0), site(d.site),
        threshold(d.threshold), scale(d.scale) {}

  // The words of columns 4 block .. 4 block + 3 of a row.
  __device__ uint4 words(uint32_t row, uint32_t block) const {
    uint32_t x0 = row, x1 = block, x2 = site, x3 = 0, k0 = key0, k1 = key1;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t high0 = __umulhi(x0, 0xD2511F53u), low0 = x0 * 0xD2511F53u;
      const uint32_t high1 = __umulhi(x2, 0xCD9E8D57u), low1 = x2 * 0xCD9E8D57u;
      x0 = high1 ^ x1 ^ k0;
      x1 = low1;
      x2 = high0 ^ x3 ^ k1;
      x3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {x0, x1, x2, x3};
  }
  // values[j] *= keep(row, 4 block + j) ? scale : 0
  __device__ void apply4(int64_t row, int64_t block, float* values) const {
    const uint4 w = words(static_cast<uint32_t>(row), static_cast<uint32_t>(block));
    values[0] *= w.x >= threshold ? scale : 0.0f;
    values[1] *= w.y >= threshold ? scale : 0.0f;
    values[2] *= w.z >= threshold ? scale : 0.0f;
    values[3] *= w.w >= threshold ? scale : 0.0f;
  }
  __device__ float factor(int64_t row, int64_t column) const {
    const uint4 w = words(static_cast<uint32_t>(row), static_cast<uint32_t>(column / 4));
    const int i = static_cast<int>(column % 4);
    return (i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w) >= threshold ? scale : 0.0f;
  }
};

}  // namespace vltune::cuda
