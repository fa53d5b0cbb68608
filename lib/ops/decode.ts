/** The ops of a program that reads one token; `lib/graph/fuse.ts` puts them into one. Contract: `native/ops/decode.h`. */
import { VltuneError } from '../errors.js';
import { type AttentionOptions, attentionAttrs } from './attention.js';
import { activationDType, type Builder, bool, dimsOf, expectDType, expectShape, type Into, type Shaped } from './builder.js';
import type { LinearOperands } from './linear.js';
import type { RopeTable } from './qk_norm_rope.js';

/** Layers that one op takes. */
export const MOST_LINEARS = 3;

export interface LinearsOne<T> {
  /** D [1, d] */
  readonly x: T;
  /** What is normed first: x, or its sum with the residual. */
  readonly norm?: { readonly weight: T; readonly eps: number; readonly residual: T | null } | null;
  /** One to three; their adapters have one scale, and drop nothing. */
  readonly layers: readonly LinearOperands<T>[];
  /** Of two layers, `silu(y0) * y1`. */
  readonly swiglu?: boolean;
}

/** `y_i = linear(rms_norm(x (+ residual)), layer i)` of one row; `into` names where the results go, if they are somewhere already. */
export function linearsOne<T extends Shaped>(
  b: Builder<T>,
  { x, norm = null, layers, swiglu = false }: LinearsOne<T>,
  into: { readonly sum?: T | null; readonly y?: readonly T[] } = {},
): { sum: T | null; y: T[] } {
  const dtype = activationDType('linears_one', 'x', x);
  const [, d] = dimsOf('linears_one', 'x', x, 2);
  expectShape('linears_one', 'x', x, [1, d!]);
  if (norm) expectShape('linears_one', 'norm_weight', norm.weight, [d!]);
  if (norm?.residual) expectShape('linears_one', 'residual', norm.residual, x.shape);
  if (layers.length === 0 || layers.length > MOST_LINEARS || (swiglu && layers.length !== 2))
    throw new VltuneError('ERR_USAGE', `linears_one: ${layers.length} layers${swiglu ? ' with swiglu' : ''}`);
  const scales = new Set(layers.flatMap(({ lora }) => (lora ? [lora.scale] : [])));
  if (scales.size > 1) throw new VltuneError('ERR_USAGE', 'linears_one: the adapters have different scales');
  const operands = layers.flatMap(({ weight, bias, lora }) => {
    expectShape('linears_one', 'weight', weight, [weight.shape[0]!, d!]);
    return [weight, bias ?? null, lora?.a ?? null, lora?.b ?? null];
  });
  const place = (value: T | null | undefined, name: string, width: T['shape'][number]) =>
    value ? { into: value } : { name, dtype, shape: [1, width] };
  const [sum, ...y] = b.emit(
    'linears_one',
    [x, norm?.residual ?? null, norm?.weight ?? null, ...operands],
    [
      norm?.residual ? place(into.sum, 'residual', d!) : null,
      ...(swiglu ? layers.slice(0, 1) : layers).map(({ weight }, i) =>
        place(into.y?.[i], swiglu ? 'swiglu' : 'linear', weight.shape[0]!),
      ),
    ],
    { ...(norm && { eps: norm.eps }), scale: [...scales][0] ?? 1, swiglu: bool(swiglu) },
  );
  return { sum: sum ?? null, y: y.map((value) => value!) };
}

export interface AttentionOne<T> {
  /** As the linear layers give them: q [1, heads * headDim], k and v [1, kvHeads * headDim]. */
  readonly q: T;
  readonly k: T;
  readonly v: T;
  /** [headDim], if heads are normed. */
  readonly qNorm: T | null;
  readonly kNorm: T | null;
  readonly rope: RopeTable<T>;
  /** i32 [1] */
  readonly past: T;
}

