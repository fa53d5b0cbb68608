/** Small movers of data. Contract: `native/ops/elementwise.h`. */
import type { GradientRule } from '../graph/gradient.js';
import type { Dim } from '../native.js';
import {
  activationDType,
  type Builder,
  dimsOf,
  expectDType,
  expectShape,
  type Into,
  type OutputSpec,
  type Shaped,
} from './builder.js';

/** a + b. */
export function add<T extends Shaped>(b: Builder<T>, left: T, right: T): T {
  const dtype = activationDType('add', 'a', left);
  expectShape('add', 'b', right, left.shape);
  return b.emit('add', [left, right], [{ name: 'sum', dtype, shape: left.shape }])[0]!;
}

/** The same numbers in another dtype (round to nearest even); nf4 is dequantised. */
export function cast<T extends Shaped>(b: Builder<T>, x: T, output: OutputSpec | Into<T>): T {
  return b.emit('cast', [x], [output])[0]!;
}

/** The same elements in the same order under another shape of as many. */
export function reshape<T extends Shaped>(b: Builder<T>, x: T, shape: readonly Dim[]): T {
  return cast(b, x, { name: 'reshaped', dtype: activationDType('reshape', 'x', x), shape });
}

/** Sets every element of an f32 tensor. */
export function fill<T extends Shaped>(b: Builder<T>, y: Into<T>, value: number): void {
  b.emit('fill', [], [y], { value });
}

/** y[i] = x[rows[i]]; x [n, d], rows i32 [m] -> [m, d]. */
export function selectRows<T extends Shaped>(b: Builder<T>, x: T, rows: T): T {
  const dtype = activationDType('select_rows', 'x', x);
  const [, d] = dimsOf('select_rows', 'x', x, 2);
  const [m] = dimsOf('select_rows', 'rows', rows, 1);
  expectDType('select_rows', 'rows', rows, 'i32');
  return b.emit('select_rows', [x, rows], [{ name: 'rows', dtype, shape: [m!, d!] }])[0]!;
}

export const addGradient: GradientRule = (g, op) => {
  const dy = g.gradientOf(op.out[0]);
  if (dy) for (const value of op.in) if (g.wants(value)) g.contribute(value, dy, true);
};

export const castGradient: GradientRule = (g, op) => {
  const [x] = op.in;
  const dy = g.gradientOf(op.out[0]);
  if (dy && g.wants(x)) g.contribute(x, cast(g, dy, { name: 'dcast', dtype: x.dtype, shape: x.shape }));
};
