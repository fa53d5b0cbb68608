/** The first update of a trace on a device, and what it is held to. */
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { ACTIVATIONS } from '../../lib/dtype.js';
import { adaptersOf } from '../../lib/models/adapters.js';
import { FrozenWeights } from '../../lib/models/frozen_weights.js';
import { ModelFolder } from '../../lib/models/model_folder.js';
import { loraName, Trainables } from '../../lib/models/trainables.js';
import type { Device } from '../../lib/native.js';
import type { MicroBatch } from '../../lib/train/micro_batch.js';
import { OptimizerLayout } from '../../lib/train/optimizer.js';
import { TrainingStep } from '../../lib/train/training_step.js';
import { readAdapter } from '../../lib/weights/lora.js';
import {
  distance,
  type EncodedRow,
  FIXTURES,
  MODEL,
  PARITY,
  readFloats,
  readJson,
  relative,
  rowsOf,
  type Trace,
  type TraceOptions,
} from './fixtures.js';

export const GRADIENT_BOUND = 1e-4;
export const LOSS_BOUND = 1e-5;
const BF16_FACTOR = 1.25;
const MAX_TOKENS = 4096;

/** Rows side by side, as the trainer lays them. */
export function microBatch(rows: readonly EncodedRow[]): MicroBatch {
  const ids = rows.flatMap((row) => row.ids);
  const bounds = [0];
  const positions: number[] = [];
  const targets: number[] = [];
  for (const row of rows) {
    bounds.push(bounds.at(-1)! + row.ids.length);
    for (const i of row.ids.keys()) {
      const next = i + 1;
      positions.push(i);
      targets.push(row.targets.some(([first, end]) => first <= next && next < end) ? row.ids[next]! : -100);
    }
  }
  return {
    ids: Int32Array.from(ids),
    targets: Int32Array.from(targets),
    positions: Int32Array.from([...positions, ...positions, ...positions]),
    bounds: Int32Array.from(bounds),
  };
}

export function targetsOf(rows: readonly EncodedRow[]): number {
  return rows.reduce((sum, row) => sum + row.targets.reduce((spans, [first, end]) => spans + end - first, 0), 0);
}

