// Rows put into a matrix at places of their own: features of pictures among the embeddings of text.
//   scatter_rows         in: x D[n,d], rows I32[m], values D[m,d]?      out: y D[n,d]   (may be x's memory)
//                        y = x, but for y[rows[i]] = values[i], or x[rows[i]] + values[i] if attr accumulate is set; without values 0
// rows ascend, each at most once: one that does not, or lies outside 0..n-1, is ERR_ARGUMENT.
// attrs: accumulate (needs values).
#pragma once
#include "declare.h"

VLTUNE_OP(scatter_rows)
