// Attention on the CPU: the ops of native/ops/attention.h. Here are the checks and the division of work; the arithmetic
// of a block is in attention/forward.h and attention/backward.h, and of a few queries against a long cache in
// attention/decode.h.
//
// Every task writes memory of its own and sums in a fixed order, so the result does not depend on the number of
// threads.
#include "../ops/attention.h"

#include <atomic>
#include <cstring>

#include "attention/backward.h"
#include "attention/decode.h"
#include "attention/forward.h"
#include "attention/shape.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

using namespace attn;

constexpr size_t kAlign = 64;
constexpr size_t round_up(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Calls body(task, thread) for every task, handed out in order to whichever thread is free.
template <class Body>
void for_each_task(ThreadPool* pool, int64_t tasks, Body&& body) {
  std::atomic<int64_t> next{0};
  pool->parallel([&](int thread, int) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(task, thread);
  });
}

// ---- attention ------------------------------------------------------------------------------------------------------

struct Block {
  int32_t begin, end, first;  // the sequence's rows, and the block's first query among them
};

int64_t most_blocks(int64_t tokens, int64_t sequences) { return tokens / kQueries + sequences; }

template <class D>
void attention_of(const OpCall& call, const Shape& s, int64_t sequences) {
  auto* blocks = static_cast<Block*>(call.workspace);
  auto* scratch = reinterpret_cast<ForwardScratch*>(
      static_cast<char*>(call.workspace) +
      round_up(sizeof(Block) * static_cast<size_t>(most_blocks(s.tokens, sequences))));
  const int32_t* bounds = call.in[3].as<int32_t>();
  int64_t count = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    // With causal the last block has the most keys to see: it goes first.
    const int32_t length = bounds[i + 1] - bounds[i];
    for (int32_t first = (length - 1) / kQueries * kQueries; first >= 0 && length > 0; first -= kQueries)
      blocks[count++] = {bounds[i], bounds[i + 1], first};
  }
  for_each_task(call.pool, count * s.heads, [&](int64_t task, int thread) {
    const Block block = blocks[task / s.heads];
    const int64_t head = task % s.heads, row = block.begin + block.first, keys = block.end - block.begin;
    const int queries = static_cast<int>(std::min<int64_t>(kQueries, keys - block.first));
    const int64_t at = row * s.q_stride() + head * s.head_dim;
    const int64_t kv_at = block.begin * s.kv_stride() + head / s.group() * s.head_dim;
    forward_block<D>(queries, s.head_dim, s.scale, s.causal, block.first, keys, call.in[0].as<D>() + at, s.q_stride(),
                     call.in[1].as<D>() + kv_at, call.in[2].as<D>() + kv_at, s.kv_stride(), call.out[0].as<D>() + at,
                     call.out[1].as<float>() + head * s.tokens + row, scratch[thread]);
  });
}

// ---- attention_backward ---------------------------------------------------------------------------------------------

// Where a task sums dK and dV, F32 [tokens][width] each. One place a thread, which stays in its cache from one short
// sequence to the next; or one a key/value head, if there are fewer of these.
struct Sums {
  Sums(const Shape& s, int threads) : width(padded(s.head_dim)), by_thread(threads <= s.kv_heads) {
    places = by_thread ? threads : s.kv_heads;
    size = s.tokens * width;
  }
  size_t bytes() const { return round_up(2 * sizeof(float) * static_cast<size_t>(places * size)); }
  float* dk(float* base, int thread, int64_t kv_head, int64_t row) const {
    return base + (by_thread ? 2 * thread * size : 2 * kv_head * size + row * width);
  }
  float* dv(float* base, int thread, int64_t kv_head, int64_t row) const {
    return dk(base, thread, kv_head, row) + size;
  }

  int64_t width, places, size;
  bool by_thread;
};

