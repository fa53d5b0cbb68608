// Weighted sums of a table's rows, as positions between those of a learned grid are interpolated.
//   embedding_bag            in: ids I32[n,k], weights F32[n,k], table F32|BF16|F16[V,d], x D[n,d]?      out: y D[n,d]   (may be x's memory)
//                            y[t] = (x[t] +) sum over k of weights[t,k] * table[ids[t,k]], in ascending k, in F32, rounded to D once
//   embedding_bag_backward   in: ids I32[n,k], weights F32[n,k], dy D[n,d]                               out: dtable F32[V,d]   (accumulates)
//                            dtable[ids[t,k]] += weights[t,k] * dy[t], summed over t, then k, in ascending order
// D: F32|BF16. An id outside 0..V-1 is ERR_ARGUMENT.
#pragma once
#include "declare.h"

VLTUNE_OP(embedding_bag)
VLTUNE_OP(embedding_bag_backward)
