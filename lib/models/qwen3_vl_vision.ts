/**
 * The vision tower of Qwen3-VL, as in transformers' `modeling_qwen3_vl.py`: patches become tokens that see all others of their
 * frame, and merge × merge of them one feature of the language model's width. Features of some earlier blocks (DeepStack) are made
 * by mergers of their own.
 */
import type { Dim } from '../native.js';
import { attention } from '../ops/attention.js';
import type { ActivationDType, Builder, Shaped } from '../ops/builder.js';
import { cast, reshape } from '../ops/elementwise.js';
import { embeddingBag } from '../ops/embedding_bag.js';
import { gelu } from '../ops/gelu.js';
import { layerNorm } from '../ops/layer_norm.js';
import { type LinearOperands, linear } from '../ops/linear.js';
import { ropeTable } from '../ops/qk_norm_rope.js';
import { qkvRope } from '../ops/qkv_rope.js';
import type { ConfigReader } from './config_reader.js';
import type { LinearSpec, TensorSpec, VisionFeatures, VisionInputs, VisionShape, WeightLookup } from './family.js';

/** Module path of the tower. */
const PREFIX = 'model.visual';
/** Not in any config: `modeling_qwen3_vl.py` writes it out. */
const EPS = 1e-6;

/** Reads config.json's `vision_config`. */
export function visionShape(root: ConfigReader): VisionShape {
  const config = root.section('vision_config');
  const hiddenSize = config.integer('hidden_size', 1, 1 << 16);
  const heads = config.integer('num_heads', 1, 4096, 16);
  const headDim = hiddenSize / heads;
  // Half of a head turns with the row, half with the column, and elements turn in pairs.
  if (headDim % 4 !== 0)
    config.fail('num_heads', `a number that leaves hidden_size (${hiddenSize}) heads of a multiple of 4`, heads);
  const activation = config.text('hidden_act', 'gelu_pytorch_tanh');
  if (activation !== 'gelu_pytorch_tanh' && activation !== 'gelu')
    config.fail('hidden_act', '"gelu_pytorch_tanh" or "gelu"', activation);
  const rope = config.optionalSection('rope_parameters');
  const depth = config.integer('depth', 1, 1024);
  const patchSize = config.integer('patch_size', 1, 256, 16);
  const temporalPatchSize = config.integer('temporal_patch_size', 1, 16, 2);
  const channels = config.integer('in_channels', 1, 64, 3);
  const learnedPositions = config.integer('num_position_embeddings', 1, 1 << 20, 2304);
  return {
    hiddenSize,
    intermediateSize: config.integer('intermediate_size', 1, 1 << 18),
    depth,
    heads,
    headDim,
    tanh: activation === 'gelu_pytorch_tanh',
    channels,
    patchSize,
    temporalPatchSize,
    patchWidth: channels * temporalPatchSize * patchSize ** 2,
    mergeSize: config.integer('spatial_merge_size', 1, 16, 2),
    learnedPositions,
    gridSide: Math.floor(Math.sqrt(learnedPositions)),
    outSize: config.integer('out_hidden_size', 1, 1 << 20),
    deepstackLayers: config.integers('deepstack_visual_indexes', 0, depth - 1),
    rope: {
      headDim,
      theta: rope?.positive('rope_theta', 1e12, 10000) ?? 10000,
      sections: [0, headDim / 4, headDim / 4],
      interleaved: false,
      axial: true,
    },
  };
}

