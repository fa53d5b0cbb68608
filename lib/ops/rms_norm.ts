/** Root-mean-square norm with the residual sum in the same pass. Contract: `native/ops/rms_norm.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { activationDType, type Builder, dimsOf, expectDType, expectShape, type Into, type Shaped } from './builder.js';

export interface RmsNorm<T> {
  readonly y: T;
  /** f32 [n]: one over the root mean square of each row. */
  readonly rstd: T;
  /** x + residual, if there was a residual. */
  readonly sum: T | null;
}

/** `s = x (+ residual); y = weight * s / rms(s)`. x and residual [n, d], weight f32|bf16 [d]. */
export function rmsNorm<T extends Shaped>(b: Builder<T>, x: T, weight: T, eps: number, residual: T | null = null): RmsNorm<T> {
  const dtype = activationDType('rms_norm', 'x', x);
  const [n, d] = dimsOf('rms_norm', 'x', x, 2);
  expectDType('rms_norm', 'weight', weight, 'f32', 'bf16');
  expectShape('rms_norm', 'weight', weight, [d!]);
  if (residual) expectShape('rms_norm', 'residual', residual, x.shape);
  const [y, rstd, sum] = b.emit(
    'rms_norm',
    [x, weight, residual],
    [
      { name: 'norm', dtype, shape: x.shape },
      { name: 'rstd', dtype: 'f32', shape: [n!] },
      residual ? { name: 'residual', dtype, shape: x.shape } : null,
    ],
    { eps },
  );
  return { y: y!, rstd: rstd!, sum: sum ?? null };
}

/** The gradient of x and of the residual alike (`dsum` is what arrived at the sum); `dweight` f32 [d] accumulates. */
export function rmsNormBackward<T extends Shaped>(
  b: Builder<T>,
  operands: { dy: T; s: T; weight: T; rstd: T; dsum: T | null },
  dweight: Into<T> | null,
  eps: number,
): T {
  const { dy, s, weight, rstd, dsum } = operands;
  const dtype = activationDType('rms_norm_backward', 's', s);
  expectShape('rms_norm_backward', 'dy', dy, s.shape);
  return b.emit('rms_norm_backward', [dy, s, weight, rstd, dsum], [{ name: 'dnorm', dtype, shape: s.shape }, dweight], {
    eps,
  })[0]!;
}

export const rmsNormGradient: GradientRule = (g, op) => {
  const [x, weight, residual] = op.in;
  const [y, rstd, sum] = op.out;
  const dy = g.gradientOf(y);
  const dsum = g.gradientOf(sum);
  const dweight = g.parameter(weight);
  const wanted = g.wants(x) || g.wants(residual);
  if (!dy) {
    // Only the residual stream goes on from here.
    if (dsum) for (const value of [x, residual]) if (g.wants(value)) g.contribute(value, dsum, true);
    return;
  }
  if (!wanted && !dweight) return;
  const dx = rmsNormBackward(g, { dy, s: sum ?? x!, weight: weight!, rstd: rstd!, dsum }, dweight, op.attrs.eps!);
  const shared = g.wants(x) && g.wants(residual);
  for (const value of [x, residual]) if (g.wants(value)) g.contribute(value, dx, shared);
};
