/**
 * vltune beside its peers on this machine's CPU: torch's kernels, bitsandbytes' NF4, and a LoRA training step of transformers and
 * PEFT, on text and with pictures. Kernels are sampled in turn with a Python process that waits in between; training runs alternate as
 * whole processes.
 *
 *     npm run bench:peers -- --python PATH [--threads N] [--time S] [--steps N] [--rounds N] [--only kernels|training] [--filter TEXT] [--json]
 *
 * PATH is a Python with torch, and for the respective rows bitsandbytes, transformers and PEFT.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import sharp from 'sharp';
import { benchName, runBenches } from '../../lib/bench/bench.js';
import { quantile } from '../../lib/bench/harness.js';
import { productBench } from '../../lib/bench/ops/linear.js';
import { SCOPES } from '../../lib/bench/shapes.js';
import { formatBytes, formatTable } from '../../lib/cli/output.js';
import { addon, PACKAGE_ROOT } from '../../lib/native.js';
import { commonPairs, comparePairs, filtered, type KernelPair } from './kernel_pairs.js';
import { PEERS, PeerProcess } from './peer_process.js';
import { Usage } from './usage.js';

const usage = new Usage('bench:peers');
const options = usage.parse({
  python: { type: 'string' },
  threads: { type: 'string', default: String(addon().cpuInfo().threads) },
  time: { type: 'string', default: '0.5' },
  steps: { type: 'string', default: '8' },
  rounds: { type: 'string', default: '2' },
  only: { type: 'string' },
  filter: { type: 'string', default: '' },
  json: { type: 'boolean', default: false },
});
const threads = usage.number('threads', options.threads);
const python = usage.python(options.python);
if (options.only !== undefined && !['kernels', 'training'].includes(options.only)) {
  usage.fail(`--only: expected kernels or training, got ${JSON.stringify(options.only)}`);
}

const { tokens: TOKENS } = SCOPES.cpu;

/** torch's idle threads spin for some milliseconds. */
const SETTLE_SECONDS = 0.02;

// ---- kernels ---------------------------------------------------------------------------------------------------------

function pairs(): KernelPair[] {
  return (['f32', 'bf16'] as const).flatMap((dtype) => [
    ...[512, 1024, 2048].map((n) => ({
      bench: productBench(dtype, n, n, n),
      peer: { op: 'linear', rows: n, in: n, out: n },
      peerName: 'torch',
    })),
    ...commonPairs(SCOPES.cpu, dtype),
  ]);
}

async function kernels(): Promise<void> {
  const seconds = usage.number('time', options.time);
  const rows: string[][] = [];
  const peer = new PeerProcess(python, 'peer_kernels.py', threads);
  addon().setThreads(threads);
  try {
    const chosen = filtered(pairs(), options.filter);
    for await (const compared of comparePairs(chosen, peer, 'cpu', { seconds, settleSeconds: SETTLE_SECONDS })) {
      const { bench, peerName, comparison: result, missing } = compared;
      const { kernel, shape, dtype } = bench;
      const rate = (time: number): number => ('bytes' in bench.work ? bench.work.bytes : bench.work.flops) / time / 1e9;
      const unit = 'bytes' in bench.work ? 'GB/s' : 'GFLOP/s';
      if (!result) {
        note(`${benchName(bench)}: ${peerName} cannot run this: ${missing}`);
        continue;
      }
      // The bench's own baseline, a copy, is shown too.
      let baseline: { name: string; ratio: number } | undefined;
      if (peerName === 'bitsandbytes')
        for await (const own of runBenches([bench], seconds)) baseline = { name: own.baseline.name, ratio: own.ratio };
      emit({
        event: 'kernel',
        kernel,
        shape,
        dtype,
        threads,
        unit,
        vltune: rate(result.kernel.seconds),
        peer: peerName,
        peer_rate: rate(result.baseline.seconds),
        ratio: result.timeRatio,
        ...(baseline && { baseline: baseline.name, baseline_ratio: baseline.ratio }),
      });
      const spread = Math.round((50 * (result.kernel.high - result.kernel.low)) / result.kernel.seconds);
      rows.push([
        kernel,
        shape,
        dtype,
        rate(result.kernel.seconds).toPrecision(3),
        `${spread}%`,
        rate(result.baseline.seconds).toPrecision(3),
        unit,
        result.timeRatio.toFixed(2),
        peerName,
        baseline ? `${baseline.ratio.toFixed(2)} of ${baseline.name}` : '',
      ]);
      note(rows.at(-1)!.join('  '));
    }
  } finally {
    await peer.end();
  }
  table(['kernel', 'shape', 'dtype', 'vltune', '±', 'peer', '', 'times', 'peer is', 'and'], rows, [3, 4, 5, 7]);
}

