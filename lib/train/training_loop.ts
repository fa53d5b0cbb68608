/** The training loop: updates over micro-batches, with logging, evaluation and checkpoints. */
import { BatchStream } from '../data/batch_stream.js';
import type { BatchPlan } from '../data/batches.js';
import type { RowSource } from '../data/token_dataset.js';
import type { Workers } from '../distributed/workers.js';
import { VltuneError } from '../errors.js';
import { addon, type Device } from '../native.js';
import type { TrainArgs } from './args.js';
import { type LogEntry, type RunIdentity, saveCheckpoint } from './checkpoint.js';
import { MediaFeed } from './media_feed.js';
import type { Run, RunHooks } from './run.js';
import { epochAfter, learningRate, warmupUpdates } from './schedule.js';
import type { TrainEvent } from './train_events.js';
import { saveWeights, stateTensors } from './weights_on_disk.js';

export interface TrainResult {
  readonly outputDir: string;
  readonly steps: number;
  /** Mean loss over all updates of this run. */
  readonly trainLoss: number;
  readonly logHistory: readonly LogEntry[];
  readonly peakMemoryBytes: number;
  readonly plannedMemoryBytes: number;
}

export interface LoopHooks extends RunHooks {
  readonly onEvent?: ((event: TrainEvent) => void) | undefined;
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

/** Micro-batches of an evaluation between two questions whether a process is to stop. */
const STOP_ROUNDS = 16;

export class TrainingLoop {
  readonly #run: Run;
  readonly #args: TrainArgs;
  readonly #identity: RunIdentity;
  readonly #hooks: LoopHooks;
  readonly #log: LogEntry[];
  readonly #feed: MediaFeed;
  /** Those that share every update with this process; undefined: it trains alone. */
  readonly #workers: Workers | undefined;
  /** Ends what is under way. Of several processes none may leave an update that the others are in, but for one that is gone. */
  readonly #signal: AbortSignal | undefined;
  #stopping = false;
  #done = 0;
  #tokensSeen = 0;
  #lossSum = 0;
  #updatesHere = 0;
  #tokensHere = 0;
  #lastSaved = -1;
  #window: Window = emptyWindow();

  constructor(run: Run, identity: RunIdentity, log: readonly LogEntry[], hooks: LoopHooks, workers?: Workers) {
    this.#run = run;
    this.#args = run.args;
    this.#identity = identity;
    this.#log = [...log];
    this.#hooks = hooks;
    this.#feed = new MediaFeed(run.sight);
    this.#workers = workers;
    this.#signal = workers ? workers.lost : hooks.signal;
  }

