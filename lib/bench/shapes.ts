/** Model shapes that the benchmarks take their dimensions from. */
import type { Device } from '../native.js';

export interface ModelShape {
  readonly name: string;
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
}

/** A text model of the 100 M class, and the language models of Qwen3-VL-2B and 8B. */
const SMALL: ModelShape = {
  name: '100m',
  hidden: 768,
  intermediate: 2048,
  heads: 12,
  kvHeads: 4,
  headDim: 64,
  vocab: 32_000,
};
const QWEN3_VL_2B: ModelShape = {
  name: '2b',
  hidden: 2048,
  intermediate: 6144,
  heads: 16,
  kvHeads: 8,
  headDim: 128,
  vocab: 151_936,
};
const QWEN3_VL_8B: ModelShape = {
  name: '8b',
  hidden: 4096,
  intermediate: 12_288,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  vocab: 151_936,
};

/** What is measured on a device: tokens of a micro-batch that fill it, and models of the size it is for. */
export interface Scope {
  readonly device: Device;
  readonly tokens: number;
  readonly models: readonly ModelShape[];
  /** Parameters of the optimizer's bench: of a LoRA of rank 16 over the 2B model about; a GPU's bandwidth takes more to show. */
  readonly parameters: number;
}

export const SCOPES: Readonly<Record<Device, Scope>> = {
  cpu: { device: 'cpu', tokens: 512, models: [SMALL, QWEN3_VL_2B], parameters: 16 << 20 },
  cuda: { device: 'cuda', tokens: 4096, models: [QWEN3_VL_2B, QWEN3_VL_8B], parameters: 100 << 20 },
};

export const BYTES: Readonly<Record<'f32' | 'bf16', number>> = { f32: 4, bf16: 2 };
