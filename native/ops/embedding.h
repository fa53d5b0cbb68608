// Token embedding.
//   embedding            in: ids I32[n], weight F32|BF16|F16[V,d]      out: y D[n,d]
//                        y[t] = weight[ids[t]]
//   embedding_backward   in: ids I32[n], dy D[n,d]                      out: dweight F32[V,d]   (accumulates)
//                        dweight[ids[t]] += dy[t], summed over t in ascending order
// An id outside 0..V-1 is ERR_ARGUMENT.
#pragma once
#include "declare.h"

VLTUNE_OP(embedding)
VLTUNE_OP(embedding_backward)