/** `attentionCached` of one token, with the norm of its heads and their rotation. */
export function attentionOne<T extends Shaped>(
  b: Builder<T>,
  { q, k, v, qNorm, kNorm, rope, past }: AttentionOne<T>,
  cache: { readonly k: Into<T>; readonly v: Into<T> },
  options: AttentionOptions & { readonly eps: number },
  into: T | null = null,
): T {
  const { heads, kvHeads, headDim, eps } = options;
  const dtype = activationDType('attention_one', 'q', q);
  expectShape('attention_one', 'q', q, [1, heads * headDim]);
  for (const [name, value] of Object.entries({ k, v })) expectShape('attention_one', name, value, [1, kvHeads * headDim]);
  for (const weight of [qNorm, kNorm]) if (weight) expectShape('attention_one', 'norm', weight, [headDim]);
  for (const table of [rope.cos, rope.sin]) expectShape('attention_one', 'rope', table, [1, headDim / 2]);
  expectDType('attention_one', 'past', past, 'i32');
  return b.emit(
    'attention_one',
    [q, k, v, qNorm, kNorm, rope.cos, rope.sin, past],
    [into ? { into } : { name: 'attention', dtype, shape: q.shape }, cache.k, cache.v],
    { ...attentionAttrs(options), eps },
  )[0]!;
}

/** A decoder layer of one token: the operands of its norms, its linear layers and its attention. */
export interface LayerOne<T> {
  readonly inputNorm: T;
  readonly q: LinearOperands<T>;
  readonly k: LinearOperands<T>;
  readonly v: LinearOperands<T>;
  /** [headDim], if heads are normed. */
  readonly qNorm: T | null;
  readonly kNorm: T | null;
  readonly o: LinearOperands<T>;
  readonly postNorm: T;
  readonly gate: LinearOperands<T>;
  readonly up: LinearOperands<T>;
  readonly down: LinearOperands<T>;
  readonly cache: { readonly k: Into<T>; readonly v: Into<T> };
}

export interface LayersOne<T> {
  /** D [1, d]: what is added to the residual stream first, or where there is none yet, the stream. */
  readonly x: T;
  readonly residual: T | null;
  readonly rope: RopeTable<T>;
  /** i32 [1] */
  readonly past: T;
  /** One at least; all adapters have one scale, and drop nothing. */
  readonly layers: readonly LayerOne<T>[];
}

/** Decoder layers of one token, one after the other: what the last adds to the residual stream, and the stream before that. */
export function layersOne<T extends Shaped>(
  b: Builder<T>,
  { x, residual, rope, past, layers }: LayersOne<T>,
  options: AttentionOptions & { readonly eps: number },
  into: { readonly y?: T | null; readonly sum?: T | null } = {},
): { y: T; sum: T } {
  const { headDim, eps } = options;
  const dtype = activationDType('layers_one', 'x', x);
  const [, d] = dimsOf('layers_one', 'x', x, 2);
  expectShape('layers_one', 'x', x, [1, d!]);
  if (residual) expectShape('layers_one', 'residual', residual, [1, d!]);
  for (const table of [rope.cos, rope.sin]) expectShape('layers_one', 'rope', table, [1, headDim / 2]);
  expectDType('layers_one', 'past', past, 'i32');
  if (layers.length === 0) throw new VltuneError('ERR_USAGE', 'layers_one: no layer');
  const linears = layers.flatMap(({ q, k, v, o, gate, up, down }) => [q, k, v, o, gate, up, down]);
  const scales = new Set(linears.flatMap(({ lora }) => (lora ? [lora.scale] : [])));
  if (scales.size > 1) throw new VltuneError('ERR_USAGE', 'layers_one: the adapters have different scales');
  const linear = ({ weight, bias, lora }: LinearOperands<T>) => [weight, bias ?? null, lora?.a ?? null, lora?.b ?? null];
  const operands = layers.flatMap(({ inputNorm, q, k, v, qNorm, kNorm, o, postNorm, gate, up, down }) => [
    ...[inputNorm, ...linear(q), ...linear(k), ...linear(v), qNorm, kNorm, ...linear(o)],
    ...[postNorm, ...linear(gate), ...linear(up), ...linear(down)],
  ]);
  const place = (value: T | null | undefined, name: string) => (value ? { into: value } : { name, dtype, shape: x.shape });
  const { scale, ...heads } = attentionAttrs(options);
  const [y, sum] = b.emit(
    'layers_one',
    [x, residual, rope.cos, rope.sin, past, ...operands],
    [place(into.y, 'layers'), place(into.sum, 'residual'), ...layers.flatMap(({ cache }) => [cache.k, cache.v])],
    { ...heads, scale: scale!, layers: layers.length, eps, lora_scale: [...scales][0] ?? 1 },
  );
  return { y: y!, sum: sum! };
}
