// Queries, keys and values out of one product, the first two rotated on the way (`rope_table` makes cos and sin).
//   qkv_rope             in: qkv D[n,3*H*h], cos F32[n,h/2], sin F32[n,h/2]        out: q D[n,H*h], k D[n,H*h], v D[n,H*h]
//                        a row of qkv holds all of q, then all of k, then all of v; per head of q and k (rotate_half):
//                        q[j] = x[j]*cos[j] - x[j+h/2]*sin[j];  q[j+h/2] = x[j+h/2]*cos[j] + x[j]*sin[j]
//   qkv_rope_backward    in: dq D[n,H*h], dk D[n,H*h], dv D[n,H*h], cos, sin       out: dqkv D[n,3*H*h]
// attrs: head_dim (h). Arithmetic in F32.
#pragma once
#include "declare.h"

VLTUNE_OP(qkv_rope)
VLTUNE_OP(qkv_rope_backward)
