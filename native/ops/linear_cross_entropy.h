// Output head and cross-entropy in one op, over rows that have a target, chunk by chunk: the logits never exist whole
// (as in Liger Kernel's fused linear cross-entropy).
//   linear_cross_entropy  in: x D[n,d], weight F32|BF16|F16|NF4[V,d], targets I32[n], loss_scale F32[1], rows I32[m]?
//                         out: loss F32[1] (accumulates loss_scale * sum), dx D[n,d]?, dweight F32[V,d]? (accumulates)
//                         rows with target -100 add nothing and get dx = 0. Row t: -log softmax(x[t] W^T)[targets[t]].
//                         dx and dweight are the gradients of loss_scale * sum. A target outside 0..V-1 other than -100: ERR_ARGUMENT.
// rows: the rows whose target is not -100, ascending. Given, they alone are computed; no other row has a target then. A caller on the
// host knows them, a kernel would have to be asked and waited for. The CPU looks at the targets itself.
// attrs: chunk_rows (rows whose logits exist at one time; 0 or none: the backend's choice).
// Without dx and dweight it is the evaluation. The sum runs over rows in ascending order, in F64.
#pragma once
#include "declare.h"

VLTUNE_OP(linear_cross_entropy)
VLTUNE_OP_WORKSPACE(linear_cross_entropy)
