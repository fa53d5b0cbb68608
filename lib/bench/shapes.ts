/** Model shapes that the benchmarks take their dimensions from. */
export interface ModelShape {
  readonly name: string;
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
}

/** A text model of the 100 M class, and Qwen3-VL-2B's language model. */
export const SMALL: ModelShape = {
  name: '100m',
  hidden: 768,
  intermediate: 2048,
  heads: 12,
  kvHeads: 4,
  headDim: 64,
  vocab: 32_000,
};
export const QWEN3_VL_2B: ModelShape = {
  name: '2b',
  hidden: 2048,
  intermediate: 6144,
  heads: 16,
  kvHeads: 8,
  headDim: 128,
  vocab: 151_936,
};
export const MODELS: readonly ModelShape[] = [SMALL, QWEN3_VL_2B];

/** Tokens of a micro-batch: on the CPU, and where a GPU is full. */
export const TOKENS = 512;
export const CUDA_TOKENS = 4096;

export const BYTES: Readonly<Record<'f32' | 'bf16', number>> = { f32: 4, bf16: 2 };
