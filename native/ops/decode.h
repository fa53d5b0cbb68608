// Ops of a program that reads one token: what lies between two reads of the residual stream, in few launches. They compute what the
// ops that they are made of compute one after the other, with the same values rounded to D; the sums within may be taken in another order.
//   linears_one          in: x D[1,d], residual D[1,d]?, norm_weight F32|BF16[d]?, then for each of one to three layers
//                        weight F32|BF16|F16|NF4[o,d], bias F32|BF16[o]? (on CUDA F16 too), lora_a F32[r,d]?, lora_b F32[o,r]?
//                        out: sum D[1,d]? (if and only if there is a residual), then D[1,o] of each layer
//                        z = rms_norm(x, norm_weight, residual -> sum), or x without norm_weight; y_i = linear(z, layer i)
//                        with swiglu: two layers of one width, and one output, swiglu(y_0, y_1)
//   attention_one        in: q D[1,Hq*h], k D[1,Hk*h], v D[1,Hk*h], q_norm F32|BF16[h]?, k_norm F32|BF16[h]?, cos F32[1,h/2],
//                        sin F32[1,h/2], past I32[1]    out: o D[1,Hq*h], k_cache D[C,Hk*h], v_cache D[C,Hk*h]
//                        attention_cached of qk_norm_rope(q, q_norm), qk_norm_rope(k, k_norm) and v
//   layers_one           in: x D[1,d], residual D[1,d]?, cos F32[1,h/2], sin F32[1,h/2], past I32[1], then for each decoder layer
//                        input_norm F32|BF16[d], q, k and v (each weight, bias?, lora_a?, lora_b?, as above), q_norm F32|BF16[h]?,
//                        k_norm F32|BF16[h]?, o (weight..), post_norm F32|BF16[d], gate, up and down (weight..)
//                        out: y D[1,d], sum D[1,d], then for each layer k_cache D[C,Hk*h], v_cache D[C,Hk*h]
//                        a layer: q, k, v = linears_one(x, residual -> a, input_norm), or with x itself as a where there is no residual;
//                        c = linears_one(attention_one(q, k, v), o); g = linears_one(c, a -> sum, post_norm, gate, up, swiglu);
//                        y = linears_one(g, down). The next layer's x and residual are y and sum.
// attrs: eps, scale (of the adapters), swiglu; heads, kv_heads, head_dim, scale, causal, eps; of layers_one: layers, eps, heads,
// kv_heads, head_dim, scale, causal, lora_scale.
#pragma once
#include "declare.h"

VLTUNE_OP(linears_one)
VLTUNE_OP_WORKSPACE(linears_one)
VLTUNE_OP(attention_one)
VLTUNE_OP_WORKSPACE(attention_one)
VLTUNE_OP(layers_one)
VLTUNE_OP_WORKSPACE(layers_one)
