/** GELU. Contract: `native/ops/gelu.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { type Attrs, activationDType, type Builder, bool, expectShape, type Shaped } from './builder.js';

export interface GeluOptions {
  /** By tanh, as transformers' `gelu_pytorch_tanh`; else exact. */
  readonly tanh: boolean;
}

/** x [n, f] times the normal distribution's function of x. */
export function gelu<T extends Shaped>(b: Builder<T>, x: T, options: GeluOptions): T {
  const dtype = activationDType('gelu', 'x', x);
  return b.emit('gelu', [x], [{ name: 'gelu', dtype, shape: x.shape }], { tanh: bool(options.tanh) })[0]!;
}

/** The gradient of x. */
export function geluBackward<T extends Shaped>(b: Builder<T>, dy: T, x: T, attrs: Attrs): T {
  const dtype = activationDType('gelu_backward', 'x', x);
  expectShape('gelu_backward', 'dy', dy, x.shape);
  return b.emit('gelu_backward', [dy, x], [{ name: 'dgelu', dtype, shape: x.shape }], attrs)[0]!;
}

export const geluGradient: GradientRule = (g, op) => {
  const [x] = op.in;
  const dy = g.gradientOf(op.out[0]);
  if (dy && g.wants(x)) g.contribute(x, geluBackward(g, dy, x, op.attrs));
};
