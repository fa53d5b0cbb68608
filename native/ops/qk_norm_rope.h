// Rotary tables, and the norm of each head followed by the rotation, for queries and keys alike.
//   rope_table           in: positions I32[3,n] (temporal, height, width)      out: cos F32[n,h/2], sin F32[n,h/2]
//                        inv_freq[j] = theta^(-2j/h); angle[t,j] = positions[axis(j), t] * inv_freq[j]   (F32, as transformers)
//                        attrs: theta, section_t, section_h, section_w (they sum to h/2), interleaved, axial
//                        interleaved (Qwen3-VL): axis(j) = 1 if j % 3 == 1 and j < 3*section_h; 2 if j % 3 == 2 and
//                        j < 3*section_w; else 0. Otherwise (Qwen2-VL): the first section_t j's are axis 0, and so on.
//                        axial (the vision towers), not interleaved: each axis has all frequencies, the i'th of its section of
//                        s being inv_freq = theta^(-i/s).
//   qk_norm_rope         in: x D[n,H*h], weight F32|BF16[h]?, cos F32[n,h/2], sin F32[n,h/2]
//                        out: y D[n,H*h], rstd F32[n,H]?   (rstd if and only if weight is there)
//                        per head: z = weight * x * rstd (or x); y[j] = z[j]*cos[j] - z[j+h/2]*sin[j];
//                        y[j+h/2] = z[j+h/2]*cos[j] + z[j]*sin[j]   (rotate_half)
//   qk_norm_rope_backward  in: dy D[n,H*h], x D[n,H*h], weight[h]?, rstd F32[n,H]?, cos, sin
//                        out: dx D[n,H*h] (may be dy's memory), dweight F32[h]? (accumulates; in a fixed order within fixed ranges of rows, then the ranges in order)
// attrs: head_dim, eps. Arithmetic in F32.
#pragma once
#include "declare.h"

VLTUNE_OP(rope_table)
VLTUNE_OP(qk_norm_rope)
VLTUNE_OP(qk_norm_rope_backward)
VLTUNE_OP_WORKSPACE(qk_norm_rope_backward)
