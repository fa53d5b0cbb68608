// What the attention ops have in common on the host: their shape, and the ways there are to compute them. What bounds and past hold is
// looked at in the kernels.
#pragma once
#include "../../ops/attention_checks.h"
#include "../device.h"

namespace vltune::cuda::attn {

struct Shape : AttentionShape {
  int64_t group() const { return heads / kv_heads; }
  int64_t q_stride() const { return heads * head_dim; }
  int64_t kv_stride() const { return kv_heads * head_dim; }
};

// A forward pass: over packed sequences if `bounds` is there, else of new tokens over a cache.
struct Forward {
  Shape shape;
  const void *q, *k, *v;
  void* o;
  float* lse;                // nullptr: not wanted
  const int32_t* bounds;     // [sequences + 1]
  int64_t sequences;
  const int32_t* past;       // the cache's rows before the new tokens
  int64_t capacity;          // of the cache
};

struct Backward {
  Shape shape;
  const void *d_o, *q, *k, *v, *o;
  const float* lse;
  const int32_t* bounds;
  int64_t sequences;
  void *dq, *dk, *dv;
  float* delta;              // [heads][tokens], scratch: the sums over a row of dO * O
};

// Any device, dtype and head_dim, in F32 (plain.cu).
void forward_plain(const OpCall& call, const Forward& pass);
void backward_plain(const OpCall& call, const Backward& pass);

// Matrix units, BF16 from sm_80 and F16 from sm_75 (forward_mma.cu, backward_mma.cu): false if they do not take this shape.
bool forward_mma(const OpCall& call, const Forward& pass);
bool backward_mma(const OpCall& call, const Backward& pass);

// delta of a backward pass, by every way alike (delta.cu).
void row_sums(const OpCall& call, const Backward& pass);

// attention_cached: rows past..past+n of the caches become k and v, unless the cache is full (decode.cu).
struct Cached {
  Shape shape;
  const void *q, *k, *v;
  const int32_t* past;
  void *o, *k_cache, *v_cache;
  int64_t capacity;
};
void append_to_cache(const OpCall& call, const Cached& pass);
// A few new tokens against a long cache: bound by reading it, so the cache is split among blocks.
constexpr int64_t kDecodeTokens = 16;
size_t decode_workspace(const Shape& shape, int64_t capacity);
void decode(const OpCall& call, const Cached& pass);

}  // namespace vltune::cuda::attn
