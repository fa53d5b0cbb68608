/** Output head and cross-entropy with the gradient of the hidden state; a quarter of the rows has a target. */
import { IGNORE_INDEX, linearCrossEntropy } from '../../ops/linear_cross_entropy.js';
import { type Bench, FLOATS } from '../bench.js';
import { SMALL, TOKENS } from '../shapes.js';

const TARGETS = TOKENS / 4;

export function lossBenches(): Bench[] {
  const { hidden, vocab } = SMALL;
  return FLOATS.map(
    (dtype): Bench => ({
      kernel: 'linear_cross_entropy',
      shape: `${TARGETS}of${TOKENS}x${hidden}x${vocab}`,
      dtype,
      // Logits, and the gradient of x: nothing for the rows without a target.
      work: { flops: 2 * 2 * TARGETS * hidden * vocab },
      baseline: 'gemm',
      build: (b) => {
        const targets = Int32Array.from({ length: TOKENS }, (_, i) => (i % 4 === 0 ? (i * 7919) % vocab : IGNORE_INDEX));
        linearCrossEntropy(
          b,
          {
            x: b.normal([TOKENS, hidden], dtype),
            weight: b.normal([vocab, hidden], dtype, 0.02),
            targets: b.integers(targets),
            lossScale: b.normal([1]),
          },
          { into: b.zeros([1]) },
          { dx: true, dweight: null },
        );
      },
    }),
  );
}
