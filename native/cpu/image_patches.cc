#include "../ops/image_patches.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "../runtime/thread_pool.h"
#include "bytes.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

// Both directions are the same sum over rows of bytes: the one along a row is made on a tile of rows that stands transposed, so that
// its lanes too are bytes side by side. A tile is as wide as leaves it in the nearest caches.
constexpr int64_t kTileRows = 64;
constexpr int64_t kTilePixels = 192;  // about as many of the input
constexpr int64_t kWide = 4 * kLanes;  // bytes summed at once, in four registers
constexpr int64_t kBlock = 16;         // of transpose_block
// Samples read and written below which waking other threads takes longer than they save; small pictures come several at a time.
constexpr int64_t kWorthThreads = int64_t{1} << 22;
static_assert(kTileRows % kWide == 0 && kTileRows % kBlock == 0);

// Not zeroed.
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
  for (int64_t y = 0; y < rows; y += kBlock)
    for (int64_t x = 0; x < columns; x += kBlock) {
      const uint8_t* block = from + y * from_stride + x;
      uint8_t* transposed = to + x * to_stride + y;
      if (y + kBlock <= rows && x + kBlock <= columns) {
        transpose_block(block, from_stride, transposed, to_stride);
        continue;
      }
      for (int64_t j = 0; j < std::min(kBlock, columns - x); ++j)
        for (int64_t i = 0; i < std::min(kBlock, rows - y); ++i) transposed[j * to_stride + i] = block[i * from_stride + j];
    }
}

// The columns that a resize along the rows makes at once, and the bytes of its two tiles: before and after.
struct Tiles {
  explicit Tiles(const ImagePatches& work) {
    if (!work.columns) return;
    const Resampling& columns = *work.columns;
    outputs = std::clamp<int64_t>(kTilePixels * columns.outputs / work.width, 16, 512);
    for (int64_t x = 0; x < columns.outputs; x += outputs) {
      const int64_t last = std::min(x + outputs, columns.outputs) - 1;
      before = std::max(before, (columns.starts[last] + columns.taps - columns.starts[x]) * kColors * kTileRows);
    }
    bytes = before + outputs * kColors * kTileRows;
  }
  int64_t outputs = 0, before = 0, bytes = 0;
};

// `rows` <= kTileRows rows of a frame, resized along their length.
void resize_columns(const ImagePatches& work, const Tiles& tiles, const uint8_t* from, int64_t rows, uint8_t* to, uint8_t* scratch) {
  const Resampling& columns = *work.columns;
  uint8_t* sums = scratch + tiles.before;
  for (int64_t first = 0; first < columns.outputs; first += tiles.outputs) {
    const int64_t end = std::min(first + tiles.outputs, columns.outputs), start = columns.starts[first];
    const int64_t span = columns.starts[end - 1] + columns.taps - start;
    transpose(from + start * kColors, work.width * kColors, rows, span * kColors, scratch, kTileRows);
    for (int64_t x = first; x < end; ++x)
      for (int64_t c = 0; c < kColors; ++c)
        weighted_rows(scratch + ((columns.starts[x] - start) * kColors + c) * kTileRows, kColors * kTileRows,
                      columns.weights + x * columns.taps, columns.taps, columns.shift, sums + ((x - first) * kColors + c) * kTileRows,
                      kTileRows);
    transpose(sums, kTileRows, (end - first) * kColors, rows, to + first * kColors, columns.outputs * kColors);
  }
}

// Rows [first, first + count) of a frame that has been resized down its columns, or left as it was; rows of `length` bytes.
void resize_rows(const ImagePatches& work, const uint8_t* from, int64_t length, int64_t first, int64_t count, uint8_t* to) {
  if (!work.rows) {
    std::copy_n(from + first * length, count * length, to);
    return;
  }
  const Resampling& rows = *work.rows;
  for (int64_t y = first; y < first + count; ++y, to += length)
    weighted_rows(from + rows.starts[y] * length, length, rows.weights + y * rows.taps, rows.taps, rows.shift, to, length);
}

