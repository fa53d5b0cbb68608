/** The decoder that the Qwen-VL language models share: pre-norm, grouped attention with rotary positions, SwiGLU. */
import type { Builder, Shaped } from '../ops/builder.js';
import { embedding } from '../ops/embedding.js';
import { type LinearOperands, linear } from '../ops/linear.js';
import { qkNormRope, ropeTable } from '../ops/qk_norm_rope.js';
import { rmsNorm } from '../ops/rms_norm.js';
import { scatterRows } from '../ops/scatter_rows.js';
import { swiglu } from '../ops/swiglu.js';
import type { ForwardInputs, LinearSpec, TensorSpec, TextShape, WeightLookup } from './family.js';

export interface DecoderOptions {
  /** Module path of the decoder, as `model.language_model`. */
  readonly prefix: string;
  /** Whether each query and key head is normed before the rotation (Qwen3). */
  readonly qkNorm: boolean;
}

/** The decoder's linear layers, in the order of the forward pass. */
export function decoderLinears(text: TextShape, { prefix }: DecoderOptions): LinearSpec[] {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, attentionBias } = text;
  const specs: LinearSpec[] = [];
  for (let layer = 0; layer < text.layers; layer++) {
    const add = (name: string, width: number, out: number, bias: boolean) =>
      specs.push({ name: `${prefix}.layers.${layer}.${name}`, in: width, out, bias, part: 'language' });
    add('self_attn.q_proj', hiddenSize, heads * headDim, attentionBias);
    add('self_attn.k_proj', hiddenSize, kvHeads * headDim, attentionBias);
    add('self_attn.v_proj', hiddenSize, kvHeads * headDim, attentionBias);
    add('self_attn.o_proj', heads * headDim, hiddenSize, attentionBias);
    add('mlp.gate_proj', hiddenSize, intermediateSize, false);
    add('mlp.up_proj', hiddenSize, intermediateSize, false);
    add('mlp.down_proj', intermediateSize, hiddenSize, false);
  }
  return specs;
}

/** The decoder's other tensors: embedding and norms. */
export function decoderTensors(text: TextShape, { prefix, qkNorm }: DecoderOptions): TensorSpec[] {
  const specs: TensorSpec[] = [];
  const add = (name: string, ...shape: number[]) => specs.push({ name: `${prefix}.${name}`, shape, part: 'language' });
  specs.push({
    name: `${prefix}.embed_tokens.weight`,
    shape: [text.vocabSize, text.hiddenSize],
    part: 'language',
    isEmbedding: true,
  });
  for (let layer = 0; layer < text.layers; layer++) {
    add(`layers.${layer}.input_layernorm.weight`, text.hiddenSize);
    add(`layers.${layer}.post_attention_layernorm.weight`, text.hiddenSize);
    if (qkNorm) {
      add(`layers.${layer}.self_attn.q_norm.weight`, text.headDim);
      add(`layers.${layer}.self_attn.k_norm.weight`, text.headDim);
    }
  }
  add('norm.weight', text.hiddenSize);
  return specs;
}

/** ids -> hidden states after the last norm, [n, hidden]. */
export function decoder<T extends Shaped>(
  b: Builder<T>,
  weights: WeightLookup<T>,
  inputs: ForwardInputs<T>,
  text: TextShape,
  { prefix, qkNorm }: DecoderOptions,
): T {
  const norm = (name: string) => weights.tensor(`${prefix}.${name}.weight`);
  const layerLinear = (layer: number, name: string): LinearOperands<T> => weights.linear(`${prefix}.layers.${layer}.${name}`);
  const rope = ropeTable(b, inputs.positions, text.rope);
  const head = { headDim: text.headDim, eps: text.rmsNormEps };

  // `delta` is what the last block adds to the residual stream; the next norm adds it in its own pass.
  let delta = embedding(b, inputs.ids, norm('embed_tokens'), inputs.dtype);
  const { media } = inputs;
  if (media) delta = scatterRows(b, delta, media.rows, media.embeddings);
  let residual: T | null = null;
  const nextNorm = (name: string): T => {
    const { y, sum } = rmsNorm(b, delta, norm(name), text.rmsNormEps, residual);
    residual = sum ?? delta;
    return y;
  };

  for (let layer = 0; layer < text.layers; layer++) {
    const x = nextNorm(`layers.${layer}.input_layernorm`);
    const q = linear(b, x, layerLinear(layer, 'self_attn.q_proj')).y;
    const k = linear(b, x, layerLinear(layer, 'self_attn.k_proj')).y;
    const v = linear(b, x, layerLinear(layer, 'self_attn.v_proj')).y;
    const rotatedQ = qkNormRope(b, q, qkNorm ? norm(`layers.${layer}.self_attn.q_norm`) : null, rope, head).y;
    const rotatedK = qkNormRope(b, k, qkNorm ? norm(`layers.${layer}.self_attn.k_norm`) : null, rope, head).y;
    delta = linear(b, inputs.attend(layer, rotatedQ, rotatedK, v), layerLinear(layer, 'self_attn.o_proj')).y;

    const z = nextNorm(`layers.${layer}.post_attention_layernorm`);
    const gate = linear(b, z, layerLinear(layer, 'mlp.gate_proj')).y;
    const up = linear(b, z, layerLinear(layer, 'mlp.up_proj')).y;
    delta = linear(b, swiglu(b, gate, up), layerLinear(layer, 'mlp.down_proj')).y;
    const more = media?.deepstack[layer];
    if (more) delta = scatterRows(b, delta, media.rows, more, { accumulate: true });
  }
  return nextNorm('norm');
}