  async run(doneBefore: number, tokensBefore: number): Promise<TrainResult> {
    const { batches, totalSteps } = this.#run;
    this.#done = doneBefore;
    this.#tokensSeen = tokensBefore;
    if (doneBefore > 0) this.#lastSaved = doneBefore;
    this.#announce(doneBefore);
    const started = performance.now();
    this.#window = emptyWindow();
    const stream = this.#stream(this.#run.dataset, this.#ownBatches(batches, doneBefore, totalSteps));
    try {
      while (this.#done < totalSteps) {
        const epoch = Math.floor(this.#done / batches.updatesPerEpoch);
        await this.#update(stream, epoch, this.#done % batches.updatesPerEpoch);
        await this.#afterUpdate();
        if (this.#isStopping) throw new VltuneError('ERR_CANCELLED', 'the run was stopped');
      }
    } catch (error) {
      if (this.#isStopping) throw await this.#interrupted(error);
      throw error;
    } finally {
      await stream.close();
    }
    if (this.#args.saveStrategy !== 'no' && this.#lastSaved !== this.#done && this.#updatesHere > 0) await this.#save();
    if (this.#leads) await saveWeights(this.#run, this.#args.outputDir);

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

  /** One update: every micro-batch forward and backward, then clip and AdamW. Several processes share the micro-batches. */
  async #update(stream: BatchStream, epoch: number, index: number): Promise<void> {
    const { step, batches, dataset } = this.#run;
    const rows = batches.update(epoch, index);
    const sumOf = (counts: Int32Array, batch: Int32Array) => batch.reduce((sum, row) => sum + counts[row]!, 0);
    const targets = rows.reduce((sum, batch) => sum + sumOf(dataset.targetCounts, batch), 0);
    const tokens = rows.reduce((sum, batch) => sum + sumOf(dataset.lengths, batch), 0);
    const firstMicroStep = (epoch * batches.updatesPerEpoch + index) * batches.options.gradientAccumulationSteps;

    for (const i of rows.keys()) {
      if (!this.#isOwn(i)) continue;
      // Those that follow are read while native code works on this one.
      const batch = stream.next()!;
      const scale =
        this.#args.lossAverage === 'tokens' ? 1 / Math.max(1, targets) : 1 / (Math.max(1, batch.numTargets) * rows.length);
      const micro = await this.#feed.micro(batch, this.#signal);
      await step.microStep(micro, scale, [this.#args.seed | 0, firstMicroStep + i], this.#signal);
      this.#feed.recycle(batch, micro);
    }
    await this.#workers?.sum(step.gradients);
    const made = this.#done - this.#skipped;
    const rate = this.#learningRate(made);
    const { loss: ownLoss, gradNorm } = await step.update({
      learningRate: rate,
      beta1: this.#args.adamBeta1,
      beta2: this.#args.adamBeta2,
      epsilon: this.#args.adamEpsilon,
      weightDecay: this.#args.weightDecay,
      step: made + 1,
    });
    const loss = await this.#together(ownLoss);
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

  /** The loss of all processes' shares; and whether one of them is to stop, which all then do after the same update. */
  async #together(loss: number): Promise<number> {
    if (!this.#workers) return loss;
    await this.#askToStop();
    return await this.#workers.total(loss);
  }

  /** Of several processes: whether one of them is to stop. All ask alike. */
  async #askToStop(): Promise<void> {
    if (this.#workers) this.#stopping = (await this.#workers.gather(this.#hooks.signal?.aborted === true)).includes(true);
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
    const all = evalBatches!.microBatches(0);
    const stream = this.#stream(
      evalDataset!,
      all.filter((_, i) => this.#isOwn(i)),
    );
    const rounds = Math.ceil(all.length / (this.#workers?.size ?? 1));
    try {
      for (let round = 0; round < rounds && !this.#stopping; round++) {
        const batch = stream.next();
        if (batch) {
          const micro = await this.#feed.micro(batch, this.#signal);
          loss += await step.evaluate(micro, 1 / Math.max(1, targets), this.#signal);
          this.#feed.recycle(batch, micro);
        }
        if (round % STOP_ROUNDS === STOP_ROUNDS - 1) await this.#askToStop();
      }
      if (this.#stopping) throw new VltuneError('ERR_CANCELLED', 'the run was stopped while it evaluated');
    } finally {
      await stream.close();
    }
    if (this.#workers) loss = await this.#workers.total(loss);
    const epoch = this.#epoch();
    this.#log.push({ epoch, step: this.#done, eval_loss: loss });
    this.#emit({ event: 'eval', step: this.#done, epoch, eval_loss: loss, num_target_tokens: targets });
  }

  /** Saves a checkpoint. Returns its path when it is whole, in every process. */
  async #save(): Promise<string> {
    const path = this.#leads ? await this.#saveCheckpoint() : '';
    const [saved] = this.#workers ? await this.#workers.gather(path) : [path];
    this.#lastSaved = this.#done;
    this.#emit({ event: 'save', step: this.#done, path: saved! });
    return saved!;
  }

  async #saveCheckpoint(): Promise<string> {
    return await saveCheckpoint(this.#args.outputDir, {
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
  }

  /** Saves what is whole before the run ends at the caller's wish. */
  async #interrupted(cause: unknown): Promise<VltuneError> {
    const saved = this.#done > 0 && this.#lastSaved !== this.#done ? await this.#save() : undefined;
    await this.#workers?.leave(); // all stop here: none of them has failed
    const where = saved ?? (this.#lastSaved > 0 ? `checkpoint-${this.#lastSaved}` : undefined);
    return new VltuneError(
      'ERR_CANCELLED',
      `stopped after ${this.#done} of ${this.#run.totalSteps} updates${where ? `; go on with --resume-from-checkpoint (${where})` : ', before the first update was whole'}`,
      { cause },
    );
  }

  #stream(dataset: RowSource, batches: Iterable<Int32Array>): BatchStream {
    return new BatchStream(dataset, batches, { wanted: (media) => this.#feed.wants(media), signal: this.#signal });
  }

  /** The rows of this process's micro-batches of updates `from` to `to`, in order. */
  *#ownBatches(batches: BatchPlan, from: number, to: number): Generator<Int32Array> {
    for (let done = from; done < to; done++) {
      const rows = batches.update(Math.floor(done / batches.updatesPerEpoch), done % batches.updatesPerEpoch);
      yield* rows.filter((_, i) => this.#isOwn(i));
    }
  }

  /** Whether micro-batch `i` of an update, or of an evaluation, is this process's to compute. */
  #isOwn(i: number): boolean {
    return !this.#workers || i % this.#workers.size === this.#workers.rank;
  }

  /** Whether this process writes the run's files and tells of it. */
  get #leads(): boolean {
    return !this.#workers || this.#workers.rank === 0;
  }

  /** Whether the run is to end before its time. */
  get #isStopping(): boolean {
    return this.#workers ? this.#stopping : this.#hooks.signal?.aborted === true;
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
    const { microBatchesPerEpoch, options } = this.#run.batches;
    return epochAfter(this.#done, microBatchesPerEpoch, options.gradientAccumulationSteps);
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
      processes: this.#workers?.size ?? 1,
      ...(this.#workers?.lacksNccl && { lacks_nccl: true }),
      planned_memory_bytes: plannedBytes,
    });
  }

  #emit(event: TrainEvent): void {
    this.#hooks.onEvent?.(event);
  }
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
