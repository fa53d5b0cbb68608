#include "../ops/image_patches.h"

#include <algorithm>
#include <memory>

#include "../runtime/thread_pool.h"
#include "bytes.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

// Both directions are the same sum over rows of bytes: the one across a row is made on a tile of rows that stands transposed, so
// that its lanes too are bytes side by side.
constexpr int kTile = 64;          // rows of a tile; a multiple of kLanes
constexpr int kWide = 4 * kLanes;  // bytes summed at once, in four registers
static_assert(kTile % kWide == 0);

std::unique_ptr<uint8_t[]> bytes(int64_t count) { return std::unique_ptr<uint8_t[]>(new uint8_t[static_cast<size_t>(count)]); }

// to[i] = clip((half + sum over k of weights[k] * from[k * stride + i]) >> shift) for n bytes.
void weighted_rows(const uint8_t* from, int64_t stride, const int32_t* weights, int64_t taps, int shift, uint8_t* to, int64_t n) {
  const int32_t half = 1 << (shift - 1);
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    Ints a = broadcast_int(half), b = a, c = a, d = a;
    for (int64_t k = 0; k < taps; ++k) {
      const Ints weight = broadcast_int(weights[k]);
      const uint8_t* row = from + k * stride + i;
      a = multiply_add(load_bytes(row), weight, a);
      b = multiply_add(load_bytes(row + kLanes), weight, b);
      c = multiply_add(load_bytes(row + 2 * kLanes), weight, c);
      d = multiply_add(load_bytes(row + 3 * kLanes), weight, d);
    }
    store_shifted(to + i, a, shift);
    store_shifted(to + i + kLanes, b, shift);
    store_shifted(to + i + 2 * kLanes, c, shift);
    store_shifted(to + i + 3 * kLanes, d, shift);
  }
  for (; i < n; ++i) {
    int32_t sum = half;
    for (int64_t k = 0; k < taps; ++k) sum += weights[k] * from[k * stride + i];
    to[i] = static_cast<uint8_t>(std::clamp(sum >> shift, 0, 255));
  }
}

// to[x, y] = from[y, x] for `rows` rows of `columns` bytes.
void transpose(const uint8_t* from, int64_t from_stride, int64_t rows, int64_t columns, uint8_t* to, int64_t to_stride) {
  constexpr int64_t kBlock = 16;
  for (int64_t x0 = 0; x0 < columns; x0 += kBlock)
    for (int64_t y0 = 0; y0 < rows; y0 += kBlock)
      for (int64_t x = x0; x < std::min(x0 + kBlock, columns); ++x)
        for (int64_t y = y0; y < std::min(y0 + kBlock, rows); ++y) to[x * to_stride + y] = from[y * from_stride + x];
}

// `rows` <= kTile rows of a frame, resized along their length. `tile` holds kTile bytes for each byte of a row, before and after.
void resize_columns(const ImagePatches& work, const uint8_t* from, int64_t rows, uint8_t* to, uint8_t* tile) {
  const Resampling& columns = *work.columns;
  const int64_t length = work.width * kColors, resized = columns.outputs * kColors;
  uint8_t* sums = tile + length * kTile;
  transpose(from, length, rows, length, tile, kTile);
  for (int64_t x = 0; x < columns.outputs; ++x)
    for (int64_t c = 0; c < kColors; ++c)
      weighted_rows(tile + (columns.starts[x] * kColors + c) * kTile, kColors * kTile, columns.weights + x * columns.taps, columns.taps,
                    columns.shift, sums + (x * kColors + c) * kTile, kTile);
  transpose(sums, kTile, resized, rows, to, resized);
}

