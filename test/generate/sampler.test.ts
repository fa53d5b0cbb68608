import test from 'ava';
import { type Sampling, sample } from '../../lib/generate/sampler.js';
import { MersenneTwister } from '../../lib/random.js';

const FREE: Sampling = { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1 };
const NONE: ReadonlySet<number> = new Set();

/** How often each token is drawn. */
function frequencies(logits: readonly number[], sampling: Sampling, draws = 20_000, seen = NONE): number[] {
  const random = new MersenneTwister(5);
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < draws; i++) counts[sample(Float32Array.from(logits), sampling, seen, random)]! += 1;
  return counts.map((count) => count / draws);
}

function softmax(logits: readonly number[], temperature = 1): number[] {
  const weights = logits.map((logit) => Math.exp(logit / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

function near(measured: readonly number[], expected: readonly number[]): boolean {
  return measured.every((value, i) => Math.abs(value - expected[i]!) < 0.015);
}

const LOGITS = [0.5, 2, -1, 1.2, 0];

test('temperature 0 takes the most likely token, the first of equals', (t) => {
  const greedy = { ...FREE, temperature: 0 };
  t.is(sample(Float32Array.from(LOGITS), greedy, NONE, new MersenneTwister(1)), 1);
  t.is(sample(Float32Array.of(3, 7, 7), greedy, NONE, new MersenneTwister(1)), 1);
});

test('tokens are drawn with their probabilities, flattened by temperature', (t) => {
  t.true(near(frequencies(LOGITS, FREE), softmax(LOGITS)));
  t.true(near(frequencies(LOGITS, { ...FREE, temperature: 2 }), softmax(LOGITS, 2)));
});

test('top-k keeps the k most likely, and ties of the last of them', (t) => {
  const [a, b, c, d, e] = frequencies(LOGITS, { ...FREE, topK: 2 });
  t.deepEqual([a, c, e], [0, 0, 0]);
  t.true(near([b!, d!], softmax([2, 1.2])));
  t.true(
    frequencies([1, 1, 1, 0], { ...FREE, topK: 2 })
      .slice(0, 3)
      .every((frequency) => frequency > 0.3),
  );
});

test('top-p keeps the most likely tokens up to the one that reaches p', (t) => {
  // Probabilities 0.55, 0.25, 0.12 …: 0.6 is reached by the second.
  const [a, b, c, d, e] = frequencies(LOGITS, { ...FREE, topP: 0.6 });
  t.deepEqual([a, c, e], [0, 0, 0]);
  t.true(near([b!, d!], softmax([2, 1.2])));
  t.deepEqual(frequencies(LOGITS, { ...FREE, topP: 0.01 }), [0, 1, 0, 0, 0]);
});

test('the repetition penalty divides positive and multiplies negative logits of tokens that occurred', (t) => {
  const penalized = frequencies([2, -1, 0.5], { ...FREE, repetitionPenalty: 2 }, 20_000, new Set([0, 1, 99]));
  t.true(near(penalized, softmax([1, -2, 0.5])));
});

test('one seed draws one sequence', (t) => {
  const draw = (seed: number) => {
    const random = new MersenneTwister(seed);
    return Array.from({ length: 50 }, () => sample(Float32Array.from(LOGITS), FREE, NONE, random));
  };
  t.deepEqual(draw(3), draw(3));
  t.notDeepEqual(draw(3), draw(4));
});
