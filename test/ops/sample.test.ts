import test from 'ava';
import { sample } from '../../lib/generate/sampler.js';
import { Eager } from '../../lib/ops/index.js';
import { sampleToken } from '../../lib/ops/sample.js';
import { MersenneTwister } from '../../lib/random.js';
import { floats, integers, Numbers, random, Tensor } from './support.js';

interface Case {
  readonly vocab: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly penalty: number;
  /** Fewer distinct logits: ties. */
  readonly levels?: number;
}

const CASES: readonly Case[] = [
  { vocab: 1, temperature: 1, topK: 5, topP: 1, penalty: 1 },
  { vocab: 37, temperature: 0, topK: 0, topP: 1, penalty: 1.3 },
  { vocab: 1000, temperature: 0.7, topK: 20, topP: 0.8, penalty: 1 },
  { vocab: 1025, temperature: 1.5, topK: 600, topP: 1, penalty: 1.1 },
  { vocab: 5003, temperature: 1, topK: 50, topP: 0.95, penalty: 1.2, levels: 40 },
  { vocab: 20_011, temperature: 2, topK: 1024, topP: 0.99, penalty: 1 },
];

for (const { vocab, temperature, topK, topP, penalty, levels } of CASES) {
  test(`sample of ${vocab} words, temperature ${temperature}, top-k ${topK}${levels ? ', with ties' : ''}`, (t) => {
    const steps = 12;
    const numbers = new Numbers(vocab);
    const sampling = floats(temperature, topK, topP, penalty);
    const uniform = new MersenneTwister(7);
    const draws = Float32Array.from({ length: steps }, () => uniform.uniform());
    const [seen, ids, positions] = [Tensor.zeros([vocab], 'u8'), integers([-1]), integers([3, 3, 3], [3, 1])];
    const [past, tokens, count] = [integers([3]), integers(Array(steps).fill(-1)), integers([0])];
    const state = { seen, ids, positions, past, tokens, count };
    const into = Object.fromEntries(Object.entries(state).map(([name, tensor]) => [name, { into: tensor }])) as never;
    const occurred = new Set<number>();
    for (let step = 0; step < steps; step++) {
      let logits = random(numbers, 'f32', [1, vocab], 3);
      if (levels) {
        logits = Tensor.from(
          logits.toFloat32().map((x) => Math.round((x * levels) / 10)),
          [1, vocab],
        );
      }
      sampleToken(new Eager(), { logits, sampling, uniform: Tensor.from(draws, [steps]) }, into);
      // The same draw for the one in TypeScript, which rounds nothing else to F32.
      const fixed = { uniform: () => draws[step]! } as unknown as MersenneTwister;
      const expected = sample(
        logits.toFloat32(),
        { temperature: Math.fround(temperature), topK, topP: Math.fround(topP), repetitionPenalty: Math.fround(penalty) },
        occurred,
        fixed,
      );
      occurred.add(expected);
      t.deepEqual(
        [ids.toInt32()[0], tokens.toInt32()[step], past.toInt32()[0], count.toInt32()[0], [...positions.toInt32()]],
        [expected, expected, 4 + step, step + 1, [4 + step, 4 + step, 4 + step]],
        `step ${step}`,
      );
    }
    t.deepEqual(
      [...seen.toBytes()].flatMap((flag, id) => (flag ? [id] : [])),
      [...occurred].sort((x, y) => x - y),
    );
    // No room for more: nothing changes.
    sampleToken(new Eager(), { logits: Tensor.zeros([1, vocab]), sampling, uniform: Tensor.from(draws, [steps]) }, into);
    t.is(count.toInt32()[0], steps);
  });
}
