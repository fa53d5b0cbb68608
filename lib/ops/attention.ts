/** Attention over packed sequences. Contract: `native/ops/attention.h`. */
import type { GradientRule } from '../graph/gradient.js';
import {
  type Attrs,
  activationDType,
  type Builder,
  bool,
  dimsOf,
  expectDType,
  expectShape,
  type Into,
  type Shaped,
} from './builder.js';

export interface AttentionOptions {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly causal: boolean;
  /** Default: 1 / sqrt(headDim). */
  readonly scale?: number;
}

export interface Attention<T> {
  readonly o: T;
  /** f32 [heads, n]: the log of the sum of exponentials of each row. */
  readonly lse: T;
}

export function attentionAttrs(options: AttentionOptions): Attrs {
  return {
    heads: options.heads,
    kv_heads: options.kvHeads,
    head_dim: options.headDim,
    causal: bool(options.causal),
    scale: options.scale ?? 1 / Math.sqrt(options.headDim),
  };
}

function checkHeads(op: string, q: Shaped, k: Shaped, v: Shaped, o: AttentionOptions): void {
  const [n] = dimsOf(op, 'q', q, 2);
  expectShape(op, 'q', q, [n!, o.heads * o.headDim]);
  expectShape(op, 'k', k, [n!, o.kvHeads * o.headDim]);
  expectShape(op, 'v', v, [n!, o.kvHeads * o.headDim]);
}

/** q [n, heads * headDim], k and v [n, kvHeads * headDim], bounds i32 [S + 1] -> o [n, heads * headDim]. */
export function attention<T extends Shaped>(b: Builder<T>, q: T, k: T, v: T, bounds: T, options: AttentionOptions): Attention<T> {
  const dtype = activationDType('attention', 'q', q);
  checkHeads('attention', q, k, v, options);
  expectDType('attention', 'bounds', bounds, 'i32');
  const [o, lse] = b.emit(
    'attention',
    [q, k, v, bounds],
    [
      { name: 'attention', dtype, shape: q.shape },
      { name: 'lse', dtype: 'f32', shape: [options.heads, q.shape[0]!] },
    ],
    attentionAttrs(options),
  );
  return { o: o!, lse: lse! };
}

/** The gradients of q, k and v. */
export function attentionBackward<T extends Shaped>(
  b: Builder<T>,
  operands: { dout: T; q: T; k: T; v: T; o: T; lse: T; bounds: T },
  attrs: Attrs,
): { dq: T; dk: T; dv: T } {
  const { dout, q, k, v, o, lse, bounds } = operands;
  const dtype = activationDType('attention_backward', 'q', q);
  expectShape('attention_backward', 'do', dout, q.shape);
  const [dq, dk, dv] = b.emit(
    'attention_backward',
    [dout, q, k, v, o, lse, bounds],
    [
      { name: 'dq', dtype, shape: q.shape },
      { name: 'dk', dtype, shape: k.shape },
      { name: 'dv', dtype, shape: v.shape },
    ],
    attrs,
  );
  return { dq: dq!, dk: dk!, dv: dv! };
}

/**
 * Attention of new rows over a cache that they are appended to: `past` i32 [1] rows are in it already.
 * kCache and vCache [C, kvHeads * headDim].
 */
export function attentionCached<T extends Shaped>(
  b: Builder<T>,
  q: T,
  k: T,
  v: T,
  past: T,
  cache: { readonly k: Into<T>; readonly v: Into<T> },
  options: AttentionOptions,
): T {
  const dtype = activationDType('attention_cached', 'q', q);
  checkHeads('attention_cached', q, k, v, options);
  expectDType('attention_cached', 'past', past, 'i32');
  return b.emit(
    'attention_cached',
    [q, k, v, past],
    [{ name: 'attention', dtype, shape: q.shape }, cache.k, cache.v],
    attentionAttrs(options),
  )[0]!;
}

export const attentionGradient: GradientRule = (g, op) => {
  const [q, k, v, bounds] = op.in;
  const [o, lse] = op.out;
  const dout = g.gradientOf(o);
  if (!dout || !(g.wants(q) || g.wants(k) || g.wants(v))) return;
  const { dq, dk, dv } = attentionBackward(g, { dout, q: q!, k: k!, v: v!, o: o!, lse: lse!, bounds: bounds! }, op.attrs);
  if (g.wants(q)) g.contribute(q, dq);
  if (g.wants(k)) g.contribute(k, dk);
  if (g.wants(v)) g.contribute(v, dv);
};
