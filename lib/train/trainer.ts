/** `train` and `plan`: a run is opened and checked, trained and closed, or only planned. */
import { mkdir, rmdir } from 'node:fs/promises';
import { openDevice } from '../device.js';
import { ensureEmptyOutput } from '../files.js';
import type { Device } from '../native.js';
import { resolveTrainArgs, type TrainArgs, type TrainOptions } from './args.js';
import { checkpointToResume, checkSameRun, removeCheckpoints, sweepOutput } from './checkpoint.js';
import { EventLog } from './event_log.js';
import { TensorBoardReport } from './report.js';
import { closeRun, identityOf, openRun, type RunHooks } from './run.js';
import type { MemoryPlan } from './step_plan.js';
import type { TrainEvent } from './train_events.js';
import { type LoopHooks, TrainingLoop, type TrainResult } from './training_loop.js';
import { initializeParameters, restoreState } from './weights_on_disk.js';

export interface TrainHooks extends LoopHooks {
  /** Hears of bytes of weights loaded, and in all. */
  readonly onLoad?: ((done: number, total: number) => void) | undefined;
}

/**
 * Trains. The adapter (with full fine-tuning: the model) lies in `outputDir` at the end, checkpoints in `checkpoint-N` in it.
 * When `signal` aborts, a checkpoint of the last whole update is saved before the promise rejects with ERR_CANCELLED.
 * Rejects with ERR_NAN, naming the step, if the loss or the gradient norm is not finite; checkpoints are kept. In float16 an update whose
 * gradient norm is not finite is skipped, as in torch.amp, unless that is so at any loss scale.
 */
export async function train(options: TrainOptions, hooks: TrainHooks = {}): Promise<TrainResult> {
  const args = resolveTrainArgs(options);
  openDevice(args.device); // before the output folder is touched
  const resumed = await prepareOutput(args);
  const run = await openRun(args, hooks);
  try {
    const identity = identityOf(run);
    if (resumed) checkSameRun(resumed, args, identity);
    await run.frozen.load(hooks.onLoad, hooks.signal);
    run.step.allocate();
    if (run.sight?.from === 'features') run.sight.encoder.allocate();
    if (resumed) await restoreState(run, resumed);
    else await initializeParameters(run);
    const created = (await mkdir(args.outputDir, { recursive: true })) !== undefined;
    const report = args.reportTo === 'tensorboard' ? await TensorBoardReport.open(args.outputDir) : undefined;
    const log = new EventLog(args, resumed !== undefined);
    const onEvent = (event: TrainEvent): void => {
      log.onEvent(event);
      report?.onEvent(event);
      hooks.onEvent?.(event);
    };
    try {
      const loop = new TrainingLoop(run, identity, resumed?.state.logHistory ?? [], { ...hooks, onEvent });
      const result = await loop.run(resumed?.state.globalStep ?? 0, resumed?.state.numInputTokensSeen ?? 0);
      await log.close();
      return result;
    } catch (error) {
      await log.close().catch(() => {}); // what stopped the run is the error to tell
      // A run that failed before it saved anything leaves no empty folder.
      if (created) await rmdir(args.outputDir).catch(() => {});
      throw error;
    } finally {
      await report?.close();
    }
  } finally {
    closeRun(run);
  }
}

/** What a run would need, before anything is allocated. */
export interface PlanReport {
  readonly device: Device;
  readonly kinds: MemoryPlan;
  /** Taken beside those by a frozen vision tower, which is run by itself: its activations. */
  readonly visionBytes: number;
  /**
   * Taken beside those: resident memory of the process before training (Node, its code, the tokenizer, the dataset's index) and of
   * loading; with CUDA what the card holds before.
   */
  readonly processBytes: number;
  readonly plannedMemoryBytes: number;
  readonly steps: number;
  readonly rows: number;
  readonly tokens: number;
  readonly targetTokens: number;
  readonly maxTokens: number;
  readonly trainableParameters: number;
}

/** Opens and checks everything as `train` does, and says what it would need. Nothing is allocated or written, and no GPU is needed. */
export async function plan(options: TrainOptions, hooks: RunHooks = {}): Promise<PlanReport> {
  const run = await openRun(resolveTrainArgs(options), hooks, true);
  const visionBytes = run.sight?.from === 'features' ? run.sight.encoder.bytes : 0;
  try {
    return {
      device: run.device,
      kinds: run.step.memory,
      visionBytes,
      processBytes: run.plannedBytes - run.step.memory.total - visionBytes,
      plannedMemoryBytes: run.plannedBytes,
      steps: run.totalSteps,
      rows: run.dataset.stats.rows,
      tokens: run.dataset.stats.tokens,
      targetTokens: run.dataset.stats.targetTokens,
      maxTokens: run.limits.tokens,
      trainableParameters: run.trainables.layout.trainable,
    };
  } finally {
    closeRun(run);
  }
}

async function prepareOutput(args: TrainArgs): Promise<Awaited<ReturnType<typeof checkpointToResume>>> {
  const resumed = await checkpointToResume(args);
  if (resumed) await sweepOutput(args.outputDir);
  else if (args.overwriteOutputDir) await removeCheckpoints(args.outputDir);
  else await ensureEmptyOutput(args.outputDir);
  return resumed;
}
