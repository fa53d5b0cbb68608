/** What a memory limit makes of a training step on the CPU (`limits.ts`), and micro-batches at the edge. */
import test from 'ava';
import { plan } from '../../lib/index.js';
import { batch, checkLimits, withStep } from './limits.js';
import { shortRun, temporaryFolder } from './support.js';

test('a limit recomputes block after block, no more than it must, and changes no bit of a gradient', (t) =>
  checkLimits(t, 'cpu'));

test('an embedding table that is the output head cannot stay on the host', async (t) => {
  const options = shortRun(temporaryFolder(t), { embeddingOnHost: true });
  await t.throwsAsync(plan(options), {
    code: 'ERR_USAGE',
    message: /^--embedding-on-host: the output head of .* is the embedding table/,
  });
});

test('a micro-batch without any target has no loss and leaves the gradients as they were', async (t) => {
  await withStep('cpu', undefined, async (step, names) => {
    await step.microStep(batch(0), 0.05, [1, 1]);
    for (const name of names)
      t.true(
        step.readGradient(name).every((value) => value === 0),
        name,
      );
    t.is(await step.evaluate(batch(0), 1), 0);
    await step.microStep(batch(1), 0.05, [1, 2]);
    t.true(names.some((name) => step.readGradient(name).some((value) => value !== 0)));
  });
});
