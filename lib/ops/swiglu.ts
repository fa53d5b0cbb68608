/** SwiGLU. Contract: `native/ops/swiglu.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { activationDType, type Builder, expectShape, type Shaped } from './builder.js';

/** `silu(gate) * up`; all [n, f]. */
export function swiglu<T extends Shaped>(b: Builder<T>, gate: T, up: T): T {
  const dtype = activationDType('swiglu', 'gate', gate);
  expectShape('swiglu', 'up', up, gate.shape);
  return b.emit('swiglu', [gate, up], [{ name: 'swiglu', dtype, shape: gate.shape }])[0]!;
}

/** The gradients of gate and up. */
export function swigluBackward<T extends Shaped>(b: Builder<T>, dy: T, gate: T, up: T): { dgate: T; dup: T } {
  const dtype = activationDType('swiglu_backward', 'gate', gate);
  expectShape('swiglu_backward', 'dy', dy, gate.shape);
  const [dgate, dup] = b.emit(
    'swiglu_backward',
    [dy, gate, up],
    [
      { name: 'dgate', dtype, shape: gate.shape },
      { name: 'dup', dtype, shape: gate.shape },
    ],
  );
  return { dgate: dgate!, dup: dup! };
}

export const swigluGradient: GradientRule = (g, op) => {
  const [gate, up] = op.in;
  const dy = g.gradientOf(op.out[0]);
  if (!dy || !(g.wants(gate) || g.wants(up))) return;
  const { dgate, dup } = swigluBackward(g, dy, gate!, up!);
  if (g.wants(gate)) g.contribute(gate, dgate);
  if (g.wants(up)) g.contribute(up, dup);
};
