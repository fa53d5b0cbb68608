// Linear layer with an optional LoRA adapter, one op (Hu 2021, Dettmers 2023).
//   linear               in: x D[n,i], weight F32|BF16|F16|NF4[o,i], bias F32|BF16[o]? (on CUDA F16 too),
//                        lora_a F32[r,i]?, lora_b F32[o,r]?, rng I32[2]?
//                        out: y D[n,o], u F32[n,r]?   (u if and only if lora_a is there)
//                        u = scale * drop(x) A^T;   y = x W^T (+ bias) (+ u B^T), rounded to D once
//   linear_backward      in: dy D[n,o], x D[n,i]?, weight, lora_a?, lora_b?, u F32[n,r]?, rng?
//                        out: dx D[n,i]?, dweight F32[o,i]?, dbias F32[o]?, da F32[r,i]?, db F32[o,r]?
//                        v = scale * dy B;  dx (+)= dy W + drop'(v A);  dweight += dy^T x;  dbias += sum dy;
//                        da += v^T drop(x);  db += dy^T u.   All but dx accumulate; dx accumulates if attr accumulate is set.
//                        x is needed for dweight and da, u for db.
// attrs: scale, dropout (probability p), site (a number of this layer, for the dropout mask), accumulate.
// Dropout: drop(x)[t,j] = keep(t,j) ? x/(1-p) : 0, with keep from Philox4x32-10, key = (rng[0], rng[1]), counter = (t, j/4, site, 0),
// word j % 4; keep if word >= p * 2^32. No mask is stored; the backward makes it again. p = 0 or no rng: no dropout.
// D F32: products in F32. D of 16 bits: factors rounded to D (A, B, U, V and F32 weights too), accumulated in F32.
// An element's sum does not depend on the number of threads.
#pragma once
#include "declare.h"

VLTUNE_OP(linear)
VLTUNE_OP_WORKSPACE(linear)
VLTUNE_OP(linear_backward)
VLTUNE_OP_WORKSPACE(linear_backward)
