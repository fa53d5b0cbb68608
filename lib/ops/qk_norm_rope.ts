/** Rotary tables; norm of each head and rotation. Contract: `native/ops/qk_norm_rope.h`. */

import { VltuneError } from '../errors.js';
import type { GradientRule } from '../graph/gradient.js';
import {
  activationDType,
  type Builder,
  bool,
  dimsOf,
  expectDType,
  expectShape,
  fixed,
  type Into,
  type Shaped,
} from './builder.js';

export interface RopeOptions {
  readonly headDim: number;
  readonly theta: number;
  /** How many of the `headDim / 2` frequencies turn with the temporal, the height and the width position. */
  readonly sections: readonly [number, number, number];
  /** Qwen3-VL deals the frequencies to the axes in turn; Qwen2-VL gives each axis a run of them. */
  readonly interleaved: boolean;
  /** The vision towers: each axis turns with all the frequencies that its section has room for. */
  readonly axial?: boolean;
}

export interface RopeTable<T> {
  readonly cos: T;
  readonly sin: T;
}

/** positions i32 [3, n] (temporal, height, width) -> cos and sin f32 [n, headDim / 2]. */
export function ropeTable<T extends Shaped>(b: Builder<T>, positions: T, options: RopeOptions): RopeTable<T> {
  expectDType('rope_table', 'positions', positions, 'i32');
  const [axes, n] = dimsOf('rope_table', 'positions', positions, 2);
  const half = options.headDim / 2;
  const [t, h, w] = options.sections;
  if (axes !== 3) throw new VltuneError('ERR_SHAPE', `rope_table: positions must be [3, n], got [${positions.shape.join(', ')}]`);
  if (t + h + w !== half) {
    throw new VltuneError('ERR_SHAPE', `rope_table: sections ${options.sections.join(' + ')} must sum to head_dim / 2 = ${half}`);
  }
  const [cos, sin] = b.emit(
    'rope_table',
    [positions],
    [
      { name: 'cos', dtype: 'f32', shape: [n!, half] },
      { name: 'sin', dtype: 'f32', shape: [n!, half] },
    ],
    {
      theta: options.theta,
      section_t: t,
      section_h: h,
      section_w: w,
      interleaved: bool(options.interleaved),
      axial: bool(options.axial ?? false),
    },
  );
  return { cos: cos!, sin: sin! };
}

export interface QkNormRope<T> {
  readonly y: T;
  /** f32 [n, H]; null without a norm. */
  readonly rstd: T | null;
}

/** x [n, H * headDim] -> the same shape, each head normed (if there is a weight [headDim]) and rotated. */
export function qkNormRope<T extends Shaped>(
  b: Builder<T>,
  x: T,
  weight: T | null,
  rope: RopeTable<T>,
  options: { headDim: number; eps: number },
): QkNormRope<T> {
  const dtype = activationDType('qk_norm_rope', 'x', x);
  const [n, width] = dimsOf('qk_norm_rope', 'x', x, 2);
  const heads = fixed('qk_norm_rope', 'x', width) / options.headDim;
  if (!Number.isInteger(heads))
    throw new VltuneError('ERR_SHAPE', `qk_norm_rope: ${width} columns are not a multiple of head_dim ${options.headDim}`);
  if (weight) expectShape('qk_norm_rope', 'weight', weight, [options.headDim]);
  expectShape('qk_norm_rope', 'cos', rope.cos, [n!, options.headDim / 2]);
  const [y, rstd] = b.emit(
    'qk_norm_rope',
    [x, weight, rope.cos, rope.sin],
    [{ name: 'rotated', dtype, shape: x.shape }, weight ? { name: 'rstd', dtype: 'f32', shape: [n!, heads] } : null],
    { head_dim: options.headDim, eps: options.eps },
  );
  return { y: y!, rstd: rstd ?? null };
}

/** The gradient of x; `dweight` f32 [headDim] accumulates. */
export function qkNormRopeBackward<T extends Shaped>(
  b: Builder<T>,
  operands: { dy: T; x: T; weight: T | null; rstd: T | null; cos: T; sin: T },
  dweight: Into<T> | null,
  options: { headDim: number; eps: number },
): T {
  const { dy, x, weight, rstd, cos, sin } = operands;
  const dtype = activationDType('qk_norm_rope_backward', 'x', x);
  expectShape('qk_norm_rope_backward', 'dy', dy, x.shape);
  return b.emit(
    'qk_norm_rope_backward',
    [dy, x, weight, rstd, cos, sin],
    [{ name: 'drotated', dtype, shape: x.shape }, dweight],
    {
      head_dim: options.headDim,
      eps: options.eps,
    },
  )[0]!;
}

export const qkNormRopeGradient: GradientRule = (g, op) => {
  const [x, weight, cos, sin] = op.in;
  const [y, rstd] = op.out;
  const dy = g.gradientOf(y);
  if (!dy || !(g.wants(x) || g.parameter(weight))) return;
  const options = { headDim: op.attrs.head_dim!, eps: op.attrs.eps! };
  const dx = qkNormRopeBackward(
    g,
    { dy, x: x!, weight: weight ?? null, rstd: rstd ?? null, cos: cos!, sin: sin! },
    g.parameter(weight),
    options,
  );
  if (g.wants(x)) g.contribute(x, dx);
};
