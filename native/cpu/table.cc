// The ops compiled for one instruction set, as a table of names.
#include "../ops/adamw.h"
#include "../ops/attention.h"
#include "../ops/decode.h"
#include "../ops/elementwise.h"
#include "../ops/embedding.h"
#include "../ops/embedding_bag.h"
#include "../ops/gelu.h"
#include "../ops/layer_norm.h"
#include "../ops/linear.h"
#include "../ops/linear_cross_entropy.h"
#include "../ops/move.h"
#include "../ops/nf4.h"
#include "../ops/qk_norm_rope.h"
#include "../ops/qkv_rope.h"
#include "../ops/rms_norm.h"
#include "../ops/sample.h"
#include "../ops/scatter_rows.h"
#include "../ops/swiglu.h"
#include "../ops/table.h"

namespace vltune::cpu::VLTUNE_ISA {

#define OP(name) {#name, name, nullptr},
#define OP_WS(name) {#name, name, name##_workspace},
extern const OpEntry kTable[] = {VLTUNE_OPS(OP, OP_WS){nullptr, nullptr, nullptr}};
#undef OP
#undef OP_WS

}  // namespace vltune::cpu::VLTUNE_ISA
