/**
 * Whole runs of the trainer against transformers + PEFT over the same rows (`train_parity.py`): loss, gradient norm, learning rate
 * and counts of each update, and the weights at the end.
 *
 * With 32-bit optimizer state, rounding alone leaves losses 2e-7 and weights up to 5e-6 apart after 20 updates, so bounds are near
 * that. An 8-bit state moves by whole codes where two gradients differ in their last bit: there the loss may be 1e-3 apart.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { ExecutionContext } from 'ava';

import { type TrainEvent, type TrainOptions, train } from '../../lib/index.js';
import { distance, MEDIA_ROWS, MODEL, PARITY, readFloats, readJson, relative, type Trace } from './fixtures.js';

interface Bounds {
  readonly loss: number;
  readonly norm: number;
  /** Of a tensor's distance from the reference after the run, relative to its own norm. */
  readonly weights: number;
}

const BOUNDS: Readonly<Record<'adamw_torch' | 'adamw_8bit', Bounds>> = {
  adamw_torch: { loss: 1e-5, norm: 1e-4, weights: 2e-5 },
  adamw_8bit: { loss: 1e-3, norm: 1e-3, weights: 1e-3 },
};
/** Until the weights have moved. */
const FIRST: Omit<Bounds, 'weights'> = { loss: 1e-5, norm: 1e-4 };

/** The runs, and where their weights at the end lie. */
export const RUNS: Readonly<Record<string, { readonly expected: string; readonly written: string }>> = {
  'lora-chat': { expected: 'adapter-final/adapter_model.safetensors', written: 'adapter_model.safetensors' },
  'lora-plain': { expected: 'lora-plain.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-micro-batches': { expected: 'lora-micro-batches.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-4bit': { expected: 'lora-4bit.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-rslora': { expected: 'lora-rslora.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-8bit-adamw': { expected: 'lora-8bit-adamw.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-other-settings': { expected: 'lora-other-settings.final.safetensors', written: 'adapter_model.safetensors' },
  full: { expected: 'full.final.safetensors', written: 'model.safetensors' },
};

/** Runs over rows with pictures and videos (`media_train_parity.py`): adapters in the language model alone, and in the tower too. */
export const MEDIA_RUNS: typeof RUNS = {
  'lora-media': { expected: 'lora-media.final.safetensors', written: 'adapter_model.safetensors' },
  'lora-media-tower': { expected: 'lora-media-tower.final.safetensors', written: 'adapter_model.safetensors' },
};

/** Options of a run over `MEDIA_RUNS`'s rows, in a file elsewhere: its paths start at the image root. */
export function mediaRows(t: ExecutionContext): Partial<TrainOptions> {
  const folder = mkdtempSync(join(tmpdir(), 'vltune-parity-rows-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const lines = readFileSync(join(MEDIA_ROWS, 'rows.jsonl'), 'utf8').split('\n');
  const file = join(folder, 'rows.jsonl');
  // transformers would put a picture's feature in the place of a text that looks like one.
  writeFileSync(file, lines.filter((line) => !line.includes('<|image_pad|>')).join('\n'));
  return { dataset: [file], evalDataset: [file], imageRoot: MEDIA_ROWS };
}

/** Runs one of `RUNS` or `MEDIA_RUNS`, with options of the caller's own, and holds it to the trace of the same name. */
export async function checkRun(t: ExecutionContext, name: string, more: Partial<TrainOptions> = {}): Promise<void> {
  const { expected, written } = { ...RUNS, ...MEDIA_RUNS }[name]!;
  const { options, steps, eval_loss: evalLoss } = readJson<Trace>(`${name}.json`);
  const { adapter, ...settings } = options;
  const bounds = BOUNDS[options.optim];
  const outputDir = mkdtempSync(join(tmpdir(), 'vltune-parity-'));
  t.teardown(() => rmSync(outputDir, { recursive: true, force: true }));
  const seen: Extract<TrainEvent, { event: 'step' }>[] = [];
  const evaluated: number[] = [];
  await train(
    {
      ...settings,
      model: MODEL,
      dataset: [join(PARITY, 'messages.jsonl')],
      evalDataset: [join(PARITY, 'messages.jsonl')],
      evalSteps: options.maxSteps,
      outputDir,
      saveStrategy: 'no',
      ...(adapter === undefined ? {} : { adapter: join(PARITY, adapter) }),
      ...more,
    },
    {
      onEvent: (event) => {
        if (event.event === 'step') seen.push(event);
        if (event.event === 'eval') evaluated.push(event.eval_loss);
      },
    },
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
    const { loss: lossBound, norm: normBound } = moved ? bounds : FIRST;
    const loss = relative(got.loss, want.loss);
    t.true(loss < lossBound, `update ${want.step}: loss ${got.loss}, expected ${want.loss} (${loss.toExponential(1)})`);
    const norm = relative(got.grad_norm, want.grad_norm);
    t.true(norm < normBound, `update ${want.step}: norm ${got.grad_norm}, expected ${want.grad_norm} (${norm.toExponential(1)})`);
  }

  t.is(evaluated.length, 1);
  const evaluation = relative(evaluated[0]!, evalLoss!);
  t.true(
    evaluation < bounds.loss,
    `loss of all rows at the end ${evaluated[0]}, expected ${evalLoss} (${evaluation.toExponential(1)})`,
  );

  const final = await readFloats(join(outputDir, written));
  let worst = 0;
  for (const [tensor, values] of await readFloats(join(PARITY, expected))) {
    t.true(final.has(tensor), `${tensor} is missing`);
    const apart = distance(final.get(tensor)!, values);
    worst = Math.max(worst, apart);
    t.true(apart < bounds.weights, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
  }
  const last = steps.length - 1;
  t.log(
    `loss after ${steps.length} updates ${relative(seen[last]!.loss, steps[last]!.loss).toExponential(1)} apart, weights up to ${worst.toExponential(1)}`,
  );
}