// One row of groups: the band's resized rows of each frame become rows of patches. `band` [temporal][merge * patch][out_width * 3];
// `distinct` frames are in it, the others are the last of them.
void write_patches(const ImagePatches& work, const uint8_t* band, int64_t distinct, float* out) {
  const int64_t patch = work.patch, merge = work.merge, area = patch * patch, row = work.out_width() * kColors;
  const float* table = work.table;
  for (int64_t group = 0; group < work.out_width() / (patch * merge); ++group)
    for (int64_t my = 0; my < merge; ++my)
      for (int64_t mx = 0; mx < merge; ++mx, out += kColors * work.temporal * area)
        for (int64_t k = 0; k < work.temporal; ++k) {
          float* to = out + k * area;  // of the first channel; the next is temporal * area further
          const int64_t next = work.temporal * area;
          if (k >= distinct) {
            for (int64_t c = 0; c < kColors; ++c) std::copy_n(to + c * next - area, area, to + c * next);
            continue;
          }
          const uint8_t* from = band + (k * merge + my) * patch * row + (group * merge + mx) * patch * kColors;
          for (int64_t y = 0; y < patch; ++y, from += row, to += patch)
            for (int64_t x = 0; x < patch; ++x) {
              to[x] = table[from[x * kColors]];
              to[next + x] = table[256 + from[x * kColors + 1]];
              to[2 * next + x] = table[512 + from[x * kColors + 2]];
            }
        }
}

// The rows of one frame that a band is made of; from has rows of `length` bytes, to has rows of `length` bytes likewise.
void band_rows(const ImagePatches& work, const uint8_t* from, int64_t length, int64_t first, int64_t count, uint8_t* to) {
  for (int64_t y = first; y < first + count; ++y, to += length) {
    if (work.rows)
      weighted_rows(from + work.rows->starts[y] * length, length, work.rows->weights + y * work.rows->taps, work.rows->taps,
                    work.rows->shift, to, length);
    else
      std::copy_n(from + y * length, length, to);
  }
}

}  // namespace

void image_patches(const ImagePatches& work) {
  const auto pool = default_pool();
  const int64_t temporal = work.temporal, count = static_cast<int64_t>(work.frames.size());
  const int64_t wide = work.width * kColors, row = work.out_width() * kColors;
  const int64_t height = work.merge * work.patch, bands = work.out_height() / height;  // of a band, and how many there are
  const bool columns_first = work.columns && !work.rows_first, columns_last = work.columns && work.rows_first;
  const int64_t tiles = (work.height + kTile - 1) / kTile, tile_bytes = work.columns ? (wide + row) * kTile : 0;
  const auto narrowed = bytes(columns_first ? std::min(temporal, count) * work.height * row : 0);

  for (int64_t t = 0; t < work.out_frames(); ++t) {
    const int64_t distinct = std::min(temporal, count - t * temporal);
    const uint8_t* const* frames = work.frames.data() + t * temporal;
    if (columns_first) {
      pool->parallel_for(distinct * tiles, 1, [&](int64_t begin, int64_t end) {
        const auto tile = bytes(tile_bytes);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t frame = i / tiles, y = i % tiles * kTile;
          resize_columns(work, frames[frame] + y * wide, std::min<int64_t>(kTile, work.height - y),
                         narrowed.get() + (frame * work.height + y) * row, tile.get());
        }
      });
    }
    pool->parallel_for(bands, 1, [&](int64_t begin, int64_t end) {
      const auto band = bytes(distinct * height * row), shortened = bytes(columns_last ? height * wide : 0);
      const auto tile = bytes(columns_last ? tile_bytes : 0);
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t frame = 0; frame < distinct; ++frame) {
          uint8_t* to = band.get() + frame * height * row;
          if (!columns_last) {
            band_rows(work, columns_first ? narrowed.get() + frame * work.height * row : frames[frame], row, b * height, height, to);
            continue;
          }
          band_rows(work, frames[frame], wide, b * height, height, shortened.get());
          for (int64_t y = 0; y < height; y += kTile)
            resize_columns(work, shortened.get() + y * wide, std::min<int64_t>(kTile, height - y), to + y * row, tile.get());
        }
        write_patches(work, band.get(), distinct, work.out + (t * bands + b) * temporal * height * row);
      }
    });
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