/** The tower's linear layers as PEFT finds them, and its other tensors. */
export function visionParts(shape: VisionShape): { linears: LinearSpec[]; tensors: TensorSpec[] } {
  const { hiddenSize, intermediateSize, depth, channels, temporalPatchSize, patchSize, patchWidth } = shape;
  const merged = hiddenSize * shape.mergeSize ** 2;
  const linears: LinearSpec[] = [];
  const tensors: TensorSpec[] = [];
  const linear = (name: string, width: number, outputs: number) =>
    linears.push({ name: `${PREFIX}.${name}`, in: width, out: outputs, bias: true, part: 'vision' });
  const tensor = (name: string, ...shape: number[]) => tensors.push({ name: `${PREFIX}.${name}`, shape, part: 'vision' });
  const layerNorm = (name: string, width: number) => {
    tensor(`${name}.weight`, width);
    tensor(`${name}.bias`, width);
  };
  const merger = (name: string, normWidth: number) => {
    layerNorm(`${name}.norm`, normWidth);
    linear(`${name}.linear_fc1`, merged, merged);
    linear(`${name}.linear_fc2`, merged, shape.outSize);
  };

  // A convolution whose strides are its kernel: a linear layer over the numbers of a patch.
  tensors.push({
    name: `${PREFIX}.patch_embed.proj.weight`,
    shape: [hiddenSize, channels, temporalPatchSize, patchSize, patchSize],
    view: [hiddenSize, patchWidth],
    part: 'vision',
  });
  tensor('patch_embed.proj.bias', hiddenSize);
  tensors.push({
    name: `${PREFIX}.pos_embed.weight`,
    shape: [shape.learnedPositions, hiddenSize],
    part: 'vision',
    isEmbedding: true,
  });
  for (let block = 0; block < depth; block++) {
    layerNorm(`blocks.${block}.norm1`, hiddenSize);
    layerNorm(`blocks.${block}.norm2`, hiddenSize);
    linear(`blocks.${block}.attn.qkv`, hiddenSize, 3 * hiddenSize);
    linear(`blocks.${block}.attn.proj`, hiddenSize, hiddenSize);
    linear(`blocks.${block}.mlp.linear_fc1`, hiddenSize, intermediateSize);
    linear(`blocks.${block}.mlp.linear_fc2`, intermediateSize, hiddenSize);
  }
  merger('merger', hiddenSize);
  shape.deepstackLayers.forEach((_, i) => {
    merger(`deepstack_merger_list.${i}`, merged);
  });
  return { linears, tensors };
}

/** Patches -> features of the language model's width, one for each merge × merge patches. */
export function visionTower<T extends Shaped>(
  b: Builder<T>,
  weights: WeightLookup<T>,
  inputs: VisionInputs<T>,
  shape: VisionShape,
): VisionFeatures<T> {
  const { heads, headDim, deepstackLayers } = shape;
  const tensor = (name: string) => weights.tensor(`${PREFIX}.${name}`);
  const parts = (name: string) => ({ weight: tensor(`${name}.weight`), bias: tensor(`${name}.bias`) });
  const layer = (name: string): LinearOperands<T> => weights.linear(`${PREFIX}.${name}`);
  const merge = (x: T) => reshape(b, x, [inputs.features, shape.hiddenSize * shape.mergeSize ** 2]);
  const project = (name: string, x: T): T => {
    const wide = linear(b, x, layer(`${name}.linear_fc1`)).y;
    return linear(b, gelu(b, wide, { tanh: false }), layer(`${name}.linear_fc2`)).y;
  };

  const rope = ropeTable(b, inputs.positions, shape.rope);
  const patches = linear(b, ofDType(b, inputs.pixels, inputs.dtype), parts('patch_embed.proj')).y;
  // `delta` is what the last half block adds to the residual stream; the next norm adds it in its own pass.
  let delta = embeddingBag(b, inputs.learned, tensor('pos_embed.weight'), patches);
  let residual: T | null = null;
  const nextNorm = (name: string): T => {
    const { y, sum } = layerNorm(b, delta, parts(name), EPS, residual);
    residual = sum ?? delta;
    return y;
  };
  const deepstack: T[] = [];
  // After the norm that follows block `block` the residual stream is what came out of it.
  const tap = (block: number): void => {
    const merger = deepstackLayers.indexOf(block);
    if (merger < 0 || !residual) return;
    const name = `deepstack_merger_list.${merger}`;
    deepstack.push(project(name, layerNorm(b, merge(residual), parts(`${name}.norm`), EPS).y));
  };

  for (let block = 0; block < shape.depth; block++) {
    const x = nextNorm(`blocks.${block}.norm1`);
    tap(block - 1);
    const { q, k, v } = qkvRope(b, linear(b, x, layer(`blocks.${block}.attn.qkv`)).y, rope, headDim);
    const { o } = attention(b, q, k, v, inputs.bounds, { heads, kvHeads: heads, headDim, causal: false });
    delta = linear(b, o, layer(`blocks.${block}.attn.proj`)).y;

    const z = nextNorm(`blocks.${block}.norm2`);
    const wide = linear(b, z, layer(`blocks.${block}.mlp.linear_fc1`)).y;
    delta = linear(b, gelu(b, wide, { tanh: shape.tanh }), layer(`blocks.${block}.mlp.linear_fc2`)).y;
  }
  const last = nextNorm('merger.norm');
  tap(shape.depth - 1);
  return { embeddings: project('merger', merge(last)), deepstack };
}

function ofDType<T extends Shaped>(b: Builder<T>, x: T, dtype: ActivationDType): T {
  return x.dtype === dtype ? x : cast(b, x, { name: 'pixels', dtype, shape: x.shape as readonly Dim[] });
}
