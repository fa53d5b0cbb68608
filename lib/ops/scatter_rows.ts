/** Rows put into a matrix at places of their own. Contract: `native/ops/scatter_rows.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { activationDType, type Builder, bool, dimsOf, expectDType, expectShape, type Shaped } from './builder.js';
import { selectRows } from './elementwise.js';

export interface ScatterOptions {
  /** Add the values to the rows of x; else they take their place. */
  readonly accumulate: boolean;
}

/** x [n, d] with values [m, d] at `rows`, i32 [m] ascending; null values: with zeros there. */
export function scatterRows<T extends Shaped>(
  b: Builder<T>,
  x: T,
  rows: T,
  values: T | null,
  options: ScatterOptions = { accumulate: false },
): T {
  const dtype = activationDType('scatter_rows', 'x', x);
  const [, d] = dimsOf('scatter_rows', 'x', x, 2);
  const [m] = dimsOf('scatter_rows', 'rows', rows, 1);
  expectDType('scatter_rows', 'rows', rows, 'i32');
  if (values) {
    expectDType('scatter_rows', 'values', values, dtype);
    expectShape('scatter_rows', 'values', values, [m!, d!]);
  }
  return b.emit('scatter_rows', [x, rows, values], [{ name: 'scattered', dtype, shape: x.shape }], {
    accumulate: bool(options.accumulate),
  })[0]!;
}

export const scatterRowsGradient: GradientRule = (g, op) => {
  const [x, rows, values] = op.in;
  const dy = g.gradientOf(op.out[0]);
  if (!dy) return;
  if (g.wants(values)) g.contribute(values, selectRows(g, dy, rows!));
  if (!g.wants(x)) return;
  if (op.attrs.accumulate) g.contribute(x, dy, true);
  else g.contribute(x, scatterRows(g, dy, rows!, null));
};