// One row of groups: the band's rows of each frame become rows of patches. `band` [distinct, merge * patch, out_width * 3]; the frames
// that are missing are the last of these.
void write_patches(const ImagePatches& work, const uint8_t* band, int64_t distinct, float* out) {
  const int64_t patch = work.patch, merge = work.merge, area = patch * patch, row = work.out_width() * kColors;
  const int64_t channel = work.temporal * area;  // numbers of a patch, of which a frame's are side by side
  const float* table = work.table;
  for (int64_t group = 0; group < work.out_width() / (patch * merge); ++group)
    for (int64_t my = 0; my < merge; ++my)
      for (int64_t mx = 0; mx < merge; ++mx, out += kColors * channel) {
        for (int64_t k = 0; k < distinct; ++k) {
          const uint8_t* from = band + (k * merge + my) * patch * row + (group * merge + mx) * patch * kColors;
          float* to = out + k * area;
          for (int64_t y = 0; y < patch; ++y, from += row, to += patch)
            for (int64_t x = 0; x < patch; ++x) {
              to[x] = table[from[x * kColors]];
              to[channel + x] = table[256 + from[x * kColors + 1]];
              to[2 * channel + x] = table[512 + from[x * kColors + 2]];
            }
        }
        for (int64_t c = 0; c < kColors; ++c)
          for (int64_t k = distinct; k < work.temporal; ++k)
            std::copy_n(out + c * channel + (distinct - 1) * area, area, out + c * channel + k * area);
      }
}

// Calls body(i, scratch) for each i below count, on this thread or all of them, each with a scratch memory of its own.
template <class Body>
void each_item(ThreadPool* pool, int64_t count, int64_t scratch_bytes, Body&& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int, int) {
    const auto scratch = bytes(scratch_bytes);
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i, scratch.get());
  };
  if (pool) pool->parallel(work);
  else work(0, 1);
}

}  // namespace

void image_patches(const ImagePatches& work) {
  const int64_t temporal = work.temporal, count = static_cast<int64_t>(work.frames.size());
  const int64_t wide = work.width * kColors, row = work.out_width() * kColors;
  const int64_t height = work.merge * work.patch, bands = work.out_height() / height;  // of a band, and how many there are
  const int64_t samples = count * work.height * wide + work.out_numel();
  const auto pool = samples < kWorthThreads ? nullptr : default_pool();
  const bool columns_first = work.columns && !work.rows_first, columns_last = work.columns && work.rows_first;
  const Tiles tiles(work);
  const int64_t tile_count = (work.height + kTileRows - 1) / kTileRows;
  const int64_t band_bytes = std::min(temporal, count) * height * row, frame_bytes = work.height * row;

  // The frames of a patch, resized along their rows.
  const auto narrowed = bytes(columns_first ? std::min(temporal, count) * frame_bytes : 0);

  for (int64_t t = 0; t < work.out_frames(); ++t) {
    const int64_t distinct = std::min(temporal, count - t * temporal);
    const uint8_t* const* frames = work.frames.data() + t * temporal;
    if (columns_first) {
      each_item(pool.get(), distinct * tile_count, tiles.bytes, [&](int64_t i, uint8_t* scratch) {
        const int64_t frame = i / tile_count, y = i % tile_count * kTileRows;
        resize_columns(work, tiles, frames[frame] + y * wide, std::min(kTileRows, work.height - y),
                       narrowed.get() + frame * frame_bytes + y * row, scratch);
      });
    }
    each_item(pool.get(), bands, band_bytes + (columns_last ? height * wide + tiles.bytes : 0), [&](int64_t b, uint8_t* scratch) {
      for (int64_t frame = 0; frame < distinct; ++frame) {
        uint8_t* to = scratch + frame * height * row;
        if (!columns_last) {
          resize_rows(work, columns_first ? narrowed.get() + frame * frame_bytes : frames[frame], row, b * height, height, to);
          continue;
        }
        uint8_t *shortened = scratch + band_bytes, *tile = shortened + height * wide;
        resize_rows(work, frames[frame], wide, b * height, height, shortened);
        for (int64_t y = 0; y < height; y += kTileRows)
          resize_columns(work, tiles, shortened + y * wide, std::min(kTileRows, height - y), to + y * row, tile);
      }
      write_patches(work, scratch, distinct, work.out + (t * bands + b) * temporal * height * row);
    });
  }
}

}  // namespace vltune::cpu::VLTUNE_ISA
