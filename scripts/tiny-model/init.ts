/**
 * Random weights to start from, every tensor of Qwen3-VL under the name that transformers saves it by. A linear layer's are normal(0, 1/√inputs), so
 * that what comes out of a layer this narrow is as large as what went in: with the 0.02 of wide models its blocks add next to nothing, and the
 * grammar of answers takes three times as many updates. The two projections of a block that write into the residual stream are scaled by
 * 1/√(2·blocks) on top (GPT-2's rule, which keeps the stream's variance independent of the depth). Norms are 1, biases 0.
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
  const table = (name: string, rows: number, width: number, deviation: number) =>
    add(name, [rows, width], () => random.normal() * deviation);
  /** The first dimension is the outputs; the others, which a convolution over patches has several of, the inputs. */
  const normal = (name: string, shape: number[], scale = 1) => {
    const inputs = shape.slice(1).reduce((a, b) => a * b, 1);
    add(name, shape, () => (random.normal() * scale) / Math.sqrt(inputs));
  };
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
  table('model.language_model.embed_tokens.weight', SIZES.vocab, text.hidden, INITIALIZER_RANGE);
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
  // Beside patches of a deviation near 0.6: what is where can be told from the first update on.
  table('model.visual.pos_embed.weight', vision.positions, vision.hidden, 0.2);
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
