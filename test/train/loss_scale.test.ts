/** The loss scale of float16: its own logic; and, on a GPU in name only (which computes in bf16 instead), what a training step and a run do with it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type TrainEvent, train } from '../../lib/index.js';
import { OPTIMIZER_FILE } from '../../lib/train/checkpoint.js';
import { LossScale } from '../../lib/train/loss_scale.js';
import type { OptimizerHyper } from '../../lib/train/optimizer.js';
import { TrainingStep } from '../../lib/train/training_step.js';
import { fakeGpu } from '../fake_gpu.js';
import { batch, withStep } from './limits.js';
import { checkOverflow, HYPER, parameters } from './overflow.js';
import { checkResumed, shortRun, temporaryFolder } from './support.js';

test.before(() => void fakeGpu());

test('it starts at 65536, halves where a norm is not finite, and doubles after 2000 updates in a row', (t) => {
  const scale = new LossScale();
  t.deepEqual(scale.state, { scale: 65_536, made: 0, skipped: 0 });
  t.false(scale.record(Number.POSITIVE_INFINITY));
  t.false(scale.record(Number.NaN));
  t.deepEqual(scale.state, { scale: 16_384, made: 0, skipped: 2 });
  for (let i = 0; i < 1999; i++) t.true(scale.record(1));
  t.deepEqual(scale.state, { scale: 16_384, made: 1999, skipped: 2 });
  t.true(scale.record(0));
  t.deepEqual(scale.state, { scale: 32_768, made: 0, skipped: 2 });
  for (let i = 0; i < 1999; i++) scale.record(1);
  scale.record(Number.POSITIVE_INFINITY);
  t.deepEqual(scale.state, { scale: 16_384, made: 0, skipped: 3 }, 'not in a row');
});

test('it does not grow past 2^64, and is exhausted where it is not the reason any more', (t) => {
  const scale = new LossScale();
  scale.state = { scale: 2 ** 64, made: 1999, skipped: 0 };
  t.true(scale.record(1));
  t.deepEqual(scale.state, { scale: 2 ** 64, made: 0, skipped: 0 });
  scale.state = { scale: 2 ** -12, made: 0, skipped: 28 };
  t.false(scale.isExhausted);
  scale.record(Number.NaN);
  t.false(scale.isExhausted);
  scale.record(Number.NaN);
  t.true(scale.isExhausted);
});

test.serial('the scale changes no bit of loss, gradients and parameters where nothing is lost or too large', async (t) => {
  const run = (scale: number) =>
    withStep(
      'cuda',
      undefined,
      async (step, names) => {
        step.scaler!.state = { scale, made: 0, skipped: 0 };
        await step.microStep(batch(2), 0.05, [3, 1]);
        await step.microStep(batch(1), 0.05, [3, 2]);
        const gradients = names.map((name) => step.readGradient(name));
        const { loss, gradNorm } = await step.update(HYPER);
        const evaluated = await step.evaluate(batch(1), 0.05);
        return { gradients, loss, gradNorm, evaluated, parameters: parameters(step, names) };
      },
      'f16',
    );
  const [plain, scaled] = [await run(1), await run(2 ** 16)];
  t.true(plain.gradNorm > 0 && plain.loss > 0);
  t.deepEqual(scaled, plain);
});

test.serial('an update whose gradient is too large changes nothing but the scale, and the next one goes on', (t) =>
  checkOverflow(t, 'cuda'),
);

test.serial('a run in float16 logs its scale and what was skipped', async (t) => {
  const events: TrainEvent[] = [];
  const options = shortRun(join(temporaryFolder(t), 'run'), {
    device: 'cuda',
    dtype: 'float16',
    maxSteps: 3,
    saveStrategy: 'no',
  });
  const { logHistory } = await train(options, { onEvent: (event) => void events.push(event) });
  const steps = events.filter((event) => event.event === 'step');
  t.is(steps.length, 3);
  for (const event of steps) t.like(event, { loss_scale: 65_536, skipped_steps: 0 });
  for (const entry of logHistory) t.like(entry, { loss_scale: 65_536, skipped_steps: 0 });
  t.like(events.at(-1), { event: 'end', skipped_steps: 0 });
});

test.serial('a run in float16 that is stopped goes on from its checkpoint, scale and all, to the same bytes', (t) =>
  checkResumed(t, { device: 'cuda', dtype: 'float16', maxSteps: 6, saveSteps: 3 }),
);

/** Updates whose gradients are too large, by their numbers from 1 on, in place of what they would be. Hears of each update's settings. */
function withOverflow(t: ExecutionContext, at: readonly number[], settings: OptimizerHyper[]): void {
  const { update } = TrainingStep.prototype;
  t.teardown(() => {
    TrainingStep.prototype.update = update;
  });
  TrainingStep.prototype.update = async function (hyper) {
    settings.push(hyper);
    if (!at.includes(settings.length)) return await update.call(this, hyper);
    this.scaler!.record(Number.NaN);
    return { loss: 2, gradNorm: Number.NaN };
  };
}

