/** `vltune train`: options to a run, and the run's events to people or to JSON. */
import { join } from 'node:path';
import { leads } from '../distributed/place.js';
import { writeFileAtomic } from '../files.js';
import type { GivenOptions } from '../options.js';
import { lossChart } from '../report/loss_chart.js';
import { resolveTrainArgs, TRAIN_OPTIONS, type TrainArgs, type TrainOptions } from '../train/args.js';
import type { LogEntry } from '../train/checkpoint.js';
import type { TrainEvent } from '../train/train_events.js';
import { type TrainHooks, train } from '../train/trainer.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes, formatCount, formatSeconds, type Output } from './output.js';
import { ProgressStages } from './progress.js';
import { downloadProgress, LACKS_NCCL } from './shared_options.js';

/** Checks the options that were given and returns them as `train` and `plan` take them: only what was given, texts made numbers. */
export function checkedTrainOptions(given: GivenOptions): TrainOptions {
  const args = resolveTrainArgs(given.values as unknown as TrainOptions, given);
  const keys = Object.keys(given.values).filter((key) => given.values[key] != null) as (keyof TrainArgs)[];
  return Object.fromEntries(keys.map((key) => [key, args[key]])) as unknown as TrainOptions;
}

type Step = Extract<TrainEvent, { event: 'step' }>;

/** Tells people of a run: bars on a terminal, a line an event elsewhere. */
export class TrainReporter {
  readonly losses: LogEntry[] = [];
  readonly #output: Output;
  readonly #progress = new ProgressStages();
  readonly #started = performance.now();
  #steps = 0;

  constructor(output: Output) {
    this.#output = output;
  }

  get hooks(): TrainHooks {
    const progress = this.#progress;
    return {
      onDownload: downloadProgress(progress),
      onPrepare: ({ file, bytesRead, bytesTotal, rows }) =>
        progress.report(`Reading ${file}`, bytesRead, bytesTotal, formatBytes, `${formatCount(rows)} rows`),
      onLoad: (done, total) => progress.report('Loading weights', done, total, formatBytes),
      onEvent: (event) => this.#onEvent(event),
    };
  }

  stop(): void {
    this.#progress.stop();
  }

  #onEvent(event: TrainEvent): void {
    this.#output.emit(event);
    switch (event.event) {
      case 'start':
        this.#progress.stop();
        this.#steps = event.steps;
        this.#sayStart(event);
        break;
      case 'step':
        this.losses.push({ step: event.step, loss: event.loss });
        this.#sayStep(event);
        break;
      case 'eval':
        this.losses.push({ step: event.step, eval_loss: event.eval_loss });
        this.#remark(`eval   step ${event.step}  loss ${event.eval_loss.toFixed(4)}`);
        break;
      case 'save':
        this.#remark(`saved  ${event.path}`);
        break;
      case 'end':
        this.#progress.stop();
        this.#sayEnd(event);
        break;
    }
  }

  #sayStart(event: Extract<TrainEvent, { event: 'start' }>): void {
    const { rows, tokens, target_tokens: targets } = event;
    const media = event.media > 0 ? `, ${formatCount(event.media)} images and videos` : '';
    this.#output.say(`${formatCount(rows)} rows, ${formatCount(tokens)} tokens, ${formatCount(targets)} of them targets${media}`);
    if (event.truncated_rows > 0)
      this.#output.warn(`${formatCount(event.truncated_rows)} rows were longer than --max-length and lost their end`);
    if (event.lost_media_rows > 0) {
      this.#output.warn(
        `${formatCount(event.lost_media_rows)} rows lost an image or video that does not fit in --max-length whole (the first: ` +
          `${event.first_lost_media}); --image-max-pixels makes images smaller`,
      );
    }
    if (event.skipped_rows > 0)
      this.#output.warn(`${formatCount(event.skipped_rows)} rows were left out (images with --skip-images, or no target)`);
    this.#output.say(
      `${formatCount(event.steps)} updates of ${formatCount(event.trainable_parameters)} parameters, ${formatBytes(event.planned_memory_bytes)} planned${event.device === 'cuda' ? ' on the GPU' : ''}${event.processes > 1 ? ` of each of ${event.processes} processes` : ''}`,
    );
    if (event.lacks_nccl) this.#output.warn(LACKS_NCCL);
    if (event.resumed_step > 0) this.#output.say(`going on after update ${formatCount(event.resumed_step)}`);
  }

  #sayStep(event: Step): void {
    const rate = `${formatCount(event.tokens_per_second)} tokens/s`;
    if (process.stderr.isTTY && !this.#output.json) {
      this.#progress.report('Training', event.step, this.#steps, String, `loss ${event.loss.toFixed(4)}, ${rate}`);
      return;
    }
    const norm = Number.isFinite(event.grad_norm)
      ? `grad norm ${event.grad_norm.toFixed(3)}`
      : `skipped, gradient too large for float16: loss scale now ${event.loss_scale}`;
    this.#output.note(
      `step ${event.step}/${this.#steps}  epoch ${event.epoch.toFixed(2)}  loss ${event.loss.toFixed(4)}  ${norm}  lr ${event.learning_rate.toExponential(2)}  ${rate}`,
    );
  }

  /** A line between the bars; the next step draws a bar anew. */
  #remark(text: string): void {
    this.#progress.stop();
    this.#output.note(text);
  }

  #sayEnd(event: Extract<TrainEvent, { event: 'end' }>): void {
    const seconds = (performance.now() - this.#started) / 1000;
    this.#output.say(
      `${formatCount(event.steps)} updates in ${formatSeconds(seconds)}, mean loss ${event.train_loss.toFixed(4)}, ${formatCount(event.tokens_per_second)} tokens/s`,
    );
    if (event.skipped_steps)
      this.#output.say(`${formatCount(event.skipped_steps)} updates were skipped: their gradients were too large for float16`);
    this.#output.say(`peak memory ${formatBytes(event.peak_memory_bytes)}, planned ${formatBytes(event.planned_memory_bytes)}`);
  }
}

