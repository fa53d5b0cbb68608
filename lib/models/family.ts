/**
 * What a model family says of its models: the shapes its config gives, the tensors its checkpoints hold, and its forward
 * pass as ops. One file a family; `registry.ts` finds it by `model_type`.
 */
import type { ActivationDType, Builder, Shaped } from '../ops/builder.js';
import type { LinearOperands } from '../ops/linear.js';
import type { RopeOptions } from '../ops/qk_norm_rope.js';

/** A decoder's shape, whatever the config called its parts. */
export interface TextShape {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  readonly attentionBias: boolean;
  readonly tiedHead: boolean;
  readonly maxPositions: number;
  readonly rope: RopeOptions;
}

/** A linear layer as PEFT would name it. */
export interface LinearSpec {
  /** Module path, as `model.language_model.layers.0.self_attn.q_proj`. */
  readonly name: string;
  readonly in: number;
  readonly out: number;
  readonly bias: boolean;
  readonly part: 'language' | 'vision' | 'head';
}

/** A tensor that a checkpoint of this model must hold. */
export interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly part: 'language' | 'vision' | 'head';
}

/** Operands by name, as values of a graph or as eager tensors. */
export interface WeightLookup<T> {
  /** A linear layer with whatever adapter it has. */
  linear(module: string): LinearOperands<T>;
  /** A norm's weight, the embedding table or the head's weight. */
  tensor(name: string): T;
}

export interface ForwardInputs<T> {
  /** i32 [n] */
  readonly ids: T;
  /** i32 [3, n]: temporal, height and width position of each token. */
  readonly positions: T;
  readonly dtype: ActivationDType;
  /** The attention of layer `layer`: over packed sequences in training, over a cache in generation. */
  attend(layer: number, q: T, k: T, v: T): T;
}

/** A model of a family, as one config.json describes it. */
export interface ModelSpec {
  readonly modelType: string;
  readonly text: TextShape;
  readonly linears: readonly LinearSpec[];
  readonly tensors: readonly TensorSpec[];
  /** Name of the embedding table, and of the head's weight (the same if tied). */
  readonly embedding: string;
  readonly head: string;
  /** ids -> final hidden states [n, hidden], after the last norm. */
  forward<T extends Shaped>(b: Builder<T>, weights: WeightLookup<T>, inputs: ForwardInputs<T>): T;
}

export interface Family {
  readonly modelType: string;
  /** Reads a parsed config.json. Throws ERR_BAD_CHECKPOINT naming `file` and the key. */
  describe(config: Readonly<Record<string, unknown>>, file: string): ModelSpec;
}