// ---- training --------------------------------------------------------------------------------------------------------

const TRAINED = [
  {
    name: '100 M',
    shape: { hidden: 768, intermediate: 2048, layers: 10, heads: 12, kv_heads: 4, head_dim: 64, vocab: 32_000 },
    tower: { depth: 8, hidden: 512, intermediate: 2048, heads: 8 },
  },
  {
    name: 'tiny',
    shape: { hidden: 192, intermediate: 512, layers: 6, heads: 6, kv_heads: 2, head_dim: 32, vocab: 2048 },
    tower: { depth: 3, hidden: 96, intermediate: 384, heads: 3 },
  },
] as const;
/**
 * What an update learns from. A row's picture is another one each time and half of its tokens. vltune reads and decodes it; the peer is given
 * its patches.
 */
const SUBJECTS = [
  { name: 'text', side: 0, tower: false },
  { name: 'a picture', side: 512, tower: false },
  { name: 'a picture, LoRA in the tower', side: 512, tower: true },
] as const;
type Subject = (typeof SUBJECTS)[number];
const WARM_UP = 2;

interface TrainingRun {
  readonly tokensPerSecond: number[];
  readonly peakBytes: number;
}

async function* jsonLines(
  command: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): AsyncGenerator<Record<string, unknown>> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-4000);
  });
  for await (const line of createInterface({ input: child.stdout }))
    if (line.startsWith('{')) yield JSON.parse(line) as Record<string, unknown>;
  if (child.exitCode === null) await once(child, 'exit');
  if (child.exitCode !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${child.exitCode}:\n${errors}`);
}

async function trainVltune(
  { tower }: Subject,
  model: string,
  dataset: string,
  output: string,
  steps: number,
): Promise<TrainingRun> {
  const args = [
    join(PACKAGE_ROOT, 'dist', 'lib', 'cli', 'main.js'),
    ...['train', '--json', '--model', model, '--dataset', dataset, '--output-dir', output],
    ...['--device', 'cpu', '--no-load-in-4bit', '--dtype', 'float32', '--optim', 'adamw_torch'],
    ...['--no-assistant-only-loss', '--no-packing'],
    ...['--per-device-train-batch-size', '1', '--gradient-accumulation-steps', '1', '--max-length', String(TOKENS)],
    ...['--max-steps', String(steps), '--logging-steps', '1', '--save-strategy', 'no'],
    ...(tower ? ['--finetune-vision-layers'] : []),
  ];
  const run = { tokensPerSecond: [] as number[], peakBytes: 0 };
  for await (const event of jsonLines(process.execPath, args, { ...process.env, VLTUNE_NUM_THREADS: String(threads) })) {
    if (event.event === 'step') {
      if (event.num_tokens !== TOKENS)
        throw new Error(`vltune: an update of ${String(event.num_tokens)} tokens, expected ${TOKENS}`);
      run.tokensPerSecond.push(event.tokens_per_second as number);
    }
    if (event.event === 'end') run.peakBytes = event.peak_memory_bytes as number;
  }
  return run;
}

async function trainPeer({ side, tower }: Subject, model: string, steps: number): Promise<TrainingRun> {
  const args = [
    join(PEERS, 'peer_train.py'),
    model,
    '--threads',
    String(threads),
    '--tokens',
    String(TOKENS),
    '--steps',
    String(steps),
    ...(side > 0 ? ['--picture', String(side)] : []),
    ...(tower ? ['--tower'] : []),
  ];
  const run = { tokensPerSecond: [] as number[], peakBytes: 0 };
  for await (const { seconds, peak_memory_bytes: peak } of jsonLines(python, args, process.env)) {
    if (typeof seconds === 'number') run.tokensPerSecond.push(TOKENS / seconds);
    if (typeof peak === 'number') run.peakBytes = peak;
  }
  return run;
}

/** Rows whose text is far longer than a row may be, so that every update has as many tokens; with a picture of `side` × `side` each, or none. */
async function writeRows(folder: string, count: number, side: number): Promise<string> {
  const words = 'the of and to in is that for it as was with be by on not he his but at are this have from'.split(' ');
  const text = (seed: number): string =>
    Array.from({ length: 900 }, (_, i) => words[(i * 7 + seed * 13 + ((i * i) % 11)) % words.length]).join(' ');
  const rows: string[] = [];
  for (let row = 0; row < count; row++) {
    const image = `${row}.jpg`;
    if (side > 0) await writePicture(join(folder, image), side, row);
    const content = [...(side > 0 ? [{ type: 'image', image }] : []), { type: 'text', text: text(row) }];
    const messages = [
      { role: 'user', content },
      { role: 'assistant', content: text(row + 1) },
    ];
    rows.push(JSON.stringify({ messages }));
  }
  const dataset = join(folder, `rows-${side}.jsonl`);
  writeFileSync(dataset, `${rows.join('\n')}\n`);
  return dataset;
}

async function writePicture(file: string, side: number, seed: number): Promise<void> {
  const pixels = Uint8Array.from({ length: side * side * 3 }, (_, i) => (i * (seed + 3)) >> 6);
  await sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
    .jpeg()
    .toFile(file);
}

async function training(): Promise<void> {
  const steps = Math.round(usage.number('steps', options.steps)) + WARM_UP;
  const rounds = Math.round(usage.number('rounds', options.rounds));
  const folder = mkdtempSync(join(tmpdir(), 'vltune-peers-'));
  const rows: string[][] = [];
  try {
    for (const { name, shape, tower, subject } of TRAINED.flatMap((model) =>
      SUBJECTS.map((subject) => ({ ...model, subject })),
    )) {
      const dataset = await writeRows(folder, steps, subject.side);
      const model = mkdtempSync(join(folder, 'model-'));
      const made = { ...shape, ...(subject.side > 0 && { tower }) };
      execFileSync(python, [join(PEERS, 'make_model.py'), JSON.stringify(made), model], { stdio: 'pipe' });
      const runs: { vltune: TrainingRun[]; peer: TrainingRun[] } = { vltune: [], peer: [] };
      for (let round = 0; round < rounds; round++) {
        runs.vltune.push(await trainVltune(subject, model, dataset, join(model, `adapter-${round}`), steps));
        runs.peer.push(await trainPeer(subject, model, steps));
      }
      const speed = (of: TrainingRun[]): number =>
        quantile(
          of.flatMap((run) => run.tokensPerSecond.slice(WARM_UP)),
          0.5,
        );
      const peak = (of: TrainingRun[]): number => Math.max(...of.map((run) => run.peakBytes));
      const [ours, theirs] = [speed(runs.vltune), speed(runs.peer)];
      const [ourPeak, theirPeak] = [peak(runs.vltune), peak(runs.peer)];
      emit({
        event: 'training',
        model: name,
        subject: subject.name,
        ...made,
        threads,
        tokens: TOKENS,
        vltune: ours,
        vltune_peak_bytes: ourPeak,
        peer: 'transformers + PEFT',
        peer_rate: theirs,
        peer_peak_bytes: theirPeak,
        ratio: ours / theirs,
        memory_ratio: ourPeak / theirPeak,
      });
      rows.push([
        `${name}, ${subject.name}`,
        `${ours.toFixed(0)}`,
        `${theirs.toFixed(0)}`,
        (ours / theirs).toFixed(2),
        formatBytes(ourPeak),
        formatBytes(theirPeak),
        (ourPeak / theirPeak).toFixed(2),
      ]);
      note(rows.at(-1)!.join('  '));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  table(
    [`LoRA step, F32, ${TOKENS} tokens`, 'vltune tok/s', 'transformers+PEFT tok/s', 'times', 'vltune peak', 'peer peak', 'of it'],
    rows,
    [1, 2, 3, 4, 5, 6],
  );
}

// ---- output ----------------------------------------------------------------------------------------------------------

function emit(value: Readonly<Record<string, unknown>>): void {
  if (options.json) process.stdout.write(`${JSON.stringify(value)}\n`);
}

function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

function table(head: readonly string[], rows: readonly (readonly string[])[], right: readonly number[]): void {
  if (!options.json) process.stdout.write(`\n${formatTable(head, rows, right)}\n`);
}

const { model, isa } = addon().cpuInfo();
note(`${model}, ${isa}, ${threads} threads on both sides`);
if (options.only !== 'training') await kernels();
if (options.only !== 'kernels') await training();
