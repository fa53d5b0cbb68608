// SwiGLU: y = silu(gate) * up (Shazeer 2020).
//   swiglu               in: gate D[n,f], up D[n,f]                 out: y D[n,f]
//   swiglu_backward      in: dy D[n,f], gate D[n,f], up D[n,f]      out: dgate D[n,f], dup D[n,f]   (may be gate's and up's memory)
#pragma once
#include "declare.h"

VLTUNE_OP(swiglu)
VLTUNE_OP(swiglu_backward)