template <class D>
void attention_backward_of(const OpCall& call, const Shape& s, int64_t sequences) {
  const int h = s.head_dim;
  const Sums sums(s, call.pool->size());
  auto* base = static_cast<float*>(call.workspace);
  auto* scratch = reinterpret_cast<BackwardScratch*>(static_cast<char*>(call.workspace) + sums.bytes());
  const int32_t* bounds = call.in[6].as<int32_t>();
  for_each_task(call.pool, sequences * s.kv_heads, [&](int64_t task, int thread) {
    const int64_t sequence = task / s.kv_heads, kv_head = task % s.kv_heads;
    const int64_t begin = bounds[sequence], keys = bounds[sequence + 1] - begin;
    if (keys == 0) return;
    float* dk = sums.dk(base, thread, kv_head, begin);
    float* dv = sums.dv(base, thread, kv_head, begin);
    std::memset(dk, 0, sizeof(float) * static_cast<size_t>(keys * sums.width));
    std::memset(dv, 0, sizeof(float) * static_cast<size_t>(keys * sums.width));
    const int64_t kv_at = begin * s.kv_stride() + kv_head * h;
    for (int64_t head = kv_head * s.group(); head < (kv_head + 1) * s.group(); ++head) {
      for (int64_t first = 0; first < keys; first += kQueries) {
        const int queries = static_cast<int>(std::min<int64_t>(kQueries, keys - first));
        const int64_t at = (begin + first) * s.q_stride() + head * h;
        backward_block<D>(queries, h, s.scale, s.causal, first, keys, call.in[1].as<D>() + at, call.in[4].as<D>() + at,
                          call.in[0].as<D>() + at, call.in[5].as<float>() + head * s.tokens + begin + first,
                          s.q_stride(), call.in[2].as<D>() + kv_at, call.in[3].as<D>() + kv_at, s.kv_stride(),
                          call.out[0].as<D>() + at, dk, dv, sums.width, scratch[thread]);
      }
    }
    const int rows = static_cast<int>(keys);
    store_rows(rows, h, dk, sums.width, call.out[1].as<D>() + kv_at, s.kv_stride());
    store_rows(rows, h, dv, sums.width, call.out[2].as<D>() + kv_at, s.kv_stride());
  });
}

// ---- attention_cached -----------------------------------------------------------------------------------------------

bool few_queries(const Shape& s) { return s.tokens * s.group() <= kDecodeRows; }

template <class D>
void attention_cached_of(const OpCall& call, const Shape& s, int64_t past) {
  const int h = s.head_dim;
  const int64_t stride = s.kv_stride(), keys = past + s.tokens;
  D* k_cache = call.out[1].as<D>();
  D* v_cache = call.out[2].as<D>();
  std::memcpy(k_cache + past * stride, call.in[1].data, sizeof(D) * static_cast<size_t>(s.tokens * stride));
  std::memcpy(v_cache + past * stride, call.in[2].data, sizeof(D) * static_cast<size_t>(s.tokens * stride));
  const D* q = call.in[0].as<D>();
  D* o = call.out[0].as<D>();

  if (!few_queries(s)) {
    auto* scratch = static_cast<ForwardScratch*>(call.workspace);
    const int64_t blocks = (s.tokens + kQueries - 1) / kQueries;
    for_each_task(call.pool, blocks * s.heads, [&](int64_t task, int thread) {
      const int64_t first = (blocks - 1 - task / s.heads) * kQueries, head = task % s.heads;
      const int queries = static_cast<int>(std::min<int64_t>(kQueries, s.tokens - first));
      const int64_t at = first * s.q_stride() + head * h, kv_at = head / s.group() * h;
      forward_block<D>(queries, h, s.scale, true, past + first, keys, q + at, s.q_stride(), k_cache + kv_at,
                       v_cache + kv_at, stride, o + at, nullptr, scratch[thread]);
    });
    return;
  }

  // Row r of a key/value head's group is query r / group with head r % group of it.
  const int group = static_cast<int>(s.group()), rows = static_cast<int>(s.tokens) * group;
  const int64_t stretches = (keys + kStretch - 1) / kStretch, apart = s.kv_heads * rows;
  auto* partials = static_cast<Partial*>(call.workspace);  // [stretches][kv_heads][rows]
  for_each_task(call.pool, stretches * s.kv_heads, [&](int64_t task, int) {
    const int64_t stretch = task / s.kv_heads, kv_head = task % s.kv_heads, begin = stretch * kStretch;
    const int count = static_cast<int>(std::min<int64_t>(kStretch, keys - begin));
    alignas(64) float scaled[kDecodeRows * kMaxHeadDim];
    int seen[kDecodeRows];
    for (int r = 0; r < rows; ++r) {
      float* row = scaled + r * kMaxHeadDim;
      copy_rows(1, h, q + r / group * s.q_stride() + (kv_head * group + r % group) * h, 0, row, 0);
      for (int d = 0; d < h; d += kLanes) store(row + d, load(row + d) * broadcast(s.scale));
      seen[r] = static_cast<int>(std::clamp<int64_t>(past + r / group + 1 - begin, 0, count));
    }
    const int64_t at = begin * stride + kv_head * h;
    decode_stretch(rows, h, scaled, count, seen, k_cache + at, v_cache + at, stride, partials + task * rows);
  });
  for (int64_t kv_head = 0; kv_head < s.kv_heads; ++kv_head)
    for (int r = 0; r < rows; ++r)
      decode_combine(static_cast<int>(stretches), h, partials + kv_head * rows + r, apart,
                     o + r / group * s.q_stride() + (kv_head * group + r % group) * h);
}

}  // namespace

