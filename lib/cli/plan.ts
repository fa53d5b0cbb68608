/** `vltune plan`: what a run will need, before anything is allocated. */
import type { OptionTable } from '../options.js';
import { TRAIN_OPTIONS } from '../train/args.js';
import { plan } from '../train/trainer.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes, formatCount, formatTable } from './output.js';
import { ProgressStages } from './progress.js';
import { downloadProgress } from './shared_options.js';
import { checkedTrainOptions } from './train.js';

/** The options of `train`; nothing is written, so no output folder is asked for. */
const TABLE: OptionTable = { ...TRAIN_OPTIONS, outputDir: { ...TRAIN_OPTIONS.outputDir, required: false } };

const KINDS: Readonly<Record<string, string>> = {
  weights: 'frozen weights, quantised or not',
  params: 'trainable parameters (F32)',
  grads: 'their gradients (F32)',
  state: "the optimizer's state",
  arena: 'activations and scratch',
  io: 'token ids, positions, targets',
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const options = checkedTrainOptions({ ...given, values: { outputDir: '.', ...given.values } });
  const progress = new ProgressStages();
  const report = await plan(options, {
    signal,
    onDownload: downloadProgress(progress),
    onPrepare: ({ file, bytesRead, bytesTotal }) => progress.report(`Reading ${file}`, bytesRead, bytesTotal, formatBytes),
  }).finally(() => progress.stop());
  output.emit({ event: 'plan', ...report });

  const { total, recompute, ...kinds } = report.kinds;
  const rows = Object.entries(kinds).map(([kind, bytes]) => [kind, formatBytes(bytes), formatCount(bytes), KINDS[kind] ?? '']);
  rows.push([
    'process',
    formatBytes(report.processBytes),
    formatCount(report.processBytes),
    'Node, code, tokenizer, dataset index, loading',
  ]);
  rows.push([
    'total',
    formatBytes(report.plannedMemoryBytes),
    formatCount(report.plannedMemoryBytes),
    'resident memory at its peak',
  ]);
  output.say(formatTable(['memory', 'size', 'bytes', 'what'], rows, [1, 2]));
  output.say();
  output.say(`recompute: ${recompute}`);
  output.say(
    `${formatCount(report.rows)} rows, ${formatCount(report.tokens)} tokens, ${formatCount(report.targetTokens)} of them targets`,
  );
  output.say(
    `${formatCount(report.steps)} updates of ${formatCount(report.trainableParameters)} parameters, at most ${formatCount(report.maxTokens)} tokens a micro-batch`,
  );
}

export const command: CommandSpec = {
  name: 'plan',
  summary: "Tell what a training run will need, by kind of memory, before anything is allocated. Takes train's options.",
  table: TABLE,
  recipe: true,
  examples: ['vltune plan recipe.yaml', 'vltune plan --model Qwen/Qwen3-VL-2B-Instruct --dataset alpaca.json --memory 8GB'],
  run,
};
