/** The text files of the model folder beside tokenizer.json: one object a file, of the form the published Qwen3-VL checkpoints have. */
import { readFileSync } from 'node:fs';
import { ADDED_TOKENS } from './bpe.js';

/** The miniature's sizes. Heads of 32 dimensions keep M-RoPE's three sections (16 pairs: 6 time, 5 height, 5 width) as they are in the large ones. */
export const SIZES = {
  vocab: 2048,
  positions: 2048,
  text: { hidden: 192, intermediate: 512, layers: 6, heads: 6, kvHeads: 2, headDim: 32 },
  vision: {
    hidden: 96,
    intermediate: 256,
    depth: 3,
    heads: 6,
    patch: 16,
    temporalPatch: 2,
    merge: 2,
    positions: 64,
    deepstack: [0, 1],
  },
} as const;

/** Standard deviation of the initial embeddings (`initializer_range`). */
export const INITIALIZER_RANGE = 0.02;

const MROPE = { rope_type: 'default', mrope_section: [6, 5, 5], mrope_interleaved: true };
const ROPE_THETA = 10000;

export function configJson(tokenIds: ReadonlyMap<string, number>, dtype: 'bfloat16' | 'float32'): object {
  const id = (token: string) => tokenIds.get(token)!;
  const { text, vision } = SIZES;
  return {
    architectures: ['Qwen3VLForConditionalGeneration'],
    dtype,
    image_token_id: id('<|image_pad|>'),
    model_type: 'qwen3_vl',
    text_config: {
      attention_bias: false,
      attention_dropout: 0.0,
      bos_token_id: id('<|endoftext|>'),
      dtype,
      eos_token_id: id('<|im_end|>'),
      head_dim: text.headDim,
      hidden_act: 'silu',
      hidden_size: text.hidden,
      initializer_range: INITIALIZER_RANGE,
      intermediate_size: text.intermediate,
      max_position_embeddings: SIZES.positions,
      model_type: 'qwen3_vl_text',
      num_attention_heads: text.heads,
      num_hidden_layers: text.layers,
      num_key_value_heads: text.kvHeads,
      pad_token_id: id('<|endoftext|>'),
      rms_norm_eps: 1e-6,
      // Both spellings: transformers 4 reads rope_scaling and rope_theta, transformers 5 reads rope_parameters.
      rope_parameters: { ...MROPE, rope_theta: ROPE_THETA },
      rope_scaling: MROPE,
      rope_theta: ROPE_THETA,
      tie_word_embeddings: true,
      use_cache: true,
      vocab_size: SIZES.vocab,
    },
    tie_word_embeddings: true,
    video_token_id: id('<|video_pad|>'),
    vision_config: {
      deepstack_visual_indexes: vision.deepstack,
      depth: vision.depth,
      hidden_act: 'gelu_pytorch_tanh',
      hidden_size: vision.hidden,
      in_channels: 3,
      initializer_range: INITIALIZER_RANGE,
      intermediate_size: vision.intermediate,
      model_type: 'qwen3_vl',
      num_heads: vision.heads,
      num_position_embeddings: vision.positions,
      out_hidden_size: text.hidden,
      patch_size: vision.patch,
      spatial_merge_size: vision.merge,
      temporal_patch_size: vision.temporalPatch,
    },
    vision_end_token_id: id('<|vision_end|>'),
    vision_start_token_id: id('<|vision_start|>'),
  };
}

/** Greedy by default: a model this small is not to be sampled from. */
export function generationConfigJson(tokenIds: ReadonlyMap<string, number>): object {
  const end = tokenIds.get('<|endoftext|>')!;
  return { bos_token_id: end, do_sample: false, eos_token_id: [tokenIds.get('<|im_end|>')!, end], pad_token_id: end };
}

export function tokenizerConfigJson(tokenIds: ReadonlyMap<string, number>): object {
  return {
    add_bos_token: false,
    add_prefix_space: false,
    added_tokens_decoder: Object.fromEntries(
      ADDED_TOKENS.map(({ content, special }) => [
        String(tokenIds.get(content)),
        { content, lstrip: false, normalized: false, rstrip: false, single_word: false, special },
      ]),
    ),
    additional_special_tokens: ADDED_TOKENS.filter(({ special, content }) => special && content !== '<|endoftext|>').map(
      ({ content }) => content,
    ),
    bos_token: null,
    clean_up_tokenization_spaces: false,
    eos_token: '<|im_end|>',
    errors: 'replace',
    model_max_length: SIZES.positions,
    pad_token: '<|endoftext|>',
    processor_class: 'Qwen3VLProcessor',
    split_special_tokens: false,
    tokenizer_class: 'Qwen2Tokenizer',
    unk_token: null,
  };
}

const PATCHES = {
  patch_size: SIZES.vision.patch,
  temporal_patch_size: SIZES.vision.temporalPatch,
  merge_size: SIZES.vision.merge,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
  processor_class: 'Qwen3VLProcessor',
};

/** Sizes are numbers of pixels: images are kept so small that their tokens leave room for text within 2,048 positions. */
export const PREPROCESSOR_CONFIG: object = {
  size: { longest_edge: 262144, shortest_edge: 4096 },
  ...PATCHES,
  image_processor_type: 'Qwen2VLImageProcessorFast',
};

export const VIDEO_PREPROCESSOR_CONFIG: object = {
  size: { longest_edge: 1048576, shortest_edge: 4096 },
  ...PATCHES,
  video_processor_type: 'Qwen3VLVideoProcessor',
};

/** The template's text, kept beside this file as a file of its own; `root` is the repository's. */
export function chatTemplate(root: string): string {
  return readFileSync(`${root}/scripts/tiny-model/chat_template.jinja`, 'utf8').trimEnd();
}
