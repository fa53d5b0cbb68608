// Small movers of data.
//   add                  in: a D[...], b D[...]                 out: y D[...]   (may be a's or b's memory)
//   cast                 in: x F32|BF16|F16|NF4[...]            out: y D[...] of as many elements (round to nearest even)
//   fill                 out: y F32[...] = attr value
//   select_rows          in: x D[n,d], rows I32[m]              out: y D[m,d]
//   copy                 in: x U8[n]                            out: y U8[n]    the bandwidth baseline of `vltune bench`
#pragma once
#include "declare.h"

VLTUNE_OP(add)
VLTUNE_OP(cast)
VLTUNE_OP(fill)
VLTUNE_OP(select_rows)
VLTUNE_OP(copy)
