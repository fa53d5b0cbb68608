/** Token embedding. Contract: `native/ops/embedding.h`. */
import type { GradientRule } from '../graph/gradient.js';
import { type ActivationDType, type Builder, dimsOf, expectDType, type Into, type Shaped } from './builder.js';

/** `y[t] = weight[ids[t]]`. ids i32 [n], weight f32|bf16|f16 [V, d] -> y [n, d] of `dtype`. */
export function embedding<T extends Shaped>(b: Builder<T>, ids: T, weight: T, dtype: ActivationDType): T {
  expectDType('embedding', 'ids', ids, 'i32');
  expectDType('embedding', 'weight', weight, 'f32', 'bf16', 'f16');
  const [n] = dimsOf('embedding', 'ids', ids, 1);
  const [, d] = dimsOf('embedding', 'weight', weight, 2);
  return b.emit('embedding', [ids, weight], [{ name: 'embedding', dtype, shape: [n!, d!] }])[0]!;
}

/** `dweight[ids[t]] += dy[t]`, dweight f32 [V, d]. */
export function embeddingBackward<T extends Shaped>(b: Builder<T>, ids: T, dy: T, dweight: Into<T>): void {
  expectDType('embedding_backward', 'dweight', dweight.into, 'f32');
  b.emit('embedding_backward', [ids, dy], [dweight]);
}

export const embeddingGradient: GradientRule = (g, op) => {
  const [ids, weight] = op.in;
  const dy = g.gradientOf(op.out[0]);
  const dweight = g.parameter(weight);
  if (dy && dweight) embeddingBackward(g, ids!, dy, dweight);
};