size_t attention_workspace(const OpCall& call) {
  const Shape s{attention_shape(call, input(call, 0))};
  const int64_t sequences = std::max<int64_t>(input(call, 3).shape[0] - 1, 0);
  return round_up(sizeof(Block) * static_cast<size_t>(most_blocks(s.tokens, sequences))) +
         sizeof(ForwardScratch) * static_cast<size_t>(call.pool->size());
}

void attention(const OpCall& call) {
  const Shape s{check_attention(call)};
  const int64_t sequences = read_bounds(call, input(call, 3), s.tokens);
  if (s.tokens == 0) return;
  if (s.dtype == DType::F32)
    attention_of<float>(call, s, sequences);
  else
    attention_of<Bf16>(call, s, sequences);
}

size_t attention_backward_workspace(const OpCall& call) {
  const Shape s{attention_shape(call, input(call, 1))};
  return Sums(s, call.pool->size()).bytes() + sizeof(BackwardScratch) * static_cast<size_t>(call.pool->size());
}

void attention_backward(const OpCall& call) {
  const Shape s{check_attention_backward(call)};
  const int64_t sequences = read_bounds(call, input(call, 6), s.tokens);
  if (s.tokens == 0) return;
  if (s.dtype == DType::F32)
    attention_backward_of<float>(call, s, sequences);
  else
    attention_backward_of<Bf16>(call, s, sequences);
}

size_t attention_cached_workspace(const OpCall& call) {
  // Enough for either way and any number of tokens up to this one: a program asks once, for its longest run.
  const Shape s{attention_shape(call, input(call, 0))};
  check_keys(call, output(call, 1), "k_cache", s, kAny);
  const int64_t stretches = (output(call, 1).shape[0] + kStretch - 1) / kStretch;
  const int64_t rows = std::min<int64_t>(s.tokens * s.group(), kDecodeRows);
  return std::max(sizeof(Partial) * static_cast<size_t>(stretches * s.kv_heads * rows),
                  few_queries(s) ? 0 : sizeof(ForwardScratch) * static_cast<size_t>(call.pool->size()));
}

void attention_cached(const OpCall& call) {
  const Shape s{check_attention_cached(call)};
  const int64_t capacity = output(call, 1).shape[0];
  const int32_t past = *input(call, 3).as<int32_t>();
  VLTUNE_CHECK(past >= 0 && past + s.tokens <= capacity, "ERR_ARGUMENT",
               "%s: past is %d, expected 0 to %lld (a cache of %lld rows less %lld new ones)", call.op, past,
               static_cast<long long>(capacity - s.tokens), static_cast<long long>(capacity),
               static_cast<long long>(s.tokens));
  if (s.tokens == 0) return;
  if (s.dtype == DType::F32)
    attention_cached_of<float>(call, s, past);
  else
    attention_cached_of<Bf16>(call, s, past);
}

}  // namespace vltune::cpu::VLTUNE_ISA
