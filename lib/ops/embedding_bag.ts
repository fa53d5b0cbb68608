/** Weighted sums of a table's rows. Contract: `native/ops/embedding_bag.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { activationDType, type Builder, dimsOf, expectDType, expectShape, type Into, type Shaped } from './builder.js';

export interface Bags<T> {
  /** i32 [n, k]: rows of the table. */
  readonly ids: T;
  /** f32 [n, k]: how much of each. */
  readonly weights: T;
}

function checkBags(op: string, { ids, weights }: Bags<Shaped>): void {
  dimsOf(op, 'ids', ids, 2);
  expectDType(op, 'ids', ids, 'i32');
  expectDType(op, 'weights', weights, 'f32');
  expectShape(op, 'weights', weights, ids.shape);
}

/** `x[t] + sum over k of weights[t, k] * table[ids[t, k]]`. table f32|bf16|f16 [V, d], x [n, d]. */
export function embeddingBag<T extends Shaped>(b: Builder<T>, bags: Bags<T>, table: T, x: T): T {
  checkBags('embedding_bag', bags);
  const dtype = activationDType('embedding_bag', 'x', x);
  const [, d] = dimsOf('embedding_bag', 'table', table, 2);
  expectDType('embedding_bag', 'table', table, 'f32', 'bf16', 'f16');
  expectShape('embedding_bag', 'x', x, [bags.ids.shape[0]!, d!]);
  return b.emit('embedding_bag', [bags.ids, bags.weights, table, x], [{ name: 'positions', dtype, shape: x.shape }])[0]!;
}

/** `dtable[ids[t, k]] += weights[t, k] * dy[t]`, dtable f32 [V, d]. */
export function embeddingBagBackward<T extends Shaped>(b: Builder<T>, bags: Bags<T>, dy: T, dtable: Into<T>): void {
  checkBags('embedding_bag_backward', bags);
  expectDType('embedding_bag_backward', 'dtable', dtable.into, 'f32');
  b.emit('embedding_bag_backward', [bags.ids, bags.weights, dy], [dtable]);
}

export const embeddingBagGradient: GradientRule = (g, op) => {
  const [ids, weights, table, x] = op.in;
  const dy = g.gradientOf(op.out[0]);
  if (!dy) return;
  const dtable = g.parameter(table);
  if (dtable) embeddingBagBackward(g, { ids: ids!, weights: weights! }, dy, dtable);
  if (g.wants(x)) g.contribute(x, dy, true);
};
