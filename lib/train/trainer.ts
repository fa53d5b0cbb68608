/** `train` and `plan`: a run is opened and checked, trained and closed, or only planned. */
import { mkdir, rmdir } from 'node:fs/promises';
import { openDevice } from '../device.js';
import { type WaitHooks, Workers } from '../distributed/workers.js';
import { ensureEmptyOutput } from '../files.js';
import type { Device } from '../native.js';
import { optionName } from '../options.js';
import { resolveTrainArgs, type TrainArgs, type TrainOptions } from './args.js';
import {
  checkpointToResume,
  checkSameRun,
  loadCheckpoint,
  removeCheckpoints,
  type SavedCheckpoint,
  sweepOutput,
} from './checkpoint.js';
import { EventLog } from './event_log.js';
import { TensorBoardReport } from './report.js';
import { closeRun, findModel, identityOf, openRun, type RunHooks } from './run.js';
import type { MemoryPlan } from './step_plan.js';
import type { TrainEvent } from './train_events.js';
import { type LoopHooks, TrainingLoop, type TrainResult } from './training_loop.js';
import { initializeParameters, restoreState } from './weights_on_disk.js';

/** A process may have these otherwise than those that it trains with: they do not touch the numbers. */
const OWN_OPTIONS: ReadonlySet<keyof TrainArgs> = new Set([
  'device',
  'threads',
  'ddpTimeout',
  'memory',
  'gradientCheckpointing',
  'embeddingOnHost',
  'visionCache',
]);

export interface TrainHooks extends LoopHooks, WaitHooks {
  /** Hears of bytes of weights loaded, and in all. */
  readonly onLoad?: ((done: number, total: number) => void) | undefined;
}

/**
 * Trains. The adapter (with full fine-tuning: the model) lies in `outputDir` at the end, checkpoints in `checkpoint-N` in it.
 * When `signal` aborts, a checkpoint of the last whole update is saved before the promise rejects with ERR_CANCELLED.
 * Rejects with ERR_NAN, naming the step, if the loss or the gradient norm is not finite; checkpoints are kept. In float16 an update whose
 * gradient norm is not finite is skipped, as in torch.amp, unless that is so at any loss scale.
 *
 * Where a launcher has started several processes (`distributed/place.ts`), they train together: the first one has `onEvent` called and writes
 * the files, all resolve. Rejects with ERR_PEER if another one fails or is gone.
 */
export async function train(options: TrainOptions, hooks: TrainHooks = {}): Promise<TrainResult> {
  const args = resolveTrainArgs(options);
  const workers = await Workers.join(args, hooks);
  try {
    if (!workers) openDevice(args.device); // before the output folder is touched
    const result = await trainWith(workers, args, hooks);
    await workers?.leave();
    return result;
  } catch (error) {
    // What was cancelled because another process ended, and not by the caller, is not why the run ended.
    const isPeers = workers?.lost.aborted && !hooks.signal?.aborted && (error as { code?: string }).code === 'ERR_CANCELLED';
    const cause = isPeers ? workers.lost.reason : error;
    workers?.fail(cause);
    throw cause;
  }
}

async function trainWith(workers: Workers | undefined, args: TrainArgs, hooks: TrainHooks): Promise<TrainResult> {
  await workers?.agree(sharedOptions(args));
  const leads = workers === undefined || workers.rank === 0;
  let resumed = leads ? await checkOutput(args) : undefined;
  if (workers?.isFirstHere) await findModel(args, hooks);
  // The others go on when the first one has looked, from the checkpoint that it has found, and when the model is downloaded.
  const [folder] = workers ? await workers.gather(resumed?.folder ?? null) : [];
  if (!leads && folder) resumed = await loadCheckpoint(folder);
  const run = await openRun(args, hooks, { workers });
  try {
    const identity = identityOf(run);
    await workers?.agree({
      'weights of --model': identity.model,
      'rows of --dataset': identity.dataset,
      'rows of --eval-dataset': run.evalDataset?.fingerprint,
    });
    if (resumed) checkSameRun(resumed, args, identity);
    await run.frozen.load(hooks.onLoad, hooks.signal);
    run.step.allocate();
    if (run.sight?.from === 'features') run.sight.encoder.allocate();
    if (resumed) await restoreState(run, resumed);
    else await initializeParameters(run);
    await workers?.agree({ 'parameters to begin with': run.step.sampleDigest() });
    // Not before all that can be wrong with the run's inputs has been looked at.
    if (leads && args.overwriteOutputDir && !resumed) await removeCheckpoints(args.outputDir);
    const runLoop = async (onEvent: (event: TrainEvent) => void): Promise<TrainResult> => {
      const loop = new TrainingLoop(run, identity, resumed?.state.logHistory ?? [], { ...hooks, onEvent }, workers);
      return await loop.run(resumed?.state.globalStep ?? 0, resumed?.state.numInputTokensSeen ?? 0);
    };
    return leads ? await recorded(args, hooks, resumed !== undefined, runLoop) : await runLoop(() => {});
  } finally {
    closeRun(run);
  }
}

/** Runs a loop whose events go to the caller, into the log and to TensorBoard. */
async function recorded(
  args: TrainArgs,
  hooks: TrainHooks,
  resumed: boolean,
  runLoop: (onEvent: (event: TrainEvent) => void) => Promise<TrainResult>,
): Promise<TrainResult> {
  const created = (await mkdir(args.outputDir, { recursive: true })) !== undefined;
  const report = args.reportTo === 'tensorboard' ? await TensorBoardReport.open(args.outputDir) : undefined;
  const log = new EventLog(args, resumed);
  try {
    const result = await runLoop((event) => {
      log.onEvent(event);
      report?.onEvent(event);
      hooks.onEvent?.(event);
    });
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
  const run = await openRun(resolveTrainArgs(options), hooks, { planning: true });
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

/** Of the options, those that all processes must have been given alike, by name. */
function sharedOptions(args: TrainArgs): Record<string, unknown> {
  const shared = Object.entries(args).filter(([key]) => !OWN_OPTIONS.has(key as keyof TrainArgs));
  return Object.fromEntries(shared.map(([key, value]) => [optionName(key), value ?? null]));
}

/** The checkpoint to go on from; without one the output folder must be empty, or the caller's to overwrite. */
async function checkOutput(args: TrainArgs): Promise<SavedCheckpoint | undefined> {
  const resumed = await checkpointToResume(args);
  if (resumed) await sweepOutput(args.outputDir);
  else if (!args.overwriteOutputDir) await ensureEmptyOutput(args.outputDir);
  return resumed;
}