test.serial(
  'where updates are skipped, the learning rate and the optimizer wait, and no log has a number that is none',
  async (t) => {
    const settings: OptimizerHyper[] = [];
    withOverflow(t, [1, 2, 4], settings);
    const steps: Extract<TrainEvent, { event: 'step' }>[] = [];
    const outputDir = join(temporaryFolder(t), 'run');
    const options = { device: 'cuda', dtype: 'float16', lrSchedulerType: 'linear', maxSteps: 6, saveSteps: 6 } as const;
    const { logHistory } = await train(shortRun(outputDir, options), {
      onEvent: (event) => event.event === 'step' && steps.push(event),
    });
    t.deepEqual(
      settings.map(({ step }) => step),
      [1, 1, 1, 2, 2, 3],
    );
    t.deepEqual(
      settings.map(({ learningRate }) => learningRate),
      steps.map((event) => event.learning_rate),
    );
    t.is(new Set(settings.map(({ learningRate }) => learningRate)).size, 3);
    t.deepEqual(
      steps.map((event) => event.loss_scale! / 2 ** 13),
      [4, 2, 2, 1, 1, 1],
    );
    t.deepEqual(
      steps.map((event) => event.skipped_steps),
      [1, 2, 2, 3, 3, 3],
    );
    t.deepEqual(
      logHistory.map((entry) => 'grad_norm' in entry),
      [false, false, true, false, true, true],
    );
    for (const entry of logHistory) for (const value of Object.values(entry)) t.true(Number.isFinite(value));
  },
);

test.serial('gradients that are too large at any scale end the run', async (t) => {
  withOverflow(
    t,
    Array.from({ length: 40 }, (_, i) => i + 1),
    [],
  );
  const options = { device: 'cuda', dtype: 'float16', maxSteps: 40, saveStrategy: 'no' } as const;
  const error = await t.throwsAsync(train(shortRun(join(temporaryFolder(t), 'run'), options)), { code: 'ERR_NAN' });
  t.regex(error?.message ?? '', /^step 30: loss is 2, gradient norm is NaN \(learning rate .*, loss scale 0\.00006/);
});

test.serial('a scale that is none in a checkpoint is refused', async (t) => {
  const outputDir = join(temporaryFolder(t), 'run');
  const options = { device: 'cuda', dtype: 'float16', saveSteps: 2 } as const;
  await train(shortRun(outputDir, { ...options, maxSteps: 2 }));
  const file = join(outputDir, 'checkpoint-2', OPTIMIZER_FILE);
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, { data_offsets: [number, number] }>;
  bytes.writeFloatLE(Number.NaN, 8 + length + header.loss_scale!.data_offsets[0]);
  writeFileSync(file, bytes);
  await t.throwsAsync(train(shortRun(outputDir, { ...options, maxSteps: 4, resumeFromCheckpoint: true })), {
    code: 'ERR_BAD_CHECKPOINT',
    message: /optimizer\.safetensors: tensor loss_scale: expected a scale and two counts, found NaN/,
  });
});
