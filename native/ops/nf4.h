// NF4 as bitsandbytes stores it (Dettmers 2023): the same bytes.
//   nf4_quantize         in: x F32|BF16|F16[...]                out: codes U8[ceil(numel/2)], absmax F32[ceil(numel/64)]
//   nf4_quantize_absmax  in: absmax F32[b]                      out: absmax_u8 U8[b], nested_absmax F32[ceil(b/256)], offset F32[1]
//                        offset = mean(absmax), summed as torch's CPU mean does on one thread (the same bits);
//                        codes in the signed dynamic map, each device as bitsandbytes finds them there: the CPU through a table
//                        of 65,536 steps, CUDA by a search for the nearest; they differ by one code for some 0.2 % of values
//   nf4_dequantize       in: x NF4[...]                         out: y F32|BF16[...]
//   dynamic_map          out: signed F32[256], unsigned F32[256]
// An all-zero block gets code 7 throughout (bitsandbytes' CPU op).
#pragma once
#include "declare.h"

VLTUNE_OP(nf4_quantize)
VLTUNE_OP(nf4_quantize_absmax)
VLTUNE_OP(nf4_dequantize)
VLTUNE_OP(dynamic_map)
