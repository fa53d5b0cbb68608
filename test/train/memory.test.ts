/** What a memory limit makes of a training step on the CPU (`limits.ts`), and micro-batches at the edge. */
import test from 'ava';
import { plan } from '../../lib/index.js';
import { type Addon, wrapAddon } from '../../lib/native.js';
import { batch, checkLimits, withStep } from './limits.js';
import { shortRun, temporaryFolder } from './support.js';

test.serial('a limit recomputes block after block, no more than it must, and changes no bit of a gradient', (t) =>
  checkLimits(t, 'cpu'),
);

test.serial('an embedding table that is the output head cannot stay on the host', async (t) => {
  const options = shortRun(temporaryFolder(t), { embeddingOnHost: true });
  await t.throwsAsync(plan(options), {
    code: 'ERR_USAGE',
    message: /^--embedding-on-host: the output head of .* is the embedding table/,
  });
});

test.serial('a micro-batch without any target has no loss and leaves the gradients as they were', async (t) => {
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

test.serial('memory that is gone when it is wanted is told with the plan, and nothing is kept', async (t) => {
  let [taken, released] = [0, 0];
  let before: Addon | undefined;
  wrapAddon((real) => {
    before = real;
    return {
      ...real,
      allocate: (bytes, device) => {
        if (bytes > 1 << 20 && taken >= 3) {
          throw Object.assign(new Error('cannot allocate: 1.0 MiB are free'), { code: 'ERR_OUT_OF_MEMORY' });
        }
        taken += 1;
        return real.allocate(bytes, device);
      },
      release: (storage) => {
        released += 1;
        real.release(storage);
      },
    };
  });
  try {
    await t.throwsAsync(
      withStep('cpu', undefined, async () => {}),
      {
        code: 'ERR_OUT_OF_MEMORY',
        message:
          /^cannot allocate: 1\.0 MiB are free; the plan is \d+ MiB in all \(weights \d+ MiB, activations \d+ MiB\)\. .*--memory/,
      },
    );
    t.true(released >= taken - 1, `${taken} taken, ${released} released`);
  } finally {
    wrapAddon(() => before!);
  }
});
