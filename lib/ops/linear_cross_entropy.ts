/** Output head and cross-entropy in one op. Contract: `native/ops/linear_cross_entropy.h`. */
import type { GradientRule } from '../graph/gradient.js';
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

/** The target of a row that is not learnt. */
export const IGNORE_INDEX = -100;

export interface CrossEntropyOperands<T> {
  /** [n, d] */
  readonly x: T;
  /** f32 | bf16 | f16 | nf4 [V, d] */
  readonly weight: T;
  /** i32 [n] */
  readonly targets: T;
  /** f32 [1]: what each row's loss is multiplied by, as 1 / number of target tokens. */
  readonly lossScale: T;
  /** i32 [m]: the rows that have a target, ascending. With it a GPU does nothing for the others. */
  readonly rows?: T | null;
}

/** `loss += lossScale * sum of -log softmax(x W^T)[target]`; with `gradients`, dx and dweight in the same pass. Returns dx. */
export function linearCrossEntropy<T extends Shaped>(
  b: Builder<T>,
  operands: CrossEntropyOperands<T>,
  loss: Into<T>,
  gradients: { dx: boolean; dweight: Into<T> | null } = { dx: false, dweight: null },
): T | null {
  const { x, weight, targets, lossScale, rows = null } = operands;
  const op = 'linear_cross_entropy';
  const dtype = activationDType(op, 'x', x);
  const [n, d] = dimsOf(op, 'x', x, 2);
  const [vocab] = dimsOf(op, 'weight', weight, 2);
  expectShape(op, 'weight', weight, [vocab!, d!]);
  expectDType(op, 'targets', targets, 'i32');
  expectShape(op, 'targets', targets, [n!]);
  expectShape(op, 'loss_scale', lossScale, [1]);
  if (rows) {
    expectDType(op, 'rows', rows, 'i32');
    dimsOf(op, 'rows', rows, 1);
  }
  const dx: OutputSpec | null = gradients.dx ? { name: 'dhidden', dtype, shape: x.shape } : null;
  return b.emit(op, [x, weight, targets, lossScale, rows], [loss, dx, gradients.dweight])[1] ?? null;
}

export const linearCrossEntropyGradient: GradientRule = (g, op) => {
  const [x, weight] = op.in;
  const dweight = g.parameter(weight);
  const dx = g.wants(x) ? g.newValue({ name: 'dhidden', dtype: x.dtype, shape: x.shape }) : null;
  g.amend(op, [op.out[0]!, dx, dweight?.into ?? null]);
  if (g.wants(x)) g.contribute(x, dx!);
};
