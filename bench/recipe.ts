/**
 * The recipe at true size, from a folder on disk to an adapter: 4 bits, LoRA of rank 16, 8-bit AdamW, over rows of real lengths. Prints
 * what loading takes, tokens/s of packed rows beside the tokens that padding would have had computed, and memory planned and measured.
 *
 *     npm run bench:recipe -- [--shape qwen3-vl-2b] [--model FOLDER] [--rows 4000] [--batch 2] [--max-length 2048] [--accumulation 4]
 *                             [--max-steps N] [--device auto] [--memory SIZE] [--no-load-in-4bit] [--keep FOLDER] [--json]
 *
 * --model takes a checkpoint that is there; else one of the shape is made, with random weights. Checkpoint, rows and adapter are kept in
 * --keep, where the next run finds the checkpoint again. They are made by a process of their own, so that what this one takes of memory
 * is the run's.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { SHAPE_NAMES } from '../lib/bench/random_model.js';
import { formatBytes, formatCount, formatSeconds, formatTable } from '../lib/cli/output.js';
import {
  BatchPlan,
  ChatTemplate,
  convert,
  type DeviceOption,
  prepareDataset,
  Tokenizer,
  type TrainEvent,
  train,
} from '../lib/index.js';
import { writeAlpaca } from './alpaca.js';
import { writeRandomCheckpoint } from './random_checkpoint.js';

const { values: options } = parseArgs({
  options: {
    shape: { type: 'string', default: 'qwen3-vl-2b' },
    model: { type: 'string' },
    rows: { type: 'string', default: '4000' },
    batch: { type: 'string', default: '2' },
    'max-length': { type: 'string', default: '2048' },
    accumulation: { type: 'string', default: '4' },
    'max-steps': { type: 'string' },
    device: { type: 'string', default: 'auto' },
    memory: { type: 'string' },
    'no-load-in-4bit': { type: 'boolean', default: false },
    keep: { type: 'string' },
    json: { type: 'boolean', default: false },
    /** Of the process that makes things: where to. */
    prepare: { type: 'string' },
  },
});

function usage(message: string): never {
  process.stderr.write(`bench:recipe: ${message}\n`);
  process.exit(2);
}

function count(name: 'rows' | 'batch' | 'max-length' | 'accumulation' | 'max-steps'): number {
  const value = Number(options[name]);
  if (!Number.isSafeInteger(value) || value < 1) usage(`--${name}: expected a whole number of at least 1, got ${options[name]}`);
  return value;
}

if (!SHAPE_NAMES.includes(options.shape)) usage(`--shape: expected one of ${SHAPE_NAMES.join(', ')}, got ${options.shape}`);
const batchSize = count('batch');
const maxLength = count('max-length');
const gradientAccumulationSteps = count('accumulation');

/** What the rows are to a trainer that pads: to the longest row of each micro-batch, and to the full length. */
interface Prepared {
  readonly tokens: number;
  readonly paddedToLongest: number;
  readonly paddedToFull: number;
}

const modelIn = (folder: string): string => options.model ?? join(folder, options.shape);
const rowsIn = (folder: string): string => join(folder, 'messages.jsonl');

async function prepare(folder: string): Promise<Prepared> {
  const model = modelIn(folder);
  if (!existsSync(join(model, 'config.json'))) {
    if (options.model !== undefined) usage(`--model: ${model} holds no config.json`);
    const started = performance.now();
    const bytes = await writeRandomCheckpoint(model, options.shape);
    process.stderr.write(`made ${model}, ${formatBytes(bytes)}, in ${formatSeconds((performance.now() - started) / 1000)}\n`);
  }
  await writeAlpaca(join(folder, 'alpaca.json'), count('rows'));
  rmSync(rowsIn(folder), { force: true });
  await convert({ input: join(folder, 'alpaca.json'), output: rowsIn(folder) });

  const tokenizer = await Tokenizer.load(model);
  const template = await ChatTemplate.load(model, tokenizer);
  const dataset = await prepareDataset([rowsIn(folder)], { tokenizer, template, maxLength });
  const padded = new BatchPlan(dataset, {
    batchSize,
    maxLength,
    gradientAccumulationSteps,
    packing: false,
    shuffle: true,
    seed: 3407,
  }).microBatches(0);
  const longest = (rows: Int32Array): number => rows.reduce((most, row) => Math.max(most, dataset.lengths[row]!), 0);
  const result = {
    tokens: dataset.stats.tokens,
    paddedToLongest: padded.reduce((sum, rows) => sum + rows.length * longest(rows), 0),
    paddedToFull: dataset.size * maxLength,
  };
  dataset.close();
  return result;
}

function prepareElsewhere(folder: string): Prepared {
  const args = [fileURLToPath(import.meta.url), ...process.argv.slice(2), '--prepare', folder];
  const { status, stdout } = spawnSync(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });
  if (status !== 0) process.exit(status ?? 1);
  return JSON.parse(stdout) as Prepared;
}

