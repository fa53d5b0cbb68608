// The choice of the next token in two launches: scores and the maxima of chunks by the whole device, the choice by one block.
//
// The k-th highest of the chunks' maxima is a bound that at least k scores reach, so only the few chunks whose maximum reaches it are
// looked at again. What reaches it there is sorted in shared memory; where that is more than there is room for (scores that are
// almost all alike), the k-th score is found by bisection first.
#include "../ops/sample.h"

#include "../ops/sample_checks.h"
#include "device.h"
#include "vector.cuh"

namespace vltune::cuda {
namespace {

constexpr int kChunks = kMostCandidates;  // so that a bound by chunk maxima exists for any k
constexpr int kScoreThreads = 256, kChooseThreads = 1024;
constexpr int kRoom = 4096;               // candidates that are sorted

// Sorts as the number does; -0 as 0, NaN as -infinity.
__device__ uint32_t ordered(float x) {
  const uint32_t bits = isnan(x) ? 0xff800000u : __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ float number(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }
// By falling score, then by rising id.
__device__ uint64_t candidate(uint32_t key, int id) { return static_cast<uint64_t>(key) << 32 | (0xffffffffu - static_cast<uint32_t>(id)); }
__device__ int id_of(uint64_t candidate) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(candidate)); }

// keys[i]: the score of token i after the penalty; best[c]: the first candidate of chunk c. One warp a chunk.
template <class D>
__global__ void score_kernel(const D* logits, int vocab, int chunk, const float* sampling, const uint8_t* seen, uint32_t* keys, uint64_t* best) {
  const int c = (blockIdx.x * kScoreThreads + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const float penalty = sampling[3];
  uint64_t most = 0;
  for (int i = c * chunk + lane; i < min((c + 1) * chunk, vocab); i += kWarp) {
    float x = to_float(logits[i]);
    if (penalty != 1.0f && seen[i]) x = x < 0 ? x * penalty : x / penalty;
    const uint32_t key = ordered(x);
    keys[i] = key;
    most = max(most, candidate(key, i));
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, most, offset);
    most = max(most, other);
  }
  if (lane == 0) best[c] = most;
}

// Sorts `count` numbers (a power of two) in shared memory, falling. All threads call it.
__device__ void sort_falling(uint64_t* a, int count) {
  for (int size = 2; size <= count; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < count / 2; i += kChooseThreads) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const uint64_t x = a[low], y = a[high];
        if ((x < y) == ((low & size) == 0)) a[low] = y, a[high] = x;
      }
      __syncthreads();
    }
}

struct Chosen {
  uint8_t* seen;
  int32_t *ids, *positions, *past, *tokens, *count;
};

__device__ void step_to(int token, int t, const Chosen& to) {
  to.seen[token] = 1;
  *to.ids = token;
  for (int axis = 0; axis < 3; ++axis) to.positions[axis] += 1;
  *to.past += 1;
  to.tokens[t] = token;
  *to.count = t + 1;
}

