// Layer norm, with the residual sum in the same pass (Ba 2016).
//   layer_norm           in: x D[n,d], weight W[d], bias W[d], residual D[n,d]?     out: y D[n,d], stats F32[n,2], sum D[n,d]?
//                        W: F32|BF16, one for both
//                        s = x (+ residual, rounded to D); sum = s; stats[t] = (mean(s), 1/sqrt(mean((s - mean)^2) + eps))
//                        y = weight * (s - mean) * rstd + bias
//   layer_norm_backward  in: dy D[n,d], s D[n,d], weight W[d], stats F32[n,2], dsum D[n,d]?
//                        out: dx D[n,d], dweight F32[d]?, dbias F32[d]?
//                        dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) (+ dsum), g = dy * weight, xhat = (s - mean) * rstd
//                        dweight += sum over t of dy[t] * xhat[t];  dbias += sum over t of dy[t]
//                        (both accumulate; F32, rows in ascending t within fixed ranges of rows, then the ranges in order)
//                        dx is the gradient of x and of the residual alike; it may be the same memory as dsum or dy.
// attrs: eps. Arithmetic in F32.
#pragma once
#include "declare.h"

VLTUNE_OP(layer_norm)
VLTUNE_OP(layer_norm_backward)
VLTUNE_OP_WORKSPACE(layer_norm_backward)
