import { readFileSync } from 'node:fs';
import test from 'ava';
import {
  epochAfter,
  learningRate,
  type Schedule,
  totalUpdates,
  updatesPerEpoch,
  warmupUpdates,
} from '../../lib/train/schedule.js';

interface Case extends Schedule {
  readonly rates: readonly number[];
}
const cases = JSON.parse(readFileSync('test/fixtures/train/schedule.json', 'utf8')) as Case[];

test('every learning rate is that of transformers, for each type, total and warm-up', (t) => {
  t.true(cases.length >= 28);
  for (const { rates, ...schedule } of cases) {
    rates.forEach((expected, step) => {
      const rate = learningRate(step, schedule);
      const where = `${schedule.type}, total ${schedule.total}, warm-up ${schedule.warmup}, step ${step}: ${rate} for ${expected}`;
      t.true(Math.abs(rate - expected) <= 1e-15 * schedule.base, where);
    });
  }
});

test('updates of an epoch count a partial accumulation, and a run has at least one', (t) => {
  t.is(updatesPerEpoch(4, 3), 2);
  t.is(updatesPerEpoch(3, 3), 1);
  t.is(updatesPerEpoch(0, 3), 1);
  t.is(updatesPerEpoch(1, 8), 1);
});

test('7 rows, batch 2, accumulation 3, 2 epochs are 4 updates; max-steps goes before epochs', (t) => {
  const perEpoch = updatesPerEpoch(4, 3);
  t.is(totalUpdates({ maxSteps: -1, numTrainEpochs: 2 }, perEpoch), 4);
  t.is(totalUpdates({ maxSteps: 3, numTrainEpochs: 2 }, perEpoch), 3);
  t.is(totalUpdates({ maxSteps: -1, numTrainEpochs: 0.3 }, 10), 3);
});

test('warm-up is a count of updates, or a fraction of all rounded up', (t) => {
  t.is(warmupUpdates({ warmupSteps: 5, warmupRatio: 0 }, 100), 5);
  t.is(warmupUpdates({ warmupSteps: 0.03, warmupRatio: 0 }, 101), 4);
  t.is(warmupUpdates({ warmupSteps: 0, warmupRatio: 0.1 }, 25), 3);
  t.is(warmupUpdates({ warmupSteps: 0, warmupRatio: 0 }, 25), 0);
});

test('the logged epoch is the share of micro-batches seen', (t) => {
  t.is(epochAfter(1, 4, 3), 0.75);
  t.is(epochAfter(2, 4, 3), 1);
  t.is(epochAfter(3, 4, 3), 1.75);
  t.is(epochAfter(4, 4, 3), 2);
});
