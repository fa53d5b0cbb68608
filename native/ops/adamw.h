// The optimizer: norm and clip of the flat gradient, then AdamW over all tensors in one call (Loshchilov & Hutter 2019; Dettmers 2022).
//   grad_norm            in: grads F32[N], scale F32[1]?        out: norm F32[1], clip F32[1]
//                        norm = sqrt(sum of squares) / scale, F64 partial sums over fixed ranges added in order; scale is what the loss
//                        was multiplied by before its gradient was taken, 1 where absent
//                        clip = (max_grad_norm > 0 ? min(1, max_grad_norm / (norm + 1e-6)) : 1) / scale, what grads are to be multiplied
//                        by; 0 where norm is no finite number       attrs: max_grad_norm
//   adamw                in: grads F32[N], clip F32[1], hyper F32[8] = {lr, beta1, beta2, eps, weight_decay, step t (from 1), 0, 0},
//                            segments I32[K,6] = {offset/256, numel, state offset/256, is_8bit, decays, 0}
//                        out: params F32[N], m8 U8[S8], v8 U8[S8], m8_absmax F32[S8/256], v8_absmax F32[S8/256], m32 F32[S32], v32 F32[S32]
//                        a segment is one tensor; its offset in params and grads, and in its state arrays (m8, v8 if is_8bit,
//                        else m32, v32), is a multiple of 256 elements. g = grads * clip. Where clip is 0, of a gradient that is not finite,
//                        nothing is changed.
//                        attrs: variant 0 = bitsandbytes' CUDA formula (p += -lr*c2/c1 * m/(sqrt(v) + c2*eps), then decay),
//                               variant 1 = torch.optim.AdamW (decay first; p -= lr/c1 * m/(sqrt(v)/c2 + eps)).
//                        8-bit state only with variant 0; a state array that no segment uses may be absent. Arithmetic in F32, in the
//                        order of the reference and with its fused products; c1 and c2 in F64, of betas as written in decimal.
// Segments without the `decays` flag use weight decay 0. A NaN or Inf gradient element in 8-bit state zeroes its state and leaves p alone.
#pragma once
#include "declare.h"

VLTUNE_OP(grad_norm)
VLTUNE_OP_WORKSPACE(grad_norm)
VLTUNE_OP(adamw)
