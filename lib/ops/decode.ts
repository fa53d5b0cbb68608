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
