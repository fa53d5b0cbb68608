// Frames of one size to patches, as transformers' Qwen2-VL image and Qwen3-VL video processors make them: a separable resize in
// integers, then a number for each of a channel's 256 values, then patches in the order in which the merger takes them. Not an op of
// the table: it reads what comes from a decoder, off the graph.
//
//   frames   U8 [height, width, 3] each; frame t * temporal + k is the k-th of patch t, the last one stands for those that are missing
//   resized  each row, then each column (with rows_first the other way round): out[i] = clip((half + sum over k of weights[i, k] * in[starts[i] + k]) >> shift), 0 to 255,
//            with half = 1 << (shift - 1), rounded to bytes after either direction
//   out      F32 [T * H * W, 3 * temporal * patch * patch] of table[channel, value]: rows by t, then groups of merge x merge patches from
//            left to right and top to bottom, then the patches of a group likewise; a row holds channel, k, y, x
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vltune {

constexpr int kColors = 3;

// One direction of the resize. Starts do not fall; each, and each + taps, lies within the input. The sum of |weights| * 255 fits 31 bits.
struct Resampling {
  int64_t outputs = 0;
  int64_t taps = 0;
  int shift = 1;
  const int32_t* starts = nullptr;   // [outputs]
  const int32_t* weights = nullptr;  // [outputs, taps]
};

struct ImagePatches {
  std::vector<const uint8_t*> frames;  // at least one
  int64_t width = 0, height = 0;
  const Resampling *columns = nullptr, *rows = nullptr;  // across a row, down a column; nullptr: that side stays as it is
  bool rows_first = false;
  const float* table = nullptr;                          // [kColors, 256]
  int64_t patch = 0, merge = 0, temporal = 0;
  float* out = nullptr;

  int64_t out_width() const { return columns ? columns->outputs : width; }    // a multiple of patch * merge
  int64_t out_height() const { return rows ? rows->outputs : height; }        // likewise
  int64_t out_frames() const { return (static_cast<int64_t>(frames.size()) + temporal - 1) / temporal; }
  int64_t out_numel() const { return out_frames() * temporal * out_height() * out_width() * kColors; }
};

namespace cpu {
namespace portable { void image_patches(const ImagePatches&); }
#ifdef VLTUNE_X86
namespace avx2 { void image_patches(const ImagePatches&); }
namespace avx512 { void image_patches(const ImagePatches&); }
#endif
// By the best instruction set of this CPU, on the process's threads.
void image_patches(const ImagePatches& work);
}  // namespace cpu
}  // namespace vltune
