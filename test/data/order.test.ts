import { createHash } from 'node:crypto';
import test from 'ava';
import { identity, randperm } from '../../lib/data/order.js';
import { readJson } from './fixtures.js';

interface Case {
  readonly n: number;
  readonly seed: number;
  readonly sha256: string;
  readonly head: readonly number[];
}

for (const { n, seed, sha256, head } of readJson<Case[]>('permutations.json')) {
  test(`randperm(${n}) with seed ${seed} is torch's`, (t) => {
    const order = randperm(n, seed);
    t.deepEqual([...order.subarray(0, 8)], [...head]);
    t.is(createHash('sha256').update(new Uint8Array(order.buffer)).digest('hex'), sha256);
  });
}

test('no rows and no shuffling are plain', (t) => {
  t.deepEqual(randperm(0, 1), new Int32Array(0));
  t.deepEqual(identity(4), Int32Array.of(0, 1, 2, 3));
});
