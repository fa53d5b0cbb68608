/** What the parity tests read: traces, token ids and tensors that `test/fixtures/scripts` wrote with transformers and PEFT. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { ComputeDType } from '../../lib/dtype.js';
import { readSafetensorsHeader, readTensor } from '../../lib/weights/safetensors.js';

/** `test/fixtures` of the repository: the compiled tests run from `dist/test/parity`. */
export const FIXTURES: string = fileURLToPath(new URL('../../../test/fixtures', import.meta.url));
export const PARITY: string = join(FIXTURES, 'parity');
/** Pictures, and rows that hold them. */
export const MEDIA_ROWS: string = join(FIXTURES, 'media-rows');
export const MODEL: string = join(FIXTURES, 'qwen3vl-tiny');

export interface TraceStep {
  readonly step: number;
  readonly epoch: number;
  readonly loss: number;
  readonly grad_norm: number;
  readonly learning_rate: number;
  readonly num_tokens: number;
  readonly num_target_tokens: number;
  /** Row numbers of each micro-batch. */
  readonly rows: readonly (readonly number[])[];
}

export interface TraceOptions {
  readonly textFormat: 'chat' | 'plain';
  readonly lossAverage: 'tokens' | 'micro-batches';
  readonly loadIn4bit: boolean;
  readonly dtype: ComputeDType;
  readonly optim: 'adamw_torch' | 'adamw_8bit';
  readonly maxSteps: number;
  readonly maxLength?: number;
  /** A folder in `parity`; absent for full fine-tuning. */
  readonly adapter?: string;
  readonly fullFinetuning?: boolean;
  /** A folder in `test/fixtures`; `MODEL` if absent. */
  readonly model?: string;
  readonly [option: string]: unknown;
}

export interface Trace {
  readonly options: TraceOptions;
  /** Which rows of `tokens.json`, if not those of the text format. */
  readonly tokens?: string;
  /** Mean loss of all rows with the weights at the end. */
  readonly eval_loss?: number;
  readonly steps: readonly TraceStep[];
}

export interface EncodedRow {
  readonly ids: readonly number[];
  /** Spans [first, end) of tokens that are targets. */
  readonly targets: readonly (readonly [number, number])[];
}

export function readJson<T>(name: string): T {
  return JSON.parse(readFileSync(join(PARITY, name), 'utf8')) as T;
}

/** The token ids that a trace was made with. */
export function rowsOf({ options, tokens }: Pick<Trace, 'options' | 'tokens'>): EncodedRow[] {
  const rows = readJson<Record<string, EncodedRow[]>>('tokens.json')[tokens ?? options.textFormat]!;
  const length = options.maxLength ?? Number.POSITIVE_INFINITY;
  return rows.map(({ ids, targets }) => ({
    ids: ids.slice(0, length),
    targets: targets.filter(([first]) => first < length).map(([first, end]) => [first, Math.min(end, length)] as const),
  }));
}

export interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export async function readTensors(path: string): Promise<Map<string, StoredTensor>> {
  const { tensors } = await readSafetensorsHeader(path);
  const read = async (info: (typeof tensors)[number]) =>
    [info.name, { dtype: info.dtype, shape: info.shape, bytes: await readTensor(info) }] as const;
  return new Map(await Promise.all(tensors.map(read)));
}

export async function readFloats(path: string): Promise<Map<string, Float32Array>> {
  const floats = new Map<string, Float32Array>();
  for (const [name, { dtype, bytes }] of await readTensors(path)) {
    if (dtype !== 'F32') throw new Error(`${path}: ${name} is ${dtype}, expected F32`);
    floats.set(name, new Float32Array(bytes.buffer));
  }
  return floats;
}

/** |a - b| / |b| in F64. */
export function distance(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new Error(`lengths differ: ${a.length} and ${b.length}`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

export function relative(a: number, b: number): number {
  return Math.abs(a - b) / Math.abs(b);
}
