/** What a training step in f16 does with a gradient that is too large. */
import type { ExecutionContext } from 'ava';
import type { Device } from '../../lib/native.js';
import type { OptimizerHyper } from '../../lib/train/optimizer.js';
import type { TrainingStep } from '../../lib/train/training_step.js';
import { batch, withStep } from './limits.js';

export const HYPER: OptimizerHyper = { learningRate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, step: 1 };

export function parameters(step: TrainingStep, names: readonly string[]): Map<string, Float32Array> {
  return new Map(names.map((name) => [name, step.readParameter(name)]));
}

/** The update changes nothing but the scale, and the next one goes on. */
export async function checkOverflow(t: ExecutionContext, device: Device): Promise<void> {
  const body = async (step: TrainingStep, names: readonly string[]): Promise<void> => {
    const before = parameters(step, names);
    step.scaler!.state = { scale: 2 ** 127, made: 5, skipped: 0 };
    await step.microStep(batch(1), 0.05, [3, 1]);
    const { gradNorm } = await step.update(HYPER);
    t.false(Number.isFinite(gradNorm));
    t.deepEqual(parameters(step, names), before);
    t.deepEqual(step.scaler!.state, { scale: 2 ** 126, made: 0, skipped: 1 });
    for (const name of names)
      t.true(
        step.readGradient(name).every((value) => value === 0),
        'gradients are cleared',
      );

    step.scaler!.state = { scale: 2 ** 10, made: 0, skipped: 1 };
    await step.microStep(batch(1), 0.05, [3, 1]);
    t.true(Number.isFinite((await step.update(HYPER)).gradNorm));
    t.notDeepEqual(parameters(step, names), before);
  };
  await withStep(device, undefined, body, 'f16');
}
