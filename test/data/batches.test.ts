import test from 'ava';
import fc from 'fast-check';
import { BatchPlan, type BatchPlanOptions, buildBatch } from '../../lib/data/batches.js';
import { randperm } from '../../lib/data/order.js';
import type { RowSource } from '../../lib/data/token_dataset.js';
import { IGNORE_INDEX } from '../../lib/ops/linear_cross_entropy.js';

/** Rows whose token i of row r has id 1000·r + i, with labels on the odd ones. */
function source(lengths: readonly number[]): RowSource {
  const labels = (row: number): Int32Array =>
    Int32Array.from({ length: lengths[row]! }, (_, i) => (i % 2 === 1 ? 1000 * row + i : IGNORE_INDEX));
  return {
    size: lengths.length,
    lengths: Int32Array.from(lengths),
    targetCounts: Int32Array.from(lengths, (_, row) => labels(row).filter((label, i) => i > 0 && label !== IGNORE_INDEX).length),
    read: (row) => ({ ids: Int32Array.from({ length: lengths[row]! }, (_, i) => 1000 * row + i), targets: labels(row) }),
  };
}

function options(more: Partial<BatchPlanOptions> = {}): BatchPlanOptions {
  return { batchSize: 2, maxLength: 16, gradientAccumulationSteps: 3, packing: true, shuffle: true, seed: 7, ...more };
}

const someLengths = fc.array(fc.integer({ min: 1, max: 16 }), { minLength: 1, maxLength: 60 });
const someOptions = fc.record({
  batchSize: fc.integer({ min: 1, max: 4 }),
  maxLength: fc.constant(16),
  gradientAccumulationSteps: fc.integer({ min: 1, max: 5 }),
  packing: fc.boolean(),
  shuffle: fc.boolean(),
  seed: fc.nat(),
});

test('a batch is its rows side by side, each predicting its own next token', (t) => {
  const batch = buildBatch(source([3, 1, 4]), [2, 0, 1]);
  t.deepEqual(batch, {
    ids: Int32Array.of(2000, 2001, 2002, 2003, 0, 1, 2, 1000),
    targets: Int32Array.of(2001, IGNORE_INDEX, 2003, IGNORE_INDEX, 1, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX),
    positions: Int32Array.of(0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 2, 0),
    bounds: Int32Array.of(0, 4, 7, 8),
    numTokens: 8,
    numTargets: 3,
    maxRow: 4,
    media: [],
  });
});

test('every epoch holds every row once, in every kind of plan', (t) => {
  fc.assert(
    fc.property(someLengths, someOptions, fc.nat(3), (lengths, chosen, epoch) => {
      const plan = new BatchPlan(source(lengths), chosen);
      const batches = plan.microBatches(epoch);
      t.is(batches.length, plan.microBatchesPerEpoch);
      t.deepEqual(
        batches.flatMap((rows) => [...rows]).sort((a, b) => a - b),
        [...lengths.keys()],
      );
      for (const rows of batches) {
        const tokens = rows.reduce((sum, row) => sum + lengths[row]!, 0);
        t.true(chosen.packing ? tokens <= chosen.batchSize * chosen.maxLength : rows.length <= chosen.batchSize);
        t.true(rows.length > 0);
      }
      const again = new BatchPlan(source(lengths), chosen);
      const updates = Array.from({ length: plan.updatesPerEpoch }, (_, update) => again.update(epoch, update));
      t.deepEqual(updates.flat(), [...batches], 'updates cut the epoch without loss, and a plan made anew is the same');
      t.deepEqual(
        updates.slice(0, -1).filter((update) => update.length !== chosen.gradientAccumulationSteps),
        [],
      );
    }),
  );
});

test('no micro-batch exceeds the limits, and some micro-batch meets each', (t) => {
  fc.assert(
    fc.property(someLengths, someOptions, fc.constantFrom(0.5, 1, 3), (lengths, chosen, epochs) => {
      const plan = new BatchPlan(source(lengths), chosen);
      const limits = plan.limits(epochs);
      const batches = Array.from({ length: Math.ceil(epochs) * plan.updatesPerEpoch }, (_, u) =>
        plan.read(Math.floor(u / plan.updatesPerEpoch), u % plan.updatesPerEpoch),
      ).flat();
      t.is(Math.max(...batches.map((batch) => batch.numTokens)), limits.tokens);
      t.is(Math.max(...batches.map((batch) => batch.numTargets)), limits.targets);
      t.is(Math.max(...batches.map((batch) => batch.bounds.length - 1)), limits.rows);
      t.is(Math.max(...batches.map((batch) => batch.maxRow)), limits.rowTokens);
    }),
  );
});

test("without packing, rows follow torch's permutation of seed + epoch, and a last partial batch is kept", (t) => {
  const plan = new BatchPlan(source([1, 2, 3, 4, 5, 6, 7]), options({ packing: false, seed: 3407 }));
  for (const epoch of [0, 1])
    t.deepEqual(
      plan.microBatches(epoch).flatMap((rows) => [...rows]),
      [...randperm(7, 3407 + epoch)],
    );
  t.deepEqual(
    plan.microBatches(0).map((rows) => rows.length),
    [2, 2, 2, 1],
  );
});

test('a partial last accumulation is a full update: 7 samples, batch 2, accumulation 3, 2 epochs make 4', (t) => {
  const plan = new BatchPlan(source([1, 1, 1, 1, 1, 1, 1]), options({ packing: false }));
  t.is(2 * plan.updatesPerEpoch, 4);
  t.deepEqual([plan.update(0, 0).length, plan.update(0, 1).length], [3, 1]);
  t.is(new BatchPlan(source([1]), options({ gradientAccumulationSteps: 100 })).updatesPerEpoch, 1);
});

test('without shuffling rows keep their order, as far as packing allows', (t) => {
  const lengths = [9, 3, 16, 2, 7, 1];
  const rows = (packing: boolean): number[][] =>
    new BatchPlan(source(lengths), options({ batchSize: 1, packing, shuffle: false })).microBatches(5).map((batch) => [...batch]);
  t.deepEqual(rows(false), [[0], [1], [2], [3], [4], [5]]);
  t.deepEqual(rows(true), [[0, 4], [1, 3, 5], [2]]);
});

test('packed epochs differ in order and company, not in number or fill', (t) => {
  const lengths = Array.from({ length: 200 }, (_, i) => 1 + (i % 16));
  const plan = new BatchPlan(source(lengths), options());
  const fills = (epoch: number): number[] =>
    plan.microBatches(epoch).map((rows) => rows.reduce((sum, row) => sum + lengths[row]!, 0));
  t.deepEqual(fills(0).toSorted(), fills(1).toSorted());
  t.notDeepEqual(plan.microBatches(0), plan.microBatches(1));
  const company = (epoch: number): string =>
    plan
      .microBatches(epoch)
      .map((rows) => [...rows].sort().join())
      .sort()
      .join(';');
  t.not(company(0), company(1));
});

test('plans that cannot be are refused', (t) => {
  t.throws(() => new BatchPlan(source([]), options()), { code: 'ERR_BAD_DATA' });
  t.throws(() => new BatchPlan(source([1]), options({ batchSize: 0 })), { code: 'ERR_USAGE', message: /batchSize: .* got 0/ });
  t.throws(() => new BatchPlan(source([1]), options({ gradientAccumulationSteps: 1.5 })), { code: 'ERR_USAGE' });
  t.throws(() => new BatchPlan(source([1]), options()).update(0, 1), { code: 'ERR_ARGUMENT' });
});
