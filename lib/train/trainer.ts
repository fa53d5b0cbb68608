/** The training loop: updates over micro-batches, with logging, evaluation, checkpoints and resume. */
import { mkdir, rmdir } from 'node:fs/promises';
import { BatchStream } from '../data/batch_stream.js';
import type { BatchPlan } from '../data/batches.js';
import type { RowSource } from '../data/token_dataset.js';
import { openDevice } from '../device.js';
import { VltuneError } from '../errors.js';
import { ensureEmptyOutput } from '../files.js';
import { addon, type Device } from '../native.js';
import { resolveTrainArgs, type TrainArgs, type TrainOptions } from './args.js';
import {
  checkpointToResume,
  checkSameRun,
  type LogEntry,
  type RunIdentity,
  removeCheckpoints,
  saveCheckpoint,
  sweepOutput,
} from './checkpoint.js';
import { EventLog } from './event_log.js';
import { MediaFeed } from './media_feed.js';
import { TensorBoardReport } from './report.js';
import { closeRun, identityOf, openRun, type Run, type RunHooks } from './run.js';
import { epochAfter, learningRate, warmupUpdates } from './schedule.js';
import type { MemoryPlan } from './step_plan.js';
import { initializeParameters, restoreState, saveWeights, stateTensors } from './weights_on_disk.js';

/** What a run says of itself, in the form in which `--json` prints it. */
export type TrainEvent =
  | {
      readonly event: 'start';
      readonly model: string;
      readonly output_dir: string;
      readonly rows: number;
      readonly tokens: number;
      readonly target_tokens: number;
      readonly truncated_rows: number;
      readonly skipped_rows: number;
      /** Pictures and videos. */
      readonly media: number;
      /** Rows that lost a picture or video, with all behind it, because it does not fit in the maximum whole; and the first of them. */
      readonly lost_media_rows: number;
      readonly first_lost_media: string | undefined;
      readonly trainable_parameters: number;
      readonly micro_batches_per_epoch: number;
      readonly steps: number;
      /** Updates done before, by the checkpoint that the run goes on from. */
      readonly resumed_step: number;
      readonly device: Device;
      readonly planned_memory_bytes: number;
    }
  | {
      readonly event: 'step';
      readonly step: number;
      readonly epoch: number;
      /** Per target token, over the updates since the last event. */
      readonly loss: number;
      /** Before clipping, of the last update. In float16 it may be infinite or NaN (null in JSON): then that update was skipped. */
      readonly grad_norm: number;
      /** That the last update used. */
      readonly learning_rate: number;
      /** Since the last event, without padding. */
      readonly num_tokens: number;
      readonly num_target_tokens: number;
      readonly tokens_per_second: number;
      /** Held after the update: resident, or with CUDA on the card, as the driver counts it. */
      readonly memory_bytes: number;
      /** In float16: what the next update multiplies its loss by, and how many updates were skipped so far. */
      readonly loss_scale?: number;
      readonly skipped_steps?: number;
    }
  | {
      readonly event: 'eval';
      readonly step: number;
      readonly epoch: number;
      readonly eval_loss: number;
      readonly num_target_tokens: number;
    }
  | { readonly event: 'save'; readonly step: number; readonly path: string }
  | {
      readonly event: 'end';
      readonly output_dir: string;
      readonly steps: number;
      readonly train_loss: number;
      readonly tokens_per_second: number;
      readonly peak_memory_bytes: number;
      readonly planned_memory_bytes: number;
      /** In float16: how many of the steps were skipped, because their gradients were too large for it. */
      readonly skipped_steps?: number;
    };

export interface TrainHooks extends RunHooks {
  readonly onEvent?: ((event: TrainEvent) => void) | undefined;
  /** Hears of bytes of weights loaded, and in all. */
  readonly onLoad?: ((done: number, total: number) => void) | undefined;
}

