/** Qwen3-VL (dense), as in transformers' `modeling_qwen3_vl.py`: config, tensors and language model. `qwen3_vl_vision.ts` is its tower. */
import type { Builder, Shaped } from '../ops/builder.js';
import { ConfigReader } from './config_reader.js';
import { type DecoderOptions, decoder, decoderLinears, decoderTensors } from './decoder.js';
import type {
  Family,
  ForwardInputs,
  LinearSpec,
  ModelSpec,
  TextShape,
  VisionFeatures,
  VisionInputs,
  WeightLookup,
} from './family.js';
import { visionParts, visionShape, visionTower } from './qwen3_vl_vision.js';

const DECODER: DecoderOptions = { prefix: 'model.language_model', qkNorm: true };

function textShape(root: ConfigReader): TextShape {
  const text = root.section('text_config');
  const heads = text.integer('num_attention_heads', 1, 4096);
  const hiddenSize = text.integer('hidden_size', 1, 1 << 20);
  const headDim = text.integer('head_dim', 2, 1024, Math.floor(hiddenSize / heads));
  const kvHeads = text.integer('num_key_value_heads', 1, heads, heads);
  if (headDim % 2 !== 0) text.fail('head_dim', 'even', headDim);
  if (heads % kvHeads !== 0) text.fail('num_key_value_heads', `a divisor of num_attention_heads (${heads})`, kvHeads);
  const activation = text.text('hidden_act', 'silu');
  if (activation !== 'silu') text.fail('hidden_act', '"silu"', activation);

  // transformers 5 writes rope_parameters; the published files have rope_scaling and a rope_theta beside it.
  const rope = text.optionalSection('rope_parameters', 'rope_scaling');
  const type = rope?.text('rope_type', rope.text('type', 'default')) ?? 'default';
  if (rope && type !== 'default' && type !== 'mrope') rope.fail('rope_type', '"default"', type);
  const theta = (rope?.has('rope_theta') ? rope : text).positive('rope_theta', 1e12, 500000);
  const sections = rope?.has('mrope_section') ? rope.integers('mrope_section', 0, 1024, 3) : [24, 20, 20];
  if (sections[0]! + sections[1]! + sections[2]! !== headDim / 2) {
    (rope ?? text).fail('mrope_section', `three numbers whose sum is head_dim / 2 = ${headDim / 2}`, sections);
  }
  return {
    vocabSize: text.integer('vocab_size', 1, 1 << 24),
    hiddenSize,
    intermediateSize: text.integer('intermediate_size', 1, 1 << 22),
    layers: text.integer('num_hidden_layers', 1, 1024),
    heads,
    kvHeads,
    headDim,
    rmsNormEps: text.positive('rms_norm_eps', 1, 1e-6),
    attentionBias: text.flag('attention_bias', false),
    tiedHead: root.has('tie_word_embeddings') ? root.flag('tie_word_embeddings', false) : text.flag('tie_word_embeddings', false),
    maxPositions: text.integer('max_position_embeddings', 1, 1 << 30, 128000),
    rope: { headDim, theta, sections: [sections[0]!, sections[1]!, sections[2]!], interleaved: true },
  };
}

export const QWEN3_VL: Family = {
  modelType: 'qwen3_vl',
  describe(config, file): ModelSpec {
    const root = new ConfigReader(config, file);
    const text = textShape(root);
    const shape = visionShape(root);
    if (shape.outSize !== text.hiddenSize)
      root.section('vision_config').fail('out_hidden_size', `text_config.hidden_size, ${text.hiddenSize}`, shape.outSize);
    const vision = visionParts(shape);
    const embedding = `${DECODER.prefix}.embed_tokens.weight`;
    const head: LinearSpec = { name: 'lm_head', in: text.hiddenSize, out: text.vocabSize, bias: false, part: 'head' };
    return {
      modelType: 'qwen3_vl',
      text,
      linears: [...vision.linears, ...decoderLinears(text, DECODER), head],
      tensors: [...vision.tensors, ...decoderTensors(text, DECODER)],
      embedding,
      head: text.tiedHead ? embedding : 'lm_head.weight',
      vision: {
        shape,
        forward<T extends Shaped>(b: Builder<T>, weights: WeightLookup<T>, inputs: VisionInputs<T>): VisionFeatures<T> {
          return visionTower(b, weights, inputs, shape);
        },
      },
      forward<T extends Shaped>(b: Builder<T>, weights: WeightLookup<T>, inputs: ForwardInputs<T>): T {
        return decoder(b, weights, inputs, text, DECODER);
      },
    };
  },
};