export interface Pass {
  readonly loss: number;
  readonly gradNorm: number;
  /** By the names PEFT or the checkpoint gives them. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** What a test may vary beyond a trace's own options. */
export interface Variation {
  /** All rows of the update in one packed micro-batch. */
  readonly packed?: boolean;
  readonly gradientCheckpointing?: boolean;
  /** Default: the CPU. */
  readonly device?: Device;
}

/** Opens the model as a trace says and runs `use` on its training step. */
export async function withStep<T>(
  options: TraceOptions,
  variation: Variation,
  use: (step: TrainingStep, trainables: Trainables) => Promise<T>,
): Promise<T> {
  const model = options.model === undefined ? MODEL : join(FIXTURES, options.model);
  const folder = await ModelFolder.open(model);
  const adapter = options.adapter === undefined ? undefined : await readAdapter(join(PARITY, options.adapter));
  const trainables = adapter ? adaptersOf(folder.spec, adapter, 0) : Trainables.full(folder.spec);
  const { device = 'cpu' } = variation;
  const dtype = ACTIVATIONS[options.dtype];
  const skip = (name: string) => trainables.layout.get(name) !== undefined;
  const frozen = new FrozenWeights(folder, { device, dtype, loadIn4bit: options.loadIn4bit, doubleQuant: true, skip });
  const step = new TrainingStep(folder.spec, frozen, trainables, new OptimizerLayout(trainables.layout, options.optim), {
    dtype,
    device,
    maxTokens: MAX_TOKENS,
    maxSequences: 32,
    maxGradNorm: 1,
    gradientCheckpointing: variation.gradientCheckpointing ?? false,
  });
  try {
    await frozen.load();
    step.allocate();
    if (adapter) {
      for (const [module, { a, b }] of adapter.tensors) {
        step.writeParameter(loraName(module, 'A'), a);
        step.writeParameter(loraName(module, 'B'), b);
      }
    } else {
      for (const [name, values] of await readFloats(join(model, 'model.safetensors')))
        if (skip(name)) step.writeParameter(name, values);
    }
    return await use(step, trainables);
  } finally {
    step.release();
    frozen.release();
    folder.close();
  }
}

/** The first update of a trace: gradients before the clip, then loss and norm as the update reports them. */
export function firstUpdate(
  trace: Pick<Trace, 'options' | 'tokens'>,
  batches: readonly (readonly number[])[],
  variation: Variation = {},
): Promise<Pass> {
  const { options } = trace;
  const rows = rowsOf(trace);
  const groups = (variation.packed ? [batches.flat()] : batches).map((batch) => batch.map((row) => rows[row]!));
  const total = targetsOf(groups.flat());
  return withStep(options, variation, async (step, trainables) => {
    for (const group of groups) {
      const scale = options.lossAverage === 'tokens' ? 1 / total : 1 / (targetsOf(group) * groups.length);
      await step.microStep(microBatch(group), scale, [0, 0]);
    }
    const gradients = new Map(
      trainables.layout.parameters.map(({ name }) => [
        options.adapter ? `base_model.model.${name}` : name,
        step.readGradient(name),
      ]),
    );
    const hyper = { learningRate: 0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, step: 1 };
    return { ...(await step.update(hyper)), gradients };
  });
}

/** Loss and gradients of a trace's first update, within the bounds. */
export async function checkFirstUpdate(t: ExecutionContext, name: string, variation: Variation = {}): Promise<void> {
  const trace = readJson<Trace>(`${name}.json`);
  const { steps } = trace;
  const expected = await readFloats(join(PARITY, `${name}.gradients.safetensors`));
  const pass = await firstUpdate(trace, steps[0]!.rows, variation);
  t.true(relative(pass.loss, steps[0]!.loss) < LOSS_BOUND, `loss ${pass.loss}, expected ${steps[0]!.loss}`);
  t.true(relative(pass.gradNorm, steps[0]!.grad_norm) < GRADIENT_BOUND, `norm ${pass.gradNorm}, expected ${steps[0]!.grad_norm}`);
  for (const [tensor, gradient] of expected) {
    const apart = distance(pass.gradients.get(tensor)!, gradient);
    t.true(apart < GRADIENT_BOUND, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
  }
}

interface Bf16Reference {
  readonly options: TraceOptions;
  readonly rows: readonly (readonly number[])[];
  /** Mean loss of each row in F32 over the bf16 weights. */
  readonly row_losses: readonly number[];
  readonly reference_errors: Readonly<
    Record<'bf16_model' | 'autocast', { loss_rms: number; gradient: number; gradient_of_each: Record<string, number> }>
  >;
}

/** In bf16, losses are no further from F32 than 1.25 times those of transformers. */
export async function checkBf16Losses(t: ExecutionContext, device: Device): Promise<void> {
  const { options, row_losses, reference_errors } = readJson<Bf16Reference>('lora-bf16.json');
  const rows = rowsOf({ options });
  const squares = await withStep(options, { device }, async (step) => {
    let sum = 0;
    for (const [i, row] of rows.entries())
      sum += ((await step.evaluate(microBatch([row]), 1 / targetsOf([row]))) - row_losses[i]!) ** 2;
    return sum;
  });
  const rms = Math.sqrt(squares / rows.length);
  const reference = Math.min(reference_errors.bf16_model.loss_rms, reference_errors.autocast.loss_rms);
  t.log(`rms error of the loss ${rms.toExponential(2)}, transformers ${reference.toExponential(2)}`);
  t.true(rms <= BF16_FACTOR * reference, `rms error ${rms}, transformers has ${reference}`);
}

/** In bf16, gradients are no further from F32 than 1.25 times those of transformers. */
export async function checkBf16Gradients(t: ExecutionContext, device: Device): Promise<void> {
  const { options, rows, reference_errors } = readJson<Bf16Reference>('lora-bf16.json');
  const exact = await readFloats(join(PARITY, 'lora-bf16.gradients.safetensors'));
  const { gradients } = await firstUpdate({ options }, rows, { device });
  const { bf16_model, autocast } = reference_errors;
  for (const [tensor, truth] of exact) {
    const apart = distance(gradients.get(tensor)!, truth);
    // One tensor's rounding is a draw of luck: the larger of the two ways is its measure, the whole is held to the smaller.
    const reference = Math.max(bf16_model.gradient_of_each[tensor]!, autocast.gradient_of_each[tensor]!);
    t.true(
      apart <= BF16_FACTOR * reference,
      `${tensor}: ${apart.toExponential(2)} of its norm apart, transformers ${reference.toExponential(2)}`,
    );
  }
  const whole = wholeError(gradients, exact);
  const reference = Math.min(bf16_model.gradient, autocast.gradient);
  t.log(`error of the whole gradient ${whole.toExponential(2)}, transformers ${reference.toExponential(2)}`);
  t.true(whole <= BF16_FACTOR * reference, `the whole gradient is ${whole} apart, transformers ${reference}`);
}

/**
 * In f16, weights rounded too, the loss and the gradients of a trace in F32. Roundings are an eighth of bf16's, whose error of the
 * whole gradient is 2e-2 in transformers (`lora-bf16.json`).
 */
export async function checkF16FirstUpdate(t: ExecutionContext, name: string, device: Device): Promise<void> {
  const trace = readJson<Trace>(`${name}.json`);
  const options = { ...trace.options, dtype: 'float16' } as const;
  const { rows, loss } = trace.steps[0]!;
  const pass = await firstUpdate({ ...trace, options }, rows, { device });
  const whole = wholeError(pass.gradients, await readFloats(join(PARITY, `${name}.gradients.safetensors`)));
  t.log(`loss ${relative(pass.loss, loss).toExponential(2)} apart, the whole gradient ${whole.toExponential(2)}`);
  t.true(relative(pass.loss, loss) < 2e-4, `loss ${pass.loss}, expected ${loss}`);
  t.true(whole < 6e-3, `the whole gradient is ${whole.toExponential(2)} apart`);
}

/** How far all gradients together are from the exact ones, relative to the norm of those. */
function wholeError(gradients: Pass['gradients'], exact: ReadonlyMap<string, Float32Array>): number {
  let [error, norm] = [0, 0];
  for (const [tensor, truth] of exact) {
    const squared = truth.reduce((sum, value) => sum + value ** 2, 0);
    error += distance(gradients.get(tensor)!, truth) ** 2 * squared;
    norm += squared;
  }
  return Math.sqrt(error / norm);
}
