/** Output head and cross-entropy with the gradient of the hidden state; a quarter of the rows has a target. */
import { IGNORE_INDEX, linearCrossEntropy } from '../../ops/linear_cross_entropy.js';
import { type Bench, FLOATS, type Float } from '../bench.js';
import type { ModelShape, Scope } from '../shapes.js';

export function lossBenches({ device, tokens, models }: Scope): Bench[] {
  // The larger model's logits are too much for a CPU.
  const measured = device === 'cpu' ? models.slice(0, 1) : models;
  return FLOATS.flatMap((dtype) => measured.map((model) => lossBench(model, tokens, dtype)));
}

function lossBench({ hidden, vocab }: ModelShape, tokens: number, dtype: Float): Bench {
  const learnt = tokens / 4;
  return {
    kernel: 'linear_cross_entropy',
    shape: `${learnt}of${tokens}x${hidden}x${vocab}`,
    dtype,
    // Logits, and the gradient of x: nothing for the rows without a target.
    work: { flops: 2 * 2 * learnt * hidden * vocab },
    baseline: 'gemm',
    build: (b) => {
      const targets = Int32Array.from({ length: tokens }, (_, i) => (i % 4 === 0 ? (i * 7919) % vocab : IGNORE_INDEX));
      linearCrossEntropy(
        b,
        {
          x: b.normal([tokens, hidden], dtype),
          weight: b.normal([vocab, hidden], dtype, 0.02),
          targets: b.integers(targets),
          lossScale: b.normal([1]),
          rows: b.integers(Int32Array.from({ length: learnt }, (_, i) => 4 * i)),
        },
        { into: b.zeros([1]) },
        { dx: true, dweight: null },
      );
    },
  };
}