// How many keys of the chunks that reach `bound` are at least `key` themselves. All threads call it and get the sum.
__device__ int count_from(uint32_t key, uint32_t bound, const uint32_t* keys, int vocab, int chunk, const uint64_t* best, int* shared) {
  if (threadIdx.x == 0) *shared = 0;
  __syncthreads();
  int mine = 0;
  for (int c = threadIdx.x / kWarp; c < kChunks; c += kChooseThreads / kWarp) {
    if (static_cast<uint32_t>(best[c] >> 32) < bound) continue;
    for (int i = c * chunk + static_cast<int>(threadIdx.x % kWarp); i < min((c + 1) * chunk, vocab); i += kWarp) mine += keys[i] >= key;
  }
  atomicAdd(shared, mine);  // whole numbers: any order gives the same sum
  __syncthreads();
  const int sum = *shared;
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(kChooseThreads) choose_kernel(const uint32_t* keys, int vocab, int chunk, const uint64_t* best, const float* sampling,
                                                                const float* uniform, int steps, Chosen to) {
  __shared__ uint64_t list[kRoom];
  __shared__ double weights[kMostCandidates];
  __shared__ int found;
  const int t = *to.count, thread = static_cast<int>(threadIdx.x);
  if (t < 0 || t >= steps) return;
  const float temperature = sampling[0], top_p = sampling[2];
  list[thread] = best[thread];
  __syncthreads();
  sort_falling(list, kChunks);
  if (temperature == 0) {
    if (thread == 0) step_to(id_of(list[0]), t, to);
    return;
  }
  const float top_k = sampling[1];
  const int k = min(top_k >= 1 && top_k <= kMostCandidates ? static_cast<int>(top_k) : kMostCandidates, vocab);
  uint32_t bound = static_cast<uint32_t>(list[min(k, min(kChunks, vocab)) - 1] >> 32);  // chunks beyond the vocabulary are 0, and last
  __syncthreads();

  uint32_t from = bound;
  if (count_from(from, bound, keys, vocab, chunk, best, &found) > kRoom) {
    // The largest key that k scores reach; `from` is one that they do.
    uint32_t above = 0xffffffffu;
    while (above - from > 1) {
      const uint32_t middle = from + (above - from) / 2;
      if (count_from(middle, bound, keys, vocab, chunk, best, &found) >= k) from = middle;
      else above = middle;
    }
  }
  // Those above `from` first: they are fewer than there is room for. Then those equal to it, by rising id, one warp alone.
  if (thread == 0) found = 0;
  for (int i = thread; i < kRoom; i += kChooseThreads) list[i] = 0;
  __syncthreads();
  for (int c = thread / kWarp; c < kChunks; c += kChooseThreads / kWarp) {
    if (static_cast<uint32_t>(best[c] >> 32) <= from) continue;
    for (int i = c * chunk + thread % kWarp; i < min((c + 1) * chunk, vocab); i += kWarp)
      if (keys[i] > from) {
        const int at = atomicAdd(&found, 1);  // the order is mended by the sort
        if (at < kRoom) list[at] = candidate(keys[i], i);
      }
  }
  __syncthreads();
  int count = min(found, kRoom);
  if (thread < kWarp) {
    for (int c = 0; c < kChunks && count < kRoom; ++c) {
      if (static_cast<uint32_t>(best[c] >> 32) < from) continue;
      for (int first = c * chunk; first < min((c + 1) * chunk, vocab) && count < kRoom; first += kWarp) {
        const int i = first + thread;
        const bool equal = i < min((c + 1) * chunk, vocab) && keys[i] == from;
        const unsigned mask = __ballot_sync(kAllLanes, equal);
        const int at = count + __popc(mask & ((1u << thread) - 1));
        if (equal && at < kRoom) list[at] = candidate(from, i);
        count = min(count + __popc(mask), kRoom);
      }
    }
    if (thread == 0) found = count;
  }
  __syncthreads();
  count = found;
  int size = 1;
  while (size < count) size *= 2;
  sort_falling(list, size);

  int kept = min(k, count);
  while (kept < min(count, kMostCandidates) && list[kept] >> 32 == list[kept - 1] >> 32) ++kept;
  const double highest = static_cast<double>(number(static_cast<uint32_t>(list[0] >> 32)));
  if (thread < kept)
    weights[thread] = exp((static_cast<double>(number(static_cast<uint32_t>(list[thread] >> 32))) - highest) / static_cast<double>(temperature));
  __syncthreads();
  if (thread != 0) return;
  double total = 0, mass = 0;
  for (int i = 0; i < kept; ++i) total += weights[i];
  int nucleus = 0;
  while (nucleus < kept && (nucleus == 0 || mass < static_cast<double>(top_p) * total)) mass += weights[nucleus++];
  double target = static_cast<double>(uniform[t]) * mass;
  int chosen = nucleus - 1;
  for (int i = 0; i < nucleus; ++i) {
    target -= weights[i];
    if (target < 0) {
      chosen = i;
      break;
    }
  }
  step_to(id_of(list[chosen]), t, to);
}

size_t best_bytes() { return sizeof(uint64_t) * kChunks; }

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------------------

size_t sample_workspace(const OpCall& call) { return best_bytes() + sizeof(uint32_t) * static_cast<size_t>(input(call, 0).numel()); }

void sample(const OpCall& call) {
  const Tensor &logits = input(call, 0), &sampling = input(call, 1), &uniform = input(call, 2);
  check_sample(call);
  const int64_t vocab = logits.dim(1), steps = uniform.dim(0);
  auto* best = static_cast<uint64_t*>(call.workspace);
  auto* keys = reinterpret_cast<uint32_t*>(static_cast<std::byte*>(call.workspace) + best_bytes());
  const int chunk = static_cast<int>(ceil_div(vocab, kChunks));
  const auto* settings = sampling.as<float>();
  auto* seen = output(call, 0).as<uint8_t>();
  with_activation(logits.dtype, [&](auto tag) {
    using D = decltype(tag);
    score_kernel<D><<<kChunks * kWarp / kScoreThreads, kScoreThreads, 0, stream_of(call)>>>(logits.as<D>(), static_cast<int>(vocab), chunk, settings,
                                                                                            seen, keys, best);
  });
  check_launch(call);
  const Chosen to = {seen,
                     output(call, 1).as<int32_t>(),
                     output(call, 2).as<int32_t>(),
                     output(call, 3).as<int32_t>(),
                     output(call, 4).as<int32_t>(),
                     output(call, 5).as<int32_t>()};
  choose_kernel<<<1, kChooseThreads, 0, stream_of(call)>>>(keys, static_cast<int>(vocab), chunk, best, settings, uniform.as<float>(),
                                                           static_cast<int>(steps), to);
  check_launch(call);
}

}  // namespace vltune::cuda
