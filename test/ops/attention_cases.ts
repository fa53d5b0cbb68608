/**
 * The attention ops over many shapes against the F64 reference. Run as a program it prints the results as JSON, so that a test
 * can have them from a process with another VLTUNE_ISA.
 */
import { createHash } from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { addon, dtypeBytes, type TensorRef } from '../../lib/native.js';
import { type AttentionShape, attentionBackwardReference, attentionReference, boundsOf } from './attention_reference.js';

export type Storable = 'f32' | 'bf16';

/** A tensor of the addon with `values` (F32, rounded to bf16 if asked; or I32). */
export function tensor(dtype: Storable | 'i32', shape: readonly number[], values?: Float32Array | Int32Array): TensorRef {
  const bytes = dtypeBytes(
    dtype,
    shape.reduce((a, b) => a * b, 1),
  );
  const storage = addon().allocate(Math.max(bytes, 1), 'cpu');
  if (values && bytes > 0) addon().write(storage, 0, dtype === 'bf16' ? toBf16(values as Float32Array) : values);
  return { storage, offset: 0, dtype, shape };
}

export function valuesOf(t: TensorRef): Float32Array {
  const count = t.shape.reduce((a, b) => a * b, 1);
  if (count === 0) return new Float32Array(0);
  if (t.dtype === 'f32') {
    const values = new Float32Array(count);
    addon().read(t.storage, t.offset, values);
    return values;
  }
  const bits = new Uint16Array(count);
  addon().read(t.storage, t.offset, bits);
  return fromBf16(bits);
}

export function toBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) rounded[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16;
  return rounded;
}

export function fromBf16(bits: Uint16Array): Float32Array {
  const wide = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) wide[i] = bits[i]! << 16;
  return new Float32Array(wide.buffer);
}

/** Normal numbers from a seed, rounded to the dtype they will be stored in. */
export function randoms(seed: number): (count: number, dtype: Storable) => Float32Array {
  let state = seed;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return (count, dtype) => {
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    return dtype === 'bf16' ? fromBf16(toBf16(values)) : values;
  };
}

export function attrsOf(shape: AttentionShape): Record<string, number> {
  return {
    heads: shape.heads,
    kv_heads: shape.kvHeads,
    head_dim: shape.headDim,
    scale: shape.scale,
    causal: shape.causal ? 1 : 0,
  };
}

/** ‖got − wanted‖ / ‖wanted‖; where only zeros are wanted (scores of a single key have no gradient), the root mean square. */
export function distance(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  let apart = 0;
  let norm = 0;
  for (let i = 0; i < wanted.length; i++) {
    apart += (got[i]! - wanted[i]!) ** 2;
    norm += wanted[i]! ** 2;
  }
  return Math.sqrt(apart / (norm > 1e-20 ? norm : Math.max(1, wanted.length)));
}

export interface Trained {
  readonly o: Float32Array;
  readonly lse: Float32Array;
  readonly dq: Float32Array;
  readonly dk: Float32Array;
  readonly dv: Float32Array;
}

/** Forward and backward by the addon. */
export function attend(
  shape: AttentionShape,
  dtype: Storable,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  dout: Float32Array,
): Trained {
  const n = shape.lengths.reduce((a, b) => a + b, 0);
  const wide = [n, shape.heads * shape.headDim];
  const narrow = [n, shape.kvHeads * shape.headDim];
  const bounds = tensor('i32', [shape.lengths.length + 1], boundsOf(shape.lengths));
  const [tq, tk, tv, tdo] = [
    tensor(dtype, wide, q),
    tensor(dtype, narrow, k),
    tensor(dtype, narrow, v),
    tensor(dtype, wide, dout),
  ];
  // Outputs start as garbage: the ops write every element.
  const garbage = (dtype: Storable, shape: readonly number[]): TensorRef =>
    tensor(dtype, shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(Number.NaN));
  const o = garbage(dtype, wide);
  const lse = garbage('f32', [shape.heads, n]);
  const [dq, dk, dv] = [garbage(dtype, wide), garbage(dtype, narrow), garbage(dtype, narrow)];
  addon().call('attention', [tq, tk, tv, bounds], [o, lse], attrsOf(shape));
  addon().call('attention_backward', [tdo, tq, tk, tv, o, lse, bounds], [dq, dk, dv], attrsOf(shape));
  return { o: valuesOf(o), lse: valuesOf(lse), dq: valuesOf(dq), dk: valuesOf(dk), dv: valuesOf(dv) };
}

const LENGTHS: readonly (readonly number[])[] = [
  [1],
  [0, 5, 0, 1, 17, 0],
  [63, 64, 65],
  [95, 97, 2],
  [33, 20, 58, 41, 1, 26],
  [260],
];
const HEADS: readonly (readonly [number, number, number])[] = [
  [1, 1, 32],
  [4, 2, 64],
  [4, 1, 72],
  [2, 2, 20],
  [2, 1, 128],
  [3, 3, 33],
  [2, 1, 256],
];

export interface CaseResult {
  readonly name: string;
  readonly dtype: Storable;
  readonly distances: Readonly<Record<string, number>>;
  /** SHA-256 of the outputs. */
  readonly digest: string;
}

