/** Layer norm with the residual sum in the same pass. Contract: `native/ops/layer_norm.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { activationDType, type Builder, dimsOf, expectDType, expectShape, type Into, type Shaped } from './builder.js';

export interface LayerNormWeights<T> {
  /** f32|bf16 [d] */
  readonly weight: T;
  /** [d], of weight's dtype */
  readonly bias: T;
}

export interface LayerNorm<T> {
  readonly y: T;
  /** f32 [n, 2]: mean, and one over the standard deviation, of each row. */
  readonly stats: T;
  /** x + residual, if there was a residual. */
  readonly sum: T | null;
}

/** `s = x (+ residual); y = weight * (s - mean(s)) / deviation(s) + bias`. x and residual [n, d]. */
export function layerNorm<T extends Shaped>(
  b: Builder<T>,
  x: T,
  { weight, bias }: LayerNormWeights<T>,
  eps: number,
  residual: T | null = null,
): LayerNorm<T> {
  const dtype = activationDType('layer_norm', 'x', x);
  const [n, d] = dimsOf('layer_norm', 'x', x, 2);
  expectDType('layer_norm', 'weight', weight, 'f32', 'bf16');
  expectShape('layer_norm', 'weight', weight, [d!]);
  expectDType('layer_norm', 'bias', bias, weight.dtype);
  expectShape('layer_norm', 'bias', bias, [d!]);
  if (residual) expectShape('layer_norm', 'residual', residual, x.shape);
  const [y, stats, sum] = b.emit(
    'layer_norm',
    [x, weight, bias, residual],
    [
      { name: 'norm', dtype, shape: x.shape },
      { name: 'stats', dtype: 'f32', shape: [n!, 2] },
      residual ? { name: 'residual', dtype, shape: x.shape } : null,
    ],
    { eps },
  );
  return { y: y!, stats: stats!, sum: sum ?? null };
}

/** The gradient of x and of the residual alike (`dsum` is what arrived at the sum); dweight and dbias, f32 [d], accumulate. */
export function layerNormBackward<T extends Shaped>(
  b: Builder<T>,
  operands: { dy: T; s: T; weight: T; stats: T; dsum: T | null },
  gradients: { dweight: Into<T> | null; dbias: Into<T> | null },
  eps: number,
): T {
  const { dy, s, weight, stats, dsum } = operands;
  const dtype = activationDType('layer_norm_backward', 's', s);
  expectShape('layer_norm_backward', 'dy', dy, s.shape);
  return b.emit(
    'layer_norm_backward',
    [dy, s, weight, stats, dsum],
    [{ name: 'dnorm', dtype, shape: s.shape }, gradients.dweight, gradients.dbias],
    { eps },
  )[0]!;
}

export const layerNormGradient: GradientRule = (g, op) => {
  const [x, weight, bias, residual] = op.in;
  const [y, stats, sum] = op.out;
  const dy = g.gradientOf(y);
  const dsum = g.gradientOf(sum);
  const gradients = { dweight: g.parameter(weight), dbias: g.parameter(bias) };
  if (!dy) {
    // Only the residual stream goes on from here.
    if (dsum) for (const value of [x, residual]) if (g.wants(value)) g.contribute(value, dsum, true);
    return;
  }
  if (!g.wants(x) && !g.wants(residual) && !gradients.dweight && !gradients.dbias) return;
  const operands = { dy, s: sum ?? x!, weight: weight!, stats: stats!, dsum };
  const dx = layerNormBackward(g, operands, gradients, op.attrs.eps!);
  const shared = g.wants(x) && g.wants(residual);
  for (const value of [x, residual]) if (g.wants(value)) g.contribute(value, dx, shared);
};
