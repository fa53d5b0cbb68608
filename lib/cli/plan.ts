/** `vltune plan`: what a run will need, before anything is allocated. */
import type { OptionTable } from '../options.js';
import { TRAIN_OPTIONS } from '../train/args.js';
import { type PlanReport, plan } from '../train/trainer.js';
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

function blocksText({ elementwise, layers, host, of }: PlanReport['kinds']['recomputedBlocks']): string {
  const parts = [
    host > 0 && `${host} kept on the host`,
    layers > 0 && `${layers} whole`,
    elementwise > 0 && `${elementwise} in their elementwise parts`,
  ].filter(Boolean);
  return `of ${of} blocks ${parts.join(', ')}`;
}

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const options = checkedTrainOptions({ ...given, values: { outputDir: '.', ...given.values } });
  const progress = new ProgressStages();
  const report = await plan(options, {
    signal,
    onDownload: downloadProgress(progress),
    onPrepare: ({ file, bytesRead, bytesTotal }) => progress.report(`Reading ${file}`, bytesRead, bytesTotal, formatBytes),
  }).finally(() => progress.stop());
  output.emit({ event: 'plan', ...report });

  const { total, host, recompute, recomputedBlocks, ...kinds } = report.kinds;
  const onCpu = report.device === 'cpu';
  const rows = Object.entries(kinds).map(([kind, bytes]) => [kind, formatBytes(bytes), formatCount(bytes), KINDS[kind] ?? '']);
  if (report.visionBytes > 0)
    rows.push([
      'vision',
      formatBytes(report.visionBytes),
      formatCount(report.visionBytes),
      'activations of the tower, run by itself',
    ]);
  rows.push([
    onCpu ? 'process' : 'driver',
    formatBytes(report.processBytes),
    formatCount(report.processBytes),
    onCpu ? 'Node, code, tokenizer, dataset index, loading' : 'its own, other programs, loading',
  ]);
  rows.push([
    'total',
    formatBytes(report.plannedMemoryBytes),
    formatCount(report.plannedMemoryBytes),
    onCpu ? 'resident memory at its peak' : 'what the GPU holds at its peak',
  ]);
  if (host > 0)
    rows.push(['host', formatBytes(host), formatCount(host), 'beside that: pinned memory of the host that the GPU reads']);
  output.say(formatTable(['memory', 'size', 'bytes', 'what'], rows, [1, 2]));
  output.say();
  output.say(`recompute: ${recompute}${recompute === 'none' ? '' : ` (${blocksText(recomputedBlocks)})`}`);
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
  examples: [
    'vltune plan recipe.yaml',
    'vltune plan --model Qwen/Qwen3-VL-2B-Instruct --dataset alpaca.json --device cuda --memory 8GB',
  ],
  run,
};
