/** Queries, keys and values out of one product, rotated. Contract: `native/ops/qkv_rope.h`. */
import { VltuneError } from '../errors.js';
import type { GradientRule } from '../graph/gradient.js';
import { type Attrs, activationDType, type Builder, dimsOf, expectShape, fixed, type Shaped } from './builder.js';
import type { RopeTable } from './qk_norm_rope.js';

export interface Qkv<T> {
  readonly q: T;
  readonly k: T;
  readonly v: T;
}

/** qkv [n, 3 * H * headDim] -> q and k, each head rotated, and v, all [n, H * headDim]. */
export function qkvRope<T extends Shaped>(b: Builder<T>, qkv: T, rope: RopeTable<T>, headDim: number): Qkv<T> {
  const dtype = activationDType('qkv_rope', 'qkv', qkv);
  const [n, columns] = dimsOf('qkv_rope', 'qkv', qkv, 2);
  const width = fixed('qkv_rope', 'qkv', columns) / 3;
  if (!Number.isInteger(width / headDim)) {
    throw new VltuneError('ERR_SHAPE', `qkv_rope: ${columns} columns are not a multiple of 3 times head_dim ${headDim}`);
  }
  expectShape('qkv_rope', 'cos', rope.cos, [n!, headDim / 2]);
  const shape = [n!, width];
  const [q, k, v] = b.emit(
    'qkv_rope',
    [qkv, rope.cos, rope.sin],
    ['q', 'k', 'v'].map((name) => ({ name, dtype, shape })),
    { head_dim: headDim },
  );
  return { q: q!, k: k!, v: v! };
}

/** The gradient of qkv. */
export function qkvRopeBackward<T extends Shaped>(b: Builder<T>, { q, k, v }: Qkv<T>, rope: RopeTable<T>, attrs: Attrs): T {
  const dtype = activationDType('qkv_rope_backward', 'dq', q);
  const [n, width] = dimsOf('qkv_rope_backward', 'dq', q, 2);
  const columns = 3 * fixed('qkv_rope_backward', 'dq', width);
  return b.emit('qkv_rope_backward', [q, k, v, rope.cos, rope.sin], [{ name: 'dqkv', dtype, shape: [n!, columns] }], attrs)[0]!;
}

export const qkvRopeGradient: GradientRule = (g, op) => {
  const [qkv, cos, sin] = op.in;
  const [q, k, v] = op.out.map((value) => g.gradientOf(value));
  if (!g.wants(qkv) || !(q && k && v)) return;
  g.contribute(qkv, qkvRopeBackward(g, { q, k, v }, { cos: cos!, sin: sin! }, op.attrs));
};
