/**
 * What a model family says of its models: the shapes its config gives, the tensors its checkpoints hold, and its forward
 * pass as ops. One file a family; `registry.ts` finds it by `model_type`.
 */
import type { Dim } from '../native.js';
import type { ActivationDType, Builder, Shaped } from '../ops/builder.js';
import type { Bags } from '../ops/embedding_bag.js';
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

/** A vision tower's shape. */
export interface VisionShape {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly depth: number;
  readonly heads: number;
  readonly headDim: number;
  /** Whether the blocks' GELU is the approximation by tanh. */
  readonly tanh: boolean;
  readonly channels: number;
  readonly patchSize: number;
  readonly temporalPatchSize: number;
  /** Numbers of a patch: channels, frames, rows and columns of pixels. */
  readonly patchWidth: number;
  /** Patches along either side of the square that becomes one feature. */
  readonly mergeSize: number;
  /** Learned positions, and how many of them stand along either side of their grid. */
  readonly learnedPositions: number;
  readonly gridSide: number;
  /** Width of a feature: the language model's hidden size. */
  readonly outSize: number;
  /** Blocks whose output the first layers of the language model are given too. */
  readonly deepstackLayers: readonly number[];
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
  /** The shape in which ops read it, where that is another of as many elements. */
  readonly view?: readonly number[];
  /** A table whose rows are looked up. */
  readonly isEmbedding?: boolean;
  readonly part: 'language' | 'vision' | 'head';
}

/** Operands by name, as values of a graph or as eager tensors. */
export interface WeightLookup<T> {
  /** A linear layer with whatever adapter it has. */
  linear(module: string): LinearOperands<T>;
  /** A norm's weight, the embedding table or the head's weight. */
  tensor(name: string): T;
}

/** What a vision tower reads (`visionGridInputs` makes all but the pixels). */
export interface VisionInputs<T> {
  /** f32 [patches, patchWidth] */
  readonly pixels: T;
  /** i32 [3, patches]: temporal (0), height and width position of each patch. */
  readonly positions: T;
  /** i32 [frames + 1] */
  readonly bounds: T;
  /** [patches, 4]: the learned positions about each patch, and how much of each. */
  readonly learned: Bags<T>;
  /** How many features there are: patches over the square of the merge size. */
  readonly features: Dim;
  readonly dtype: ActivationDType;
}

/** Pictures as the language model reads them. */
export interface VisionFeatures<T> {
  /** [features, hidden]: in the place of embeddings. */
  readonly embeddings: T;
  /** [features, hidden] each: added to what comes out of the first, second, … layer. */
  readonly deepstack: readonly T[];
}

export interface MediaInputs<T> extends VisionFeatures<T> {
  /** i32 [features], ascending: the token that each feature stands for. */
  readonly rows: T;
}

export interface ForwardInputs<T> {
  /** i32 [n] */
  readonly ids: T;
  /** i32 [3, n]: temporal, height and width position of each token. */
  readonly positions: T;
  readonly dtype: ActivationDType;
  /** The attention of layer `layer`: over packed sequences in training, over a cache in generation. */
  attend(layer: number, q: T, k: T, v: T): T;
  /** Absent: text alone. */
  readonly media?: MediaInputs<T> | undefined;
}

export interface VisionSpec {
  readonly shape: VisionShape;
  forward<T extends Shaped>(b: Builder<T>, weights: WeightLookup<T>, inputs: VisionInputs<T>): VisionFeatures<T>;
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
  /** The tower that pictures go through; absent in a text model. */
  readonly vision?: VisionSpec;
  /** ids -> final hidden states [n, hidden], after the last norm. */
  forward<T extends Shaped>(b: Builder<T>, weights: WeightLookup<T>, inputs: ForwardInputs<T>): T;
}

export interface Family {
  readonly modelType: string;
  /** Reads a parsed config.json. Throws ERR_BAD_CHECKPOINT naming `file` and the key. */
  describe(config: Readonly<Record<string, unknown>>, file: string): ModelSpec;
}
