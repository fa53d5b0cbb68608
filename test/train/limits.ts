/** What a memory limit makes of a training step: as little recomputed as fits, and the same bits whatever it is. */
import type { ExecutionContext } from 'ava';
import { newAdapters } from '../../lib/models/adapters.js';
import { FrozenWeights } from '../../lib/models/frozen_weights.js';
import { ModelFolder } from '../../lib/models/model_folder.js';
import type { Device } from '../../lib/native.js';
import type { ActivationDType } from '../../lib/ops/builder.js';
import { MersenneTwister } from '../../lib/random.js';
import type { MicroBatch } from '../../lib/train/micro_batch.js';
import { OptimizerLayout } from '../../lib/train/optimizer.js';
import { TrainingStep } from '../../lib/train/training_step.js';
import { MODEL } from './support.js';

const TOKENS = 40;

export function batch(every: number): MicroBatch {
  const ids = Int32Array.from({ length: TOKENS }, (_, i) => (i * 37) % 400);
  return {
    ids,
    targets: ids.map((id, i) => (every > 0 && i % every === 0 ? (id + 11) % 400 : -100)),
    positions: Int32Array.from({ length: 3 * TOKENS }, (_, i) => (i % TOKENS) % 25),
    bounds: Int32Array.of(0, 25, TOKENS),
  };
}

/** A step in 4 bits with adapters and dropout, under a limit of bytes, in F32 unless told otherwise. */
export async function withStep<T>(
  device: Device,
  limit: number | undefined,
  use: (step: TrainingStep, names: readonly string[]) => Promise<T>,
  dtype: ActivationDType = 'f32',
): Promise<T> {
  const folder = await ModelFolder.open(MODEL);
  const lora = { r: 4, alpha: 8, dropout: 0.25, useRslora: false, targetModules: ['q_proj', 'o_proj', 'gate_proj', 'down_proj'] };
  const trainables = newAdapters(folder.spec, lora);
  const frozen = new FrozenWeights(folder, {
    device,
    dtype,
    loadIn4bit: true,
    doubleQuant: true,
    skip: () => false,
  });
  const step = new TrainingStep(folder.spec, frozen, trainables, new OptimizerLayout(trainables.layout, 'adamw_torch'), {
    dtype,
    device,
    maxTokens: TOKENS,
    maxSequences: 2,
    maxGradNorm: 1,
    gradientCheckpointing: false,
    ...(limit !== undefined && { memoryLimit: { bytes: limit, name: 'the limit', remedy: () => 'raise it' } }),
  });
  try {
    await frozen.load();
    step.allocate();
    const random = new MersenneTwister(5);
    const names = trainables.layout.parameters.map(({ name }) => name);
    for (const { name, numel } of trainables.layout.parameters)
      step.writeParameter(
        name,
        Float32Array.from({ length: numel }, () => (random.uniform() - 0.5) * 0.2),
      );
    return await use(step, names);
  } finally {
    step.release();
    frozen.release();
    folder.close();
  }
}

async function gradients(step: TrainingStep, names: readonly string[]): Promise<Map<string, Float32Array>> {
  await step.microStep(batch(2), 0.05, [3, 1]);
  await step.microStep(batch(0), 0.05, [3, 2]);
  await step.microStep(batch(1), 0.05, [3, 3]);
  return new Map(names.map((name) => [name, step.readGradient(name)]));
}

/** A limit recomputes block after block, no more than it must, and changes no bit of a gradient. */
export async function checkLimits(t: ExecutionContext, device: Device): Promise<void> {
  const free = await withStep(device, undefined, async (step, names) => ({
    memory: step.memory,
    gradients: await gradients(step, names),
  }));
  t.is(free.memory.recompute, 'none');
  const { of } = free.memory.recomputedBlocks;
  t.is(of, 2 * 3 + 1); // three layers and the last norm
  const error = await t.throwsAsync(
    withStep(device, 1, () => Promise.resolve()),
    { code: 'ERR_OUT_OF_MEMORY' },
  );
  t.regex(
    error?.message ?? '',
    /^the limit: the least that trains this is \d+ MiB .*Not even 64 tokens a micro-step fit \(now 40\): .*, or raise it\.$/,
  );

  const seen = new Set<string>();
  let last = free.memory.total;
  for (let round = 0; round < 3 * of; round++) {
    const limit = last - 1;
    const result = await withStep(device, limit, async (step, names) => ({
      memory: step.memory,
      gradients: await gradients(step, names),
    })).catch((failure: Error & { code?: string }) => {
      if (failure.code === 'ERR_OUT_OF_MEMORY') return undefined;
      throw failure;
    });
    if (!result) break;
    const { elementwise, layers, host } = result.memory.recomputedBlocks;
    t.true(result.memory.total <= limit);
    t.true(elementwise + layers + host <= of);
    seen.add(`${elementwise} ${layers} ${host}`);
    for (const [name, gradient] of free.gradients)
      t.deepEqual(result.gradients.get(name), gradient, `${elementwise}, ${layers} and ${host} blocks: ${name}`);
    last = result.memory.total;
  }
  t.true(seen.size >= 4, `settings seen: ${[...seen].join(', ')}`);
  t.true(
    [...seen].some((setting) => setting.split(' ')[1] !== '0'),
    'whole blocks were made again',
  );
}
