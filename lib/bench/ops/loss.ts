/** Output head and cross-entropy with the gradient of the hidden state; a quarter of the rows has a target. */
import { IGNORE_INDEX, linearCrossEntropy } from '../../ops/linear_cross_entropy.js';
import { type Bench, FLOATS } from '../bench.js';
import { QWEN3_VL_2B, SMALL, TOKENS } from '../shapes.js';

export function lossBenches(tokens: number): Bench[] {
  const learnt = tokens / 4;
  const { hidden, vocab } = tokens > TOKENS ? QWEN3_VL_2B : SMALL;
  return FLOATS.map(
    (dtype): Bench => ({
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
    }),
  );
}