type Event<Name> = Extract<TrainEvent, { event: Name }>;

interface Run {
  readonly start: Event<'start'>;
  readonly end: Event<'end'>;
  readonly updates: readonly { readonly tokens: number; readonly at: number }[];
  /** Reading, rendering, tokenising; then weights: read, quantised, uploaded. */
  readonly dataSeconds: number;
  readonly weightSeconds: number;
}

async function run(folder: string): Promise<Run> {
  const began = performance.now();
  let start: Event<'start'> | undefined;
  let end: Event<'end'> | undefined;
  let loading = 0;
  let started = 0;
  const updates: { tokens: number; at: number }[] = [];
  await train(
    {
      model: modelIn(folder),
      dataset: [rowsIn(folder)],
      outputDir: join(folder, 'adapter'),
      overwriteOutputDir: true,
      device: options.device as DeviceOption,
      loadIn4bit: !options['no-load-in-4bit'],
      loraR: 16,
      optim: 'adamw_8bit',
      perDeviceTrainBatchSize: batchSize,
      maxLength,
      gradientAccumulationSteps,
      numTrainEpochs: 1,
      saveStrategy: 'no',
      loggingSteps: 1,
      seed: 3407,
      ...(options['max-steps'] !== undefined && { maxSteps: count('max-steps') }),
      ...(options.memory !== undefined && { memory: options.memory }),
    },
    {
      onLoad: () => {
        loading ||= performance.now();
      },
      onEvent: (event) => {
        const now = performance.now();
        if (event.event === 'start') [start, started] = [event, now];
        else if (event.event === 'step') updates.push({ tokens: event.num_tokens, at: now });
        else if (event.event === 'end') end = event;
        if (event.event === 'step' && !options.json)
          process.stderr.write(`update ${event.step}  loss ${event.loss.toFixed(4)}\r`);
      },
    },
  );
  loading ||= started;
  return {
    start: start!,
    end: end!,
    updates,
    dataSeconds: (loading - began) / 1000,
    weightSeconds: (started - loading) / 1000,
  };
}

/** After the first update, in which kernels are loaded and algorithms chosen; of all if there is but one. */
function steadyTokensPerSecond({ updates, end }: Run): number {
  const [first, ...rest] = updates;
  const last = rest.at(-1);
  if (!first || !last) return end.tokens_per_second;
  return (1000 * rest.reduce((sum, { tokens }) => sum + tokens, 0)) / (last.at - first.at);
}

function print(prepared: Prepared, done: Run): void {
  const { start, end, dataSeconds, weightSeconds } = done;
  const speed = steadyTokensPerSecond(done);
  const { tokens, paddedToLongest, paddedToFull } = prepared;
  const result = {
    model: start.model,
    device: start.device,
    rows: start.rows,
    updates: done.updates.length,
    data_seconds: dataSeconds,
    weight_seconds: weightSeconds,
    tokens,
    tokens_per_second: speed,
    first_update_included: end.tokens_per_second,
    padded_to_longest_tokens: paddedToLongest,
    padded_to_full_tokens: paddedToFull,
    peak_memory_bytes: end.peak_memory_bytes,
    planned_memory_bytes: end.planned_memory_bytes,
    train_loss: end.train_loss,
  };
  if (options.json) {
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  const asPadded = (padded: number): string =>
    `${formatCount(padded)} tokens, as ${formatCount((speed * padded) / tokens)} tokens/s of a trainer that pads`;
  const rows = [
    ['rows', `${formatCount(start.rows)}, ${formatCount(tokens)} tokens`],
    ['data ready after', formatSeconds(dataSeconds)],
    ['weights ready after', `${formatSeconds(weightSeconds)} more`],
    [
      'packed',
      `${formatCount(speed)} tokens/s (${formatCount(end.tokens_per_second)} with the first of ${done.updates.length} updates)`,
    ],
    ['padded to the longest', asPadded(paddedToLongest)],
    [`padded to ${formatCount(maxLength)}`, asPadded(paddedToFull)],
    ['memory at most', formatBytes(end.peak_memory_bytes)],
    ['memory planned', formatBytes(end.planned_memory_bytes)],
  ];
  process.stdout.write(`${formatTable([start.model, start.device], rows)}\n`);
}

if (options.prepare !== undefined) {
  process.stdout.write(JSON.stringify(await prepare(options.prepare)));
} else {
  const folder = options.keep ?? mkdtempSync(join(tmpdir(), 'vltune-bench-recipe-'));
  mkdirSync(folder, { recursive: true });
  try {
    const prepared = prepareElsewhere(folder);
    const done = await run(folder);
    if (!options.json) process.stderr.write('\n');
    print(prepared, done);
  } finally {
    if (options.keep === undefined) rmSync(folder, { recursive: true, force: true });
  }
}
