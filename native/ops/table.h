// Every op of vltune, one line each: OP(name) or OP_WS(name) where the op wants scratch memory.
// clang-format off
#define VLTUNE_OPS(OP, OP_WS)         \
  OP(embedding)                       \
  OP(embedding_backward)              \
  OP(embedding_bag)                   \
  OP(embedding_bag_backward)          \
  OP(rms_norm)                        \
  OP_WS(rms_norm_backward)            \
  OP(layer_norm)                      \
  OP_WS(layer_norm_backward)          \
  OP(rope_table)                      \
  OP(qk_norm_rope)                    \
  OP_WS(qk_norm_rope_backward)        \
  OP(qkv_rope)                        \
  OP(qkv_rope_backward)               \
  OP(swiglu)                          \
  OP(swiglu_backward)                 \
  OP(gelu)                            \
  OP(gelu_backward)                   \
  OP_WS(attention)                    \
  OP_WS(attention_backward)           \
  OP_WS(attention_cached)             \
  OP_WS(linear)                       \
  OP_WS(linear_backward)              \
  OP_WS(linear_cross_entropy)         \
  OP_WS(linears_one)                  \
  OP_WS(attention_one)                \
  OP_WS(layers_one)                   \
  OP_WS(sample)                       \
  OP(add)                             \
  OP(cast)                            \
  OP(fill)                            \
  OP(select_rows)                     \
  OP(scatter_rows)                    \
  OP(copy)                            \
  OP(move_begin)                      \
  OP(move_end)                        \
  OP(nf4_quantize)                    \
  OP(nf4_quantize_absmax)             \
  OP(nf4_dequantize)                  \
  OP(dynamic_map)                     \
  OP_WS(grad_norm)                    \
  OP(adamw)