/** Draws the losses of a run into `loss.svg` of its folder. Returns the path; undefined if there is nothing to draw. */
export async function writeLossChart(outputDir: string, log: readonly LogEntry[], subtitle: string): Promise<string | undefined> {
  const points = log.flatMap(({ step, loss }) => (step !== undefined && loss !== undefined ? [{ step, loss }] : []));
  if (points.length < 2) return undefined;
  const evaluation = log.flatMap(({ step, eval_loss: loss }) =>
    step !== undefined && loss !== undefined ? [{ step, loss }] : [],
  );
  const path = join(outputDir, 'loss.svg');
  await writeFileAtomic(path, await lossChart(points, { subtitle, evaluation }));
  return path;
}

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const options = checkedTrainOptions(given);
  const onWait = (what: string): void => output.note(what);
  if (!leads()) return void (await train(options, { signal, onWait }));
  const reporter = new TrainReporter(output);
  try {
    const result = await train(options, { ...reporter.hooks, signal, onWait });
    const what = options.fullFinetuning ? 'model' : 'adapter';
    const chart = await writeLossChart(result.outputDir, result.logHistory, `${options.model}, ${result.steps} updates`);
    output.say(`${output.style('bold', what)}  ${result.outputDir}`);
    if (chart !== undefined) output.say(`${output.style('bold', 'loss')}  ${chart}`);
    const model = options.fullFinetuning
      ? `--model ${result.outputDir}`
      : `--model ${options.model} --adapter ${result.outputDir}`;
    output.say(`try it: vltune generate ${model} --prompt "…"`);
    output.say(`see it: vltune report ${result.outputDir}`);
  } finally {
    reporter.stop();
  }
}

export const command: CommandSpec = {
  name: 'train',
  summary: 'Fine-tune a model: a LoRA adapter on 4-bit weights, or with --full-finetuning every weight.',
  table: TRAIN_OPTIONS,
  recipe: true,
  examples: [
    'vltune train --model Qwen/Qwen3-VL-2B-Instruct --dataset alpaca.json --output-dir out',
    'vltune train recipe.yaml --max-steps 10',
    'vltune train recipe.yaml --resume-from-checkpoint',
  ],
  run,
};
