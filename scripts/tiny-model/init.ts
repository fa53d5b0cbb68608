/**
 * Random weights to start from, every tensor of Qwen3-VL under the name that transformers saves it by: normal(0, 0.02), norms 1, biases 0, and the two
 * projections of a block that write into the residual stream scaled by 1/√(2·blocks) (GPT-2's rule, which keeps the stream's variance independent of
 * the depth). Vision weights are made in the same way and stay untrained until the model is taught to see.
 */
import { INITIALIZER_RANGE, SIZES } from './files.js';
import { Random } from './random.js';

export interface InitialTensor {
  name: string;
  shape: number[];
  data: Float32Array;
}

export function initialTensors(seed: number): InitialTensor[] {
  const random = new Random(seed);
  const tensors: InitialTensor[] = [];
  const add = (name: string, shape: number[], value: () => number) => {
    tensors.push({ name, shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, value) });
  };
  const normal = (name: string, shape: number[], scale = 1) =>
    add(name, shape, () => random.normal() * INITIALIZER_RANGE * scale);
  const ones = (name: string, size: number) => add(name, [size], () => 1);
  const linear = (name: string, out: number, inner: number, scale = 1) => {
    normal(`${name}.weight`, [out, inner], scale);
    add(`${name}.bias`, [out], () => 0);
  };
  const layerNorm = (name: string, size: number) => {
    ones(`${name}.weight`, size);
    add(`${name}.bias`, [size], () => 0);
  };

  const { text, vision } = SIZES;
  const q = text.heads * text.headDim;
  const kv = text.kvHeads * text.headDim;
  const residual = 1 / Math.sqrt(2 * text.layers);
  normal('model.language_model.embed_tokens.weight', [SIZES.vocab, text.hidden]);
  for (let i = 0; i < text.layers; i++) {
    const layer = `model.language_model.layers.${i}`;
    ones(`${layer}.input_layernorm.weight`, text.hidden);
    normal(`${layer}.self_attn.q_proj.weight`, [q, text.hidden]);
    normal(`${layer}.self_attn.k_proj.weight`, [kv, text.hidden]);
    normal(`${layer}.self_attn.v_proj.weight`, [kv, text.hidden]);
    normal(`${layer}.self_attn.o_proj.weight`, [text.hidden, q], residual);
    ones(`${layer}.self_attn.q_norm.weight`, text.headDim);
    ones(`${layer}.self_attn.k_norm.weight`, text.headDim);
    ones(`${layer}.post_attention_layernorm.weight`, text.hidden);
    normal(`${layer}.mlp.gate_proj.weight`, [text.intermediate, text.hidden]);
    normal(`${layer}.mlp.up_proj.weight`, [text.intermediate, text.hidden]);
    normal(`${layer}.mlp.down_proj.weight`, [text.hidden, text.intermediate], residual);
  }
  ones('model.language_model.norm.weight', text.hidden);

  normal('model.visual.patch_embed.proj.weight', [vision.hidden, 3, vision.temporalPatch, vision.patch, vision.patch]);
  add('model.visual.patch_embed.proj.bias', [vision.hidden], () => 0);
  normal('model.visual.pos_embed.weight', [vision.positions, vision.hidden]);
  const visionResidual = 1 / Math.sqrt(2 * vision.depth);
  for (let i = 0; i < vision.depth; i++) {
    const block = `model.visual.blocks.${i}`;
    layerNorm(`${block}.norm1`, vision.hidden);
    linear(`${block}.attn.qkv`, 3 * vision.hidden, vision.hidden);
    linear(`${block}.attn.proj`, vision.hidden, vision.hidden, visionResidual);
    layerNorm(`${block}.norm2`, vision.hidden);
    linear(`${block}.mlp.linear_fc1`, vision.intermediate, vision.hidden);
    linear(`${block}.mlp.linear_fc2`, vision.hidden, vision.intermediate, visionResidual);
  }
  // A merger joins merge × merge patches; the last one normalises each patch before they are joined, the deepstack ones after.
  const merged = vision.hidden * vision.merge ** 2;
  const merger = (name: string, norm: number) => {
    layerNorm(`${name}.norm`, norm);
    linear(`${name}.linear_fc1`, merged, merged);
    linear(`${name}.linear_fc2`, text.hidden, merged);
  };
  merger('model.visual.merger', vision.hidden);
  for (const i of vision.deepstack.keys()) merger(`model.visual.deepstack_merger_list.${i}`, merged);
  return tensors;
}