export interface TrainResult {
  readonly outputDir: string;
  readonly steps: number;
  /** Mean loss over all updates of this run. */
  readonly trainLoss: number;
  readonly logHistory: readonly LogEntry[];
  readonly peakMemoryBytes: number;
  readonly plannedMemoryBytes: number;
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

/** What has added up since the last log entry. */
interface Window {
  loss: number;
  updates: number;
  tokens: number;
  targets: number;
  /** When training began, moved on by the time that evaluating and saving took. */
  started: number;
}

class TrainingLoop {
  readonly #run: Run;
  readonly #args: TrainArgs;
  readonly #identity: RunIdentity;
  readonly #hooks: TrainHooks;
  readonly #log: LogEntry[];
  readonly #feed: MediaFeed;
  #done = 0;
  #tokensSeen = 0;
  #lossSum = 0;
  #updatesHere = 0;
  #tokensHere = 0;
  #lastSaved = -1;
  #window: Window = emptyWindow();

  constructor(run: Run, identity: RunIdentity, log: readonly LogEntry[], hooks: TrainHooks) {
    this.#run = run;
    this.#args = run.args;
    this.#identity = identity;
    this.#log = [...log];
    this.#hooks = hooks;
    this.#feed = new MediaFeed(run.sight);
  }

  async run(doneBefore: number, tokensBefore: number): Promise<TrainResult> {
    const { batches, totalSteps } = this.#run;
    this.#done = doneBefore;
    this.#tokensSeen = tokensBefore;
    if (doneBefore > 0) this.#lastSaved = doneBefore;
    this.#announce(doneBefore);
    const started = performance.now();
    this.#window = emptyWindow();
    const stream = this.#stream(this.#run.dataset, microBatches(batches, doneBefore, totalSteps));
    try {
      while (this.#done < totalSteps) {
        const epoch = Math.floor(this.#done / batches.updatesPerEpoch);
        await this.#update(stream, epoch, this.#done % batches.updatesPerEpoch);
        await this.#afterUpdate();
        this.#hooks.signal?.throwIfAborted();
      }
    } catch (error) {
      if (this.#hooks.signal?.aborted) throw await this.#interrupted(error);
      throw error;
    } finally {
      await stream.close();
    }
    if (this.#args.saveStrategy !== 'no' && this.#lastSaved !== this.#done && this.#updatesHere > 0) await this.#save();
    await saveWeights(this.#run, this.#args.outputDir);

    const peak = peakBytes(this.#run.device);
    const trainLoss = this.#updatesHere > 0 ? this.#lossSum / this.#updatesHere : 0;
    this.#emit({
      event: 'end',
      output_dir: this.#args.outputDir,
      steps: this.#done,
      train_loss: trainLoss,
      tokens_per_second: (this.#tokensHere / (performance.now() - started)) * 1000,
      peak_memory_bytes: peak,
      planned_memory_bytes: this.#run.plannedBytes,
      ...(this.#run.step.scaler && { skipped_steps: this.#skipped }),
    });
    return {
      outputDir: this.#args.outputDir,
      steps: this.#done,
      trainLoss,
      logHistory: this.#log,
      peakMemoryBytes: peak,
      plannedMemoryBytes: this.#run.plannedBytes,
    };
  }

  /** One update: every micro-batch forward and backward, then clip and AdamW. */
  async #update(stream: BatchStream, epoch: number, index: number): Promise<void> {
    const { step, batches, dataset } = this.#run;
    const rows = batches.update(epoch, index);
    const targetsOf = (batch: Int32Array) => batch.reduce((sum, row) => sum + dataset.targetCounts[row]!, 0);
    const targets = rows.reduce((sum, batch) => sum + targetsOf(batch), 0);
    const firstMicroStep = (epoch * batches.updatesPerEpoch + index) * this.#args.gradientAccumulationSteps;

    let tokens = 0;
    for (const [i] of rows.entries()) {
      // Those that follow are read while native code works on this one.
      const batch = stream.next()!;
      const scale =
        this.#args.lossAverage === 'tokens' ? 1 / Math.max(1, targets) : 1 / (Math.max(1, batch.numTargets) * rows.length);
      const micro = await this.#feed.micro(batch, this.#hooks.signal);
      await step.microStep(micro, scale, [this.#args.seed | 0, firstMicroStep + i], this.#hooks.signal);
      this.#feed.recycle(batch, micro);
      tokens += batch.numTokens;
    }
    const made = this.#done - this.#skipped;
    const rate = this.#learningRate(made);
    const { loss, gradNorm } = await step.update({
      learningRate: rate,
      beta1: this.#args.adamBeta1,
      beta2: this.#args.adamBeta2,
      epsilon: this.#args.adamEpsilon,
      weightDecay: this.#args.weightDecay,
      step: made + 1,
    });
    const mayOverflow = step.scaler?.isExhausted === false;
    if (!Number.isFinite(loss) || (!Number.isFinite(gradNorm) && !mayOverflow)) {
      const at = step.scaler ? `learning rate ${rate}, loss scale ${step.scaler.state.scale}` : `learning rate ${rate}`;
      throw new VltuneError(
        'ERR_NAN',
        `step ${this.#done + 1}: loss is ${loss}, gradient norm is ${gradNorm} (${at}); training stopped, ${this.#lastSaved > 0 ? `checkpoint-${this.#lastSaved} is kept` : 'no checkpoint was written by this run'}`,
      );
    }
    this.#done += 1;
    this.#updatesHere += 1;
    this.#lossSum += loss;
    this.#window.tokens += tokens;
    this.#window.targets += targets;
    this.#window.loss += loss;
    this.#window.updates += 1;
    if (this.#done % this.#args.loggingSteps === 0 || this.#done === this.#run.totalSteps) this.#logStep(gradNorm, rate);
  }

  async #afterUpdate(): Promise<void> {
    const { saveStrategy, saveSteps, evalSteps } = this.#args;
    const epochEnds = this.#done % this.#run.batches.updatesPerEpoch === 0 || this.#done === this.#run.totalSteps;
    const began = performance.now();
    if (this.#run.evalBatches && (evalSteps === undefined ? epochEnds : this.#done % evalSteps === 0)) await this.#evaluate();
    if (saveStrategy === 'steps' ? this.#done % saveSteps === 0 : saveStrategy === 'epoch' && epochEnds) await this.#save();
    this.#window.started += performance.now() - began;
  }

  #logStep(gradNorm: number, rate: number): void {
    const { loss, updates, tokens, targets, started } = this.#window;
    const epoch = this.#epoch();
    const entry = { loss: loss / updates, grad_norm: gradNorm, learning_rate: rate };
    const scale = this.#run.step.scaler && {
      loss_scale: this.#run.step.scaler.state.scale,
      skipped_steps: this.#skipped,
    };
    const numbers = { epoch, step: this.#done, ...entry, ...scale };
    this.#log.push(Object.fromEntries(Object.entries(numbers).filter(([, value]) => Number.isFinite(value))));
    this.#tokensSeen += tokens;
    this.#tokensHere += tokens;
    this.#emit({
      event: 'step',
      step: this.#done,
      epoch,
      ...entry,
      ...scale,
      num_tokens: tokens,
      num_target_tokens: targets,
      tokens_per_second: (tokens / (performance.now() - started)) * 1000,
      memory_bytes: heldBytes(this.#run.device),
    });
    this.#window = emptyWindow();
  }

  async #evaluate(): Promise<void> {
    const { evalBatches, evalDataset, step } = this.#run;
    const targets = evalDataset!.stats.targetTokens;
    let loss = 0;
    const stream = this.#stream(evalDataset!, evalBatches!.microBatches(0));
    try {
      for (let batch = stream.next(); batch; batch = stream.next()) {
        const micro = await this.#feed.micro(batch, this.#hooks.signal);
        loss += await step.evaluate(micro, 1 / Math.max(1, targets), this.#hooks.signal);
        this.#feed.recycle(batch, micro);
      }
    } finally {
      await stream.close();
    }
    const epoch = this.#epoch();
    this.#log.push({ epoch, step: this.#done, eval_loss: loss });
    this.#emit({ event: 'eval', step: this.#done, epoch, eval_loss: loss, num_target_tokens: targets });
  }

  async #save(): Promise<string> {
    const path = await saveCheckpoint(this.#args.outputDir, {
      args: this.#args,
      identity: this.#identity,
      state: {
        globalStep: this.#done,
        epoch: this.#epoch(),
        maxSteps: this.#run.totalSteps,
        numInputTokensSeen: this.#tokensSeen + this.#window.tokens,
        logHistory: this.#log,
      },
      optimizer: stateTensors(this.#run),
      fill: (folder) => saveWeights(this.#run, folder),
    });
    this.#lastSaved = this.#done;
    this.#emit({ event: 'save', step: this.#done, path });
    return path;
  }

  /** Saves what is whole before the run ends at the caller's wish. */
  async #interrupted(cause: unknown): Promise<VltuneError> {
    const saved = this.#done > 0 && this.#lastSaved !== this.#done ? await this.#save() : undefined;
    const where = saved ?? (this.#lastSaved > 0 ? `checkpoint-${this.#lastSaved}` : undefined);
    return new VltuneError(
      'ERR_CANCELLED',
      `stopped after ${this.#done} of ${this.#run.totalSteps} updates${where ? `; go on with --resume-from-checkpoint (${where})` : ', before the first update was whole'}`,
      { cause },
    );
  }

  #stream(dataset: RowSource, batches: Iterable<Int32Array>): BatchStream {
    return new BatchStream(dataset, batches, { wanted: (media) => this.#feed.wants(media), signal: this.#hooks.signal });
  }

  /** Updates that were not made, in f16; the schedule stands still meanwhile, as transformers' does. */
  get #skipped(): number {
    return this.#run.step.scaler?.state.skipped ?? 0;
  }

  #learningRate(update: number): number {
    const { lrSchedulerType, learningRate: base } = this.#args;
    const total = this.#run.totalSteps;
    return learningRate(update, { type: lrSchedulerType, base, warmup: warmupUpdates(this.#args, total), total });
  }

  #epoch(): number {
    return epochAfter(this.#done, this.#run.batches.microBatchesPerEpoch, this.#args.gradientAccumulationSteps);
  }

  #announce(resumedStep: number): void {
    const { dataset, trainables, batches, totalSteps, plannedBytes } = this.#run;
    const { rows, tokens, targetTokens, truncated, skippedImages, dropped, media, lostMedia, firstLostMedia } = dataset.stats;
    this.#emit({
      event: 'start',
      model: this.#args.model,
      output_dir: this.#args.outputDir,
      rows,
      tokens,
      target_tokens: targetTokens,
      truncated_rows: truncated,
      skipped_rows: skippedImages + dropped,
      media,
      lost_media_rows: lostMedia,
      first_lost_media: firstLostMedia,
      trainable_parameters: trainables.layout.trainable,
      micro_batches_per_epoch: batches.microBatchesPerEpoch,
      steps: totalSteps,
      resumed_step: resumedStep,
      device: this.#run.device,
      planned_memory_bytes: plannedBytes,
    });
  }

  #emit(event: TrainEvent): void {
    this.#hooks.onEvent?.(event);
  }
}

/** The rows of every micro-batch of updates `from` to `to`, in order. */
function* microBatches(batches: BatchPlan, from: number, to: number): Generator<Int32Array> {
  for (let done = from; done < to; done++)
    yield* batches.update(Math.floor(done / batches.updatesPerEpoch), done % batches.updatesPerEpoch);
}

/** The memory there is in use: resident, or with CUDA on the card, as the driver counts it. */
function heldBytes(device: Device): number {
  if (device === 'cpu') return process.memoryUsage.rss();
  const { free, total } = addon().deviceMemory();
  return total - free;
}

/** The most there has been of it. */
function peakBytes(device: Device): number {
  if (device === 'cpu') return process.resourceUsage().maxRSS * 1024;
  const { current, peak } = addon().memory('cuda');
  return heldBytes(device) + (peak - current);
}

function emptyWindow(): Window {
  return { loss: 0, updates: 0, tokens: 0, targets: 0, started: performance.now() };
}
