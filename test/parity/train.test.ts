/**
 * Whole runs of the trainer against transformers + PEFT over the same rows (`train_parity.py`): loss within 1e-5 before the weights
 * have moved and within 1e-3 after 20 updates, counts exactly, and the same weights at the end.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import test from 'ava';

import { type TrainEvent, train } from '../../lib/index.js';
import { distance, MODEL, PARITY, readFloats, readJson, relative, type Trace } from './fixtures.js';

const FIRST_LOSS = 1e-5;
const LATER_LOSS = 1e-3;
const FIRST_NORM = 1e-4;
const LATER_NORM = 1e-3;
/** How far a tensor may lie from the reference after the run, relative to its own norm. */
const WEIGHTS = 1e-3;

const FINAL: Readonly<Record<string, { readonly expected: string; readonly written: string }>> = {
  'lora-chat': { expected: 'adapter-final/adapter_model.safetensors', written: 'adapter_model.safetensors' },
  'lora-plain': { expected: 'lora-plain.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-micro-batches': { expected: 'lora-micro-batches.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-4bit': { expected: 'lora-4bit.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-rslora': { expected: 'lora-rslora.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-8bit-adamw': { expected: 'lora-8bit-adamw.final.safetensors', written: 'adapter_model.safetensors' },
  full: { expected: 'full.final.safetensors', written: 'model.safetensors' },
};

for (const [name, { expected, written }] of Object.entries(FINAL)) {
  test(`each update of ${name}, and the weights at its end, are those of transformers and PEFT`, async (t) => {
    const { options, steps } = readJson<Trace>(`${name}.json`);
    const { adapter, ...settings } = options;
    const outputDir = mkdtempSync(join(tmpdir(), 'vltune-parity-'));
    t.teardown(() => rmSync(outputDir, { recursive: true, force: true }));
    const seen: Extract<TrainEvent, { event: 'step' }>[] = [];
    await train(
      {
        ...settings,
        model: MODEL,
        dataset: [join(PARITY, 'messages.jsonl')],
        outputDir,
        saveStrategy: 'no',
        ...(adapter === undefined ? {} : { adapter: join(PARITY, adapter) }),
      },
      { onEvent: (event) => event.event === 'step' && seen.push(event) },
    );

    t.is(seen.length, steps.length);
    for (const [i, want] of steps.entries()) {
      const got = seen[i]!;
      t.is(got.step, want.step);
      t.is(got.num_tokens, want.num_tokens, `update ${want.step}: num_tokens`);
      t.is(got.num_target_tokens, want.num_target_tokens, `update ${want.step}: num_target_tokens`);
      t.true(Math.abs(got.epoch - want.epoch) < 1e-9, `update ${want.step}: epoch ${got.epoch}, expected ${want.epoch}`);
      t.true(
        Math.abs(got.learning_rate - want.learning_rate) < 1e-12,
        `update ${want.step}: learning rate ${got.learning_rate}, expected ${want.learning_rate}`,
      );
      // Until an update with a learning rate above 0 the weights are those of the start.
      const moved = steps.slice(0, i).some((before) => before.learning_rate > 0);
      const loss = relative(got.loss, want.loss);
      t.true(
        loss < (moved ? LATER_LOSS : FIRST_LOSS),
        `update ${want.step}: loss ${got.loss}, expected ${want.loss} (${loss.toExponential(1)})`,
      );
      const norm = relative(got.grad_norm, want.grad_norm);
      t.true(
        norm < (moved ? LATER_NORM : FIRST_NORM),
        `update ${want.step}: norm ${got.grad_norm}, expected ${want.grad_norm} (${norm.toExponential(1)})`,
      );
    }

    const final = await readFloats(join(outputDir, written));
    let worst = 0;
    for (const [tensor, values] of await readFloats(join(PARITY, expected))) {
      t.true(final.has(tensor), `${tensor} is missing`);
      const apart = distance(final.get(tensor)!, values);
      worst = Math.max(worst, apart);
      t.true(apart < WEIGHTS, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
    }
    const last = steps.length - 1;
    t.log(
      `loss after ${steps.length} updates ${relative(seen[last]!.loss, steps[last]!.loss).toExponential(1)} apart, weights up to ${worst.toExponential(1)}`,
    );
  });
}