export interface CasesReport {
  readonly isa: string;
  readonly training: readonly CaseResult[];
  readonly cached: readonly CaseResult[];
}

function result(
  name: string,
  dtype: Storable,
  got: Readonly<Record<string, Float32Array>>,
  wanted: Readonly<Record<string, Float64Array>>,
): CaseResult {
  const hash = createHash('sha256');
  for (const values of Object.values(got)) hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  const distances = Object.fromEntries(Object.entries(wanted).map(([key, values]) => [key, distance(got[key]!, values)]));
  return { name, dtype, distances, digest: hash.digest('hex') };
}

function trainingCase(shape: AttentionShape, dtype: Storable, compare: boolean): CaseResult {
  const random = randoms(17);
  const n = shape.lengths.reduce((a, b) => a + b, 0);
  const wide = n * shape.heads * shape.headDim;
  const narrow = n * shape.kvHeads * shape.headDim;
  const [q, k, v, dout] = [random(wide, dtype), random(narrow, dtype), random(narrow, dtype), random(wide, dtype)];
  const wanted = compare
    ? { ...attentionReference(shape, { q, k, v }), ...attentionBackwardReference(shape, { q, k, v }, dout) }
    : {};
  const name = `lengths ${shape.lengths.join(',')}, heads ${shape.heads}/${shape.kvHeads}, dim ${shape.headDim}, ${shape.causal ? 'causal' : 'full'}`;
  return result(name, dtype, { ...attend(shape, dtype, q, k, v, dout) }, wanted);
}

/** Rows in the cache before, and how many come at each call. */
const CACHED: readonly (readonly [number, readonly number[]])[] = [
  [0, [1, 1, 1]],
  [3, [2, 1]],
  [254, [1, 1, 4, 1]],
  [600, [1]],
  [0, [130, 1, 20]],
  [77, [64, 65]],
];

function cachedCase(
  past: number,
  chunks: readonly number[],
  heads: number,
  kvHeads: number,
  headDim: number,
  dtype: Storable,
  compare: boolean,
): CaseResult {
  const random = randoms(23);
  const total = past + chunks.reduce((a, b) => a + b, 0);
  const shape = { heads, kvHeads, headDim, causal: true, scale: 0.3, lengths: [total] };
  const width = kvHeads * headDim;
  const [q, k, v] = [random(total * heads * headDim, dtype), random(total * width, dtype), random(total * width, dtype)];
  const capacity = total + 5;
  const filled = (values: Float32Array): Float32Array => {
    const cache = new Float32Array(capacity * width).fill(1e4);
    cache.set(values.subarray(0, past * width));
    return cache;
  };
  const [kCache, vCache] = [tensor(dtype, [capacity, width], filled(k)), tensor(dtype, [capacity, width], filled(v))];
  const o = new Float32Array(q.length);
  let at = past;
  for (const rows of chunks) {
    const part = (values: Float32Array, width: number): TensorRef =>
      tensor(dtype, [rows, width], values.slice(at * width, (at + rows) * width));
    const out = tensor(dtype, [rows, heads * headDim]);
    const pastRows = tensor('i32', [1], Int32Array.of(at));
    addon().call(
      'attention_cached',
      [part(q, heads * headDim), part(k, width), part(v, width), pastRows],
      [out, kCache, vCache],
      attrsOf(shape),
    );
    o.set(valuesOf(out), at * heads * headDim);
    at += rows;
  }
  const from = past * heads * headDim;
  const wanted = compare
    ? { o: attentionReference(shape, { q, k, v }, past).o.subarray(from), k: Float64Array.from(k), v: Float64Array.from(v) }
    : {};
  return result(
    `cache of ${past} then ${chunks.join(',')}, heads ${heads}/${kvHeads}, dim ${headDim}`,
    dtype,
    { o: o.subarray(from), k: valuesOf(kCache).subarray(0, total * width), v: valuesOf(vCache).subarray(0, total * width) },
    wanted,
  );
}

/** `compare`: false only makes the digests, without the slow reference. */
export function runCases(compare: boolean): CasesReport {
  const training: CaseResult[] = [];
  const cached: CaseResult[] = [];
  // Each entry of a list meets three of the heads' shapes, and each of these some of the list.
  const headsFor = (i: number): (readonly [number, number, number])[] => [i, i + 2, i + 5].map((j) => HEADS[j % HEADS.length]!);
  for (const dtype of ['f32', 'bf16'] as const) {
    for (const [i, lengths] of LENGTHS.entries())
      for (const [heads, kvHeads, headDim] of headsFor(i))
        for (const causal of [true, false])
          training.push(
            trainingCase({ heads, kvHeads, headDim, causal, scale: 1.3 / Math.sqrt(headDim), lengths }, dtype, compare),
          );
    for (const [i, [past, chunks]] of CACHED.entries())
      for (const [heads, kvHeads, headDim] of headsFor(i))
        cached.push(cachedCase(past, chunks, heads, kvHeads, headDim, dtype, compare));
  }
  return { isa: addon().cpuInfo().isa, training, cached };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  console.log(JSON.stringify(runCases(process.argv[2] !== 'digests')));
