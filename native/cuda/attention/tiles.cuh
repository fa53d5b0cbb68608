// Which rows a block of threads works on. A grid is sized from the numbers of tokens and sequences alone, as the lengths lie in device
// memory: every block looks for its tile in `bounds`, and there may be a few blocks too many.
#pragma once
#include "../launch.cuh"
#include "../vector.cuh"

namespace vltune::cuda::attn {

// The sequence's rows begin..end of the queries, `keys` keys from row key_begin on, and the tile's first row among the sequence's. With
// causal, query i of the sequence sees the keys 0..i + offset.
struct Tile {
  int begin, end, first, key_begin, keys, offset;
};

// Sequences that are sorted by weight; with more, tiles go in the order of their sequences.
constexpr int kSortedSequences = 128;

// At least one, so that somebody looks at the bounds.
inline int64_t most_tiles(int64_t tokens, int64_t sequences, int rows) { return tokens / rows + (sequences > 0 ? sequences : 1); }

#ifdef __CUDACC__
constexpr unsigned kWarp = 0xffffffffu;

__device__ inline int warp_sum(int value) {
#if __CUDA_ARCH__ >= 800
  return __reduce_add_sync(kWarp, value);
#else
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(kWarp, value, lane);
  return value;
#endif
}

// bounds[s]..bounds[s + 1] where bounds ascend there, from 0 and to tokens; reports it where they do not.
__device__ inline bool bounds_fail(int sequences, int tokens, int s, int begin, int end, Fault* fault) {
  if (s == 0 && begin != 0) {
    report_fault(fault, FaultKind::Bound, 0, begin, tokens);
  } else if (end < begin || (s + 1 == sequences && end != tokens)) {
    report_fault(fault, FaultKind::Bound, s + 1, end, tokens);
  } else {
    return false;
  }
  return true;
}

// Tile number `slot`, for all threads of a warp alike; false if there is none. A tile's weight is the number of tiles before it in its
// sequence (last_is_heavy) or after it: what a causal mask leaves it to do. The heaviest come first.
template <int kRows>
__device__ bool find_tile(const int32_t* bounds, int sequences, int tokens, int slot, bool last_is_heavy, Fault* fault, Tile* tile) {
  const int lane = threadIdx.x % 32;
  int begin = 0, end = 0, number = 0;
  if (sequences <= kSortedSequences) {
    constexpr int kEach = kSortedSequences / 32;
    int start[kEach], length[kEach], count[kEach];
    bool fails = sequences == 0;
    if (fails && lane == 0) report_fault(fault, FaultKind::Bound, 0, 0, tokens);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int s = i * 32 + lane;
      start[i] = s < sequences ? bounds[s] : 0;
      length[i] = s < sequences ? bounds[s + 1] - start[i] : 0;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int s = i * 32 + lane;
      if (s < sequences) fails |= bounds_fail(sequences, tokens, s, start[i], start[i] + length[i], fault);
      count[i] = (length[i] + kRows - 1) / kRows;
    }
    if (__any_sync(kWarp, fails)) return false;
    const auto tiles_from = [&](int weight) {  // tiles of at least this weight, of which 1 is the least
      int sum = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) sum += max(count[i] - weight + 1, 0);
      return warp_sum(sum);
    };
    if (slot >= tiles_from(1)) return false;
    int weight = 1, above = (tokens + kRows - 1) / kRows + 1;  // tiles_from(weight) > slot >= tiles_from(above)
    while (above - weight > 1) {
      const int middle = (weight + above) / 2;
      (tiles_from(middle) > slot ? weight : above) = middle;
    }
    int rank = slot - tiles_from(weight + 1);  // among the sequences that have a tile of this weight
    int tiles = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const unsigned with = __ballot_sync(kWarp, count[i] >= weight);
      const int found = __popc(with);
      if (rank >= 0 && rank < found) {
        const int owner = __fns(with, 0, rank + 1);
        tiles = __shfl_sync(kWarp, count[i], owner);
        begin = __shfl_sync(kWarp, start[i], owner);
        end = begin + __shfl_sync(kWarp, length[i], owner);
      }
      rank -= found;
    }
    number = last_is_heavy ? weight - 1 : tiles - weight;
  } else {
    if (slot == 0) {
      bool fails = false;
      for (int s = lane; s < sequences; s += 32) fails |= bounds_fail(sequences, tokens, s, bounds[s], bounds[s + 1], fault);
      if (__any_sync(kWarp, fails)) return false;
    }
    // Sequence s has the slots from bounds[s] / kRows + s on, which are enough for it.
    int low = 0, high = sequences;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (bounds[middle] / kRows + middle <= slot ? low : high) = middle;
    }
    begin = bounds[low];
    end = bounds[low + 1];
    if (begin < 0 || begin > end || end > tokens) return false;
    number = slot - (begin / kRows + low);
    const int tiles = (end - begin + kRows - 1) / kRows;
    if (number < 0 || number >= tiles) return false;
    if (last_is_heavy) number = tiles - 1 - number;
  }
  *tile = {begin, end, number * kRows, begin, end - begin, 0};
  return true;
}

// The same for `tokens` new queries that stand after `past` rows of a cache; false if the cache is too small for them.
template <int kRows>
__device__ bool find_cached_tile(const int32_t* past, int64_t capacity, int tokens, int slot, Tile* tile) {
  const int before = *past;
  if (before < 0 || before + int64_t{tokens} > capacity) return false;
  const int tiles = (tokens + kRows - 1) / kRows;
  if (slot >= tiles) return false;
  *tile = {0, tokens, (tiles - 1 - slot) * kRows, 0, before + tokens, before};
  return true;
}

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Launches a kernel that calls wait_for_previous.
template <class Args>
void launch_early(void (*kernel)(Args), const Args& args, int64_t blocks, int threads, size_t shared_bytes, cudaStream_t stream) {
  LaunchConfig launch(stream, dim3(static_cast<unsigned>(blocks)), threads, shared_bytes);
  launch.overlapping();
  VLTUNE_CUDA(cudaLaunchKernelEx(&launch.config, kernel, args));
}
#endif

}  // namespace vltune::cuda::attn
