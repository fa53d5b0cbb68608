// Root-mean-square norm, with the residual sum in the same pass (Zhang & Sennrich 2019).
//   rms_norm             in: x D[n,d], weight F32|BF16[d], residual D[n,d]?   out: y D[n,d], rstd F32[n], sum D[n,d]?
//                        s = x (+ residual, rounded to D); sum = s; rstd = 1/sqrt(mean(s^2) + eps); y = weight * (s * rstd)
//   rms_norm_backward    in: dy D[n,d], s D[n,d], weight[d], rstd F32[n], dsum D[n,d]?
//                        out: dx D[n,d], dweight F32[d]?
//                        dx = rstd * (g - xhat * mean(g * xhat)) (+ dsum), g = dy * weight, xhat = s * rstd
//                        dweight += sum over t of dy[t] * xhat[t]   (accumulates; F32, rows in ascending t within fixed ranges of rows, then the ranges in order)
//                        dx is the gradient of x and of the residual alike; it may be the same memory as dsum or dy.
// attrs: eps. Arithmetic in F32.
#pragma once
#include "declare.h"

VLTUNE_OP(rms_norm)
VLTUNE_OP(rms_norm_backward)
VLTUNE_OP_WORKSPACE(rms_norm_backward)
