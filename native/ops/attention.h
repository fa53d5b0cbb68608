// Attention over packed sequences: grouped heads, causal or full, never a T x T buffer (Dao 2023).
//   attention            in: q D[n,Hq*h], k D[n,Hk*h], v D[n,Hk*h], bounds I32[S+1]    out: o D[n,Hq*h], lse F32[Hq,n]
//                        sequence s holds the rows bounds[s]..bounds[s+1]; bounds[0] = 0, ascending, bounds[S] = n
//                        o = softmax(scale * q k^T) v within a sequence; lse is the natural log of the row's sum of exponentials
//   attention_backward   in: do D[n,Hq*h], q, k, v, o, lse, bounds                      out: dq, dk, dv (shapes of q, k, v)
//   attention_cached     in: q D[n,Hq*h], k D[n,Hk*h], v D[n,Hk*h], past I32[1]         out: o D[n,Hq*h], k_cache D[C,Hk*h], v_cache D[C,Hk*h]
//                        writes k and v to the cache's rows past..past+n, then each row t sees the cache's rows 0..past+t.
//                        past + n > C is ERR_ARGUMENT. Forward only.
// attrs: heads (Hq), kv_heads (Hk), head_dim (h, 1 to 256), scale (positive), causal. Softmax and sums in F32; dk and dv sum over the group's heads.
#pragma once
#include "declare.h"

namespace vltune {
constexpr int kMaxHeadDim = 256;
}

VLTUNE_OP(attention)
VLTUNE_OP_WORKSPACE(attention)
VLTUNE_OP(attention_backward)
VLTUNE_OP_WORKSPACE(attention_backward)
VLTUNE_OP(attention_cached)
VLTUNE_OP_WORKSPACE(attention_cached)
