// GELU (Hendrycks & Gimpel 2016): y = x * Phi(x), with Phi the normal distribution's function, or its approximation by tanh.
//   gelu                 in: x D[n,f]                          out: y D[n,f]   (may be x's memory)
//   gelu_backward        in: dy D[n,f], x D[n,f]               out: dx D[n,f]   (may be dy's or x's memory)
// attrs: tanh. Not set: Phi(x) = (1 + erf(x / sqrt 2)) / 2. Set: Phi(x) = (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
// (transformers' gelu_pytorch_tanh). Arithmetic in F32.
#pragma once
#include "declare.h"

VLTUNE_OP(gelu)
VLTUNE_OP(gelu_backward)
