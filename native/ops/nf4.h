// NF4 as bitsandbytes stores it (Dettmers 2023): the same bytes.
//   nf4_quantize         in: x F32|BF16|F16[...]                out: codes U8[ceil(numel/2)], absmax F32[ceil(numel/64)]
//   nf4_quantize_absmax  in: absmax F32[b]                      out: absmax_u8 U8[b], nested_absmax F32[ceil(b/256)], offset F32[1]
//                        offset = mean(absmax); codes of absmax - offset in the signed dynamic map
//   nf4_dequantize       in: x NF4[...]                         out: y D[...]
//   dynamic_map          out: signed F32[256], unsigned F32[256]
// Where bitsandbytes' two devices differ, ours differ as they do:
//   scale       the CPU multiplies by 1 / absmax, CUDA by the hardware's approximate reciprocal, taking subnormals for zeros
//   thresholds  the CPU's are the F32 midpoints of codes, CUDA's are the literals of dQuantizeNF4: some one code in a million differs
//   zeros       an all-zero block gets code 7 throughout on the CPU and code 0 on CUDA, where 0 * inf is NaN; both are read as zeros
//   mean        summed as torch does it, on one CPU thread or on this GPU (the order follows its number of multiprocessors)
//   map         the CPU finds codes through a table of 65,536 steps, CUDA by a search for the nearest: some 0.2 % differ by one
#pragma once
#include "declare.h"

VLTUNE_OP(nf4_quantize)
VLTUNE_OP(nf4_quantize_absmax)
VLTUNE_OP(nf4_dequantize)
VLTUNE_OP(dynamic_map)
