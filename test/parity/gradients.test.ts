/**
 * Loss and the gradient of every parameter for the first update, against transformers + PEFT (`train_parity.py`): each tensor
 * within 1e-4 of its norm in F32; in bf16 no further from F32 than 1.25 times transformers' own bf16.
 */
import { join } from 'node:path';

import test from 'ava';

import {
  checkBf16Gradients,
  checkBf16Losses,
  checkFirstUpdate,
  firstUpdate,
  GRADIENT_BOUND,
  LOSS_BOUND,
  microBatch,
  targetsOf,
  withStep,
} from './first_update.js';
import { distance, PARITY, readFloats, readJson, relative, rowsOf, type Trace, type TraceOptions } from './fixtures.js';

test('temporal, height and width positions turn the parts of a head that are theirs in transformers', async (t) => {
  const { options, row, positions, loss } = readJson<{ options: TraceOptions; row: number; positions: number[][]; loss: number }>(
    'positions.json',
  );
  const expected = await readFloats(join(PARITY, 'positions.gradients.safetensors'));
  const rows = [rowsOf({ options })[row]!];
  await withStep(options, {}, async (step) => {
    const batch = { ...microBatch(rows), positions: Int32Array.from(positions.flat()) };
    const got = await step.evaluate(batch, 1 / targetsOf(rows));
    t.true(relative(got, loss) < LOSS_BOUND, `loss ${got}, expected ${loss}`);
    await step.microStep(batch, 1 / targetsOf(rows), [0, 0]);
    for (const [tensor, gradient] of expected) {
      const apart = distance(step.readGradient(tensor.replace('base_model.model.', '')), gradient);
      t.true(apart < GRADIENT_BOUND, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
    }
  });
});

const TRACES = [
  'lora-chat',
  'lora-plain',
  'lora-micro-batches',
  'lora-4bit',
  'lora-rslora',
  'lora-8bit-adamw',
  'lora-other-settings',
  'lora-long',
  'full',
  'full-untied',
  'full-bias',
];

for (const name of TRACES) {
  test(`loss and gradients of the first update of ${name} are those of transformers and PEFT`, (t) => checkFirstUpdate(t, name));
}

test('rows packed into one batch have the gradients of padded batches: no row sees another', async (t) => {
  const trace = readJson<Trace>('lora-chat.json');
  const { steps } = trace;
  const expected = await readFloats(join(PARITY, 'lora-chat.gradients.safetensors'));
  const pass = await firstUpdate(trace, steps[0]!.rows, { packed: true });
  t.true(relative(pass.loss, steps[0]!.loss) < LOSS_BOUND);
  for (const [tensor, gradient] of expected) {
    const apart = distance(pass.gradients.get(tensor)!, gradient);
    t.true(apart < GRADIENT_BOUND, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
  }
});

for (const name of ['lora-chat', 'lora-long', 'full']) {
  test(`recomputed activations give the same bits: ${name}`, async (t) => {
    const trace = readJson<Trace>(`${name}.json`);
    const { rows } = trace.steps[0]!;
    const kept = await firstUpdate(trace, rows);
    const recomputed = await firstUpdate(trace, rows, { gradientCheckpointing: true });
    t.is(recomputed.loss, kept.loss);
    for (const [tensor, gradient] of kept.gradients) t.deepEqual(recomputed.gradients.get(tensor), gradient, tensor);
  });
}

test('in bf16, losses are no further from F32 than 1.25 times those of transformers', (t) => checkBf16Losses(t, 'cpu'));

test('in bf16, gradients are no further from F32 than 1.25 times those of transformers', (t) => checkBf16Gradients(t, 'cpu'));
