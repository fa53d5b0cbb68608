/** Bad input is answered in one line that names it, with exit code 2 and no stack, and leaves nothing behind. */

import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import type { CommandSpec } from '../../lib/cli/command.js';
import { command as convertCommand } from '../../lib/cli/convert.js';
import { command as generateCommand } from '../../lib/cli/generate.js';
import { command as mergeCommand } from '../../lib/cli/merge.js';
import { command as planCommand } from '../../lib/cli/plan.js';
import { command as quantizeCommand } from '../../lib/cli/quantize.js';
import { runCommand } from '../../lib/cli/run_command.js';
import { command as trainCommand } from '../../lib/cli/train.js';
import { ALPACA, MODEL, scratch } from './run.js';

const test = anyTest as TestFn;

/** Runs a command in this process and catches what it writes. Not for two at a time: the tests here are serial. */
async function run(command: CommandSpec, ...args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const written = { stdout: '', stderr: '' };
  const streams = ['stdout', 'stderr'] as const;
  const originals = streams.map((name) => process[name].write);
  for (const name of streams) {
    process[name].write = ((text: string | Uint8Array) => {
      written[name] += String(text);
      return true;
    }) as typeof process.stdout.write;
  }
  try {
    return { code: await runCommand(command, args), ...written };
  } finally {
    streams.forEach((name, i) => {
      process[name].write = originals[i]!;
    });
  }
}

interface Place {
  /** An empty folder of the test. */
  readonly folder: string;
  /** An output folder that does not exist. */
  readonly out: string;
  /** Writes a file into the folder and returns its path. */
  file(name: string, content: string | Uint8Array): Promise<string>;
}

/** Declares a test: the command must exit with 2 (or `code`), say `message` in one line, and leave no output folder. */
function refused(
  name: string,
  message: RegExp,
  command: CommandSpec,
  args: (place: Place) => Promise<readonly string[]> | readonly string[],
  code = 2,
): void {
  test.serial(name, async (t) => {
    const folder = await scratch(t);
    const out = join(folder, 'out');
    const place: Place = {
      folder,
      out,
      async file(file, content) {
        const path = join(folder, file);
        await writeFile(path, content);
        return path;
      },
    };
    const given = await args(place);
    const before = await readdir(folder);
    const result = await run(command, ...given);
    t.is(result.code, code, result.stderr);
    t.regex(result.stderr, message);
    t.regex(result.stderr, /^vltune: /m);
    t.notRegex(result.stderr, /\n\s+at |unforeseen/);
    t.is(result.stdout, '');
    t.false(existsSync(out), 'no output folder is left');
    t.deepEqual((await readdir(folder)).sort(), before.sort(), 'nothing is left beside it');
  });
}

// ---- Datasets

const row = (messages: unknown): string => `${JSON.stringify({ messages })}\n`;
const turn = (role: string, content: unknown): object => ({ role, content });
const GOOD = row([turn('user', 'Hi'), turn('assistant', 'Hello')]);

function badDataset(
  name: string,
  message: RegExp,
  content: string | Uint8Array,
  more: readonly string[] = [],
  file = 'data.jsonl',
): void {
  refused(`dataset: ${name}`, message, trainCommand, async (place) => [
    ...['--model', MODEL, '--dataset', await place.file(file, content), '--output-dir', place.out, '--max-length', '64', ...more],
  ]);
}

badDataset('an empty file', /data\.jsonl: .*(empty|no rows|holds nothing)/, '');
badDataset('only blank lines', /data\.jsonl: .*(empty|no rows|holds nothing)/, '\n\n  \n');
badDataset('broken JSON is named by file, line and column', /data\.jsonl, line 2, column \d+: /, `${GOOD}{"messages": [}\n`);
badDataset('a row that is cut off', /data\.jsonl, line 2, column \d+: /, `${GOOD}{"messages": [{"role": "us`);
badDataset('a row without an assistant', /data\.jsonl, line 2.*assistant/, GOOD + row([turn('user', 'Hi')]));
badDataset('a row without a user', /data\.jsonl, line 2.*user/, GOOD + row([turn('assistant', 'Hi')]));
badDataset('an Alpaca row without an answer', /data\.jsonl, line 2.*output/, `${GOOD}{"instruction": "Hi", "output": "  "}\n`);
badDataset(
  'an unknown role',
  /data\.jsonl, line 2.*messages\[0\]\.role: expected "system", "user" or "assistant", got "owner"/,
  GOOD + row([turn('owner', 'x')]),
);
badDataset(
  'roles out of order',
  /data\.jsonl, line 2.*messages\[1\]/,
  GOOD + row([turn('user', 'a'), turn('user', 'b'), turn('assistant', 'c')]),
);
badDataset(
  'content of the wrong type',
  /data\.jsonl, line 2.*messages\[0\]\.content/,
  GOOD + row([turn('user', 7), turn('assistant', 'c')]),
);
const seeing = (item: object): string => row([turn('user', [item, { type: 'text', text: 'x' }]), turn('assistant', 'c')]);
badDataset(
  'an image that is not there is named by row and field',
  /data\.jsonl, line 2: messages\[0\]\.content\[0\]: a\.png: no such file/,
  GOOD + seeing({ type: 'image', image: 'a.png' }),
);
badDataset(
  'an image that leads out of --image-root',
  /data\.jsonl, line 1: messages\[0\]\.content\[0\]: \.\.\/package\.json: it leads out of the image root/,
  seeing({ type: 'image', image: '../package.json' }),
  ['--image-root', 'lib'],
);
badDataset(
  'an image on the network',
  /data\.jsonl, line 1: messages\[0\]\.content\[0\]: http:\/\/127\.0\.0\.1\/a\.png: .*--allow-remote-images/,
  seeing({ type: 'image_url', image_url: { url: 'http://127.0.0.1/a.png' } }),
);
badDataset(
  'sound is refused, and --skip-images named',
  /data\.jsonl, line 2: messages\[0\]\.content\[0\]: sound is not supported.*--skip-images/,
  GOOD + seeing({ type: 'audio', audio: 'a.wav' }),
);
badDataset(
  'an image in the plain text form',
  /data\.jsonl, line 1: messages\[0\]\.content\[0\]: the plain text form has no place.*--skip-images/,
  seeing({ type: 'image', image: 'a.png' }),
  ['--text-format', 'plain'],
);
badDataset(
  'bytes that are not UTF-8',
  /data\.jsonl, line 2.*UTF-8/,
  Buffer.concat([Buffer.from(GOOD), Buffer.from([0x22, 0xff, 0xfe, 0x22, 0x0a])]),
);
badDataset('nesting without end', /data\.jsonl, line 1.*(deep|nest)/, `${'['.repeat(100_000)}${']'.repeat(100_000)}\n`);
badDataset('a list where a row should be', /data\.jsonl, line 1.*object/, '[1, 2]\n');
badDataset('a file that only looks like Parquet', /data\.parquet.*Parquet/i, 'PAR1 not really', [], 'data.parquet');
badDataset(
  'no target token is left after truncation',
  /no target|target/,
  row([turn('user', 'word '.repeat(500)), turn('assistant', 'Hello')]),
  ['--max-length', '16'],
);
refused('dataset: a missing file', /none\.jsonl: no such file/i, trainCommand, ({ folder, out }) => [
  ...['--model', MODEL, '--dataset', join(folder, 'none.jsonl'), '--output-dir', out],
]);
refused(
  'dataset: a folder where a file should be',
  /is a (folder|directory)|(folder|directory)/i,
  trainCommand,
  ({ folder, out }) => [...['--model', MODEL, '--dataset', folder, '--output-dir', out]],
);

// ---- Model folders

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

async function copyModel({ folder }: Place): Promise<string> {
  const model = join(folder, 'model');
  await cp(MODEL, model, { recursive: true });
  return model;
}

async function editHeader(
  model: string,
  edit: (header: Header, data: Buffer) => Buffer | undefined,
  file = 'model.safetensors',
): Promise<void> {
  const path = join(model, file);
  const bytes = await readFile(path);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Header;
  const data = bytes.subarray(8 + length);
  const newData = edit(header, data) ?? data;
  const json = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(json.length));
  await writeFile(path, Buffer.concat([size, json, newData]));
}

async function editConfig(
  model: string,
  edit: (text: Record<string, unknown>, config: Record<string, unknown>) => void,
): Promise<void> {
  const path = join(model, 'config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  edit(config.text_config as Record<string, unknown>, config);
  await writeFile(path, JSON.stringify(config));
}

const QUERY = 'model.language_model.layers.0.self_attn.q_proj.weight';

function badModel(name: string, message: RegExp, damage: (model: string) => Promise<void>): void {
  refused(`model: ${name}`, message, trainCommand, async (place) => {
    const model = await copyModel(place);
    await damage(model);
    return ['--model', model, '--dataset', ALPACA, '--output-dir', place.out, '--max-length', '64'];
  });
}

badModel('a missing tensor is named', /layers\.0\.self_attn\.q_proj\.weight/, (model) =>
  editHeader(model, (header) => {
    header['model.language_model.layers.0.self_attn.other'] = header[QUERY]!;
    delete header[QUERY];
    return undefined;
  }),
);
badModel('a wrong shape is named with both shapes', /layers\.0\.self_attn\.q_proj\.weight.*\[/, (model) =>
  editHeader(model, (header) => {
    const { shape } = header[QUERY]!;
    header[QUERY]!.shape = [shape[0]! * 2, shape[1]! / 2];
    return undefined;
  }),
);
badModel('a wrong dtype is named', /layers\.0\.self_attn\.q_proj\.weight.*I32|I32.*q_proj/, (model) =>
  editHeader(model, (header) => {
    const tensor = header[QUERY]!;
    const width = { F32: 4, BF16: 2, F16: 2 }[tensor.dtype]!;
    tensor.dtype = width === 4 ? 'I32' : 'I16';
    return undefined;
  }),
);
badModel('a truncated file', /model\.safetensors/, async (model) => {
  const path = join(model, 'model.safetensors');
  const bytes = await readFile(path);
  await writeFile(path, bytes.subarray(0, bytes.length - 100));
});
badModel('a header that claims to be longer than the file', /model\.safetensors.*header/, async (model) => {
  const path = join(model, 'model.safetensors');
  const bytes = await readFile(path);
  bytes.writeBigUInt64LE(1n << 62n);
  await writeFile(path, bytes);
});
badModel('offsets that overlap', /model\.safetensors/, (model) =>
  editHeader(model, (header) => {
    header[QUERY]!.data_offsets = [0, header[QUERY]!.data_offsets[1] - header[QUERY]!.data_offsets[0]];
    return undefined;
  }),
);
badModel('an index that names a missing shard', /model-00002-of-00002\.safetensors/, async (model) => {
  await rm(join(model, 'model.safetensors'));
  await writeFile(
    join(model, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: { [QUERY]: 'model-00002-of-00002.safetensors' } }),
  );
});
badModel('an index with a path that leaves the folder', /\.\.\/secret\.safetensors|leaves|outside/, async (model) => {
  await rm(join(model, 'model.safetensors'));
  await writeFile(
    join(model, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: { [QUERY]: '../secret.safetensors' } }),
  );
});
badModel('no weights at all', /model.*safetensors/, (model) => rm(join(model, 'model.safetensors')));
badModel('no config.json', /config\.json/, (model) => rm(join(model, 'config.json')));
badModel('a config.json that is not JSON', /config\.json.*line 1/, (model) =>
  writeFile(join(model, 'config.json'), '{"model_type": '),
);
badModel('an unknown model_type is refused by name', /mamba9/, (model) =>
  editConfig(model, (_, config) => {
    config.model_type = 'mamba9';
  }),
);
for (const [name, value] of [
  ['missing', undefined],
  ['negative', -64],
  ['huge', 1e15],
  ['a text', 'sixty-four'],
  ['a fraction', 64.5],
  ['zero', 0],
] as const) {
  badModel(`hidden_size ${name}`, /config\.json.*hidden_size/, (model) =>
    editConfig(model, (text) => {
      text.hidden_size = value;
    }),
  );
}
badModel('no tokenizer.json', /tokenizer\.json/, (model) => rm(join(model, 'tokenizer.json')));
badModel('a tokenizer.json that is not JSON', /tokenizer\.json/, (model) => writeFile(join(model, 'tokenizer.json'), 'no'));
refused('model: a folder that is not there', /nowhere/, trainCommand, ({ folder, out }) => [
  ...['--model', join(folder, 'nowhere'), '--dataset', ALPACA, '--output-dir', out],
]);

// ---- Adapters

async function adapterOf(place: Place, edit: (config: Record<string, unknown>) => void): Promise<string> {
  const adapter = join(place.folder, 'adapter');
  await cp('test/fixtures/parity/adapter-final', adapter, { recursive: true });
  const path = join(adapter, 'adapter_config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  edit(config);
  await writeFile(path, JSON.stringify(config));
  return adapter;
}

refused('adapter: a folder without one', /adapter_config\.json|no such folder/, mergeCommand, ({ folder, out }) => [
  ...['--model', MODEL, '--adapter', join(folder, 'none'), '--output-dir', out],
]);
refused('adapter: a rank that its tensors do not have', /lora_A.*\[/, mergeCommand, async (place) => {
  const adapter = await adapterOf(place, (config) => {
    config.r = 3;
  });
  return ['--model', MODEL, '--adapter', adapter, '--output-dir', place.out];
});
refused('adapter: another kind than LoRA', /peft_type.*PROMPT_TUNING|PROMPT_TUNING/, generateCommand, async (place) => {
  const adapter = await adapterOf(place, (config) => {
    config.peft_type = 'PROMPT_TUNING';
  });
  return ['--model', MODEL, '--adapter', adapter, '--prompt', 'hi'];
});
refused('adapter: one for another model', /the adapter does not fit the model.*layers\.9\./, mergeCommand, async (place) => {
  const adapter = await adapterOf(place, () => {});
  await editHeader(
    adapter,
    (header) => {
      for (const name of Object.keys(header)) {
        if (!name.includes('layers.0.')) continue;
        header[name.replace('layers.0.', 'layers.9.')] = header[name]!;
        delete header[name];
      }
      return undefined;
    },
    'adapter_model.safetensors',
  );
  return ['--model', MODEL, '--adapter', adapter, '--output-dir', place.out];
});

// ---- Output folders

refused('output: a file in its place', /--output-dir: .* is a file/, trainCommand, async (place) => [
  ...['--model', MODEL, '--dataset', ALPACA, '--output-dir', await place.file('taken', '')],
]);
refused('output: a file above it', /--output-dir: .*(is a file|not a folder)/, trainCommand, async (place) => [
  ...['--model', MODEL, '--dataset', ALPACA, '--output-dir', join(await place.file('taken', ''), 'deep', 'out')],
]);
refused(
  'output: a folder that holds something',
  /--output-dir: .* is not empty \(it holds model\)/,
  quantizeCommand,
  async (place) => {
    await copyModel(place);
    return ['--model', MODEL, '--output-dir', place.folder];
  },
);
refused('output: a link to nothing', /--output-dir: .*symbolic link to nothing/, mergeCommand, async (place) => {
  await symlink(join(place.folder, 'gone'), join(place.folder, 'link'));
  return ['--model', MODEL, '--adapter', 'test/fixtures/parity/adapter-final', '--output-dir', join(place.folder, 'link')];
});

// ---- Commands

refused('convert: a missing input', /none\.json: /, convertCommand, ({ folder, out }) => [
  '-i',
  join(folder, 'none.json'),
  '-o',
  out,
]);
refused('convert: an input that holds nothing', /empty|holds nothing|no (rows|records|items)/, convertCommand, async (place) => [
  ...['-i', await place.file('a.json', '[]'), '-o', place.out],
]);
refused('convert: broken JSON by line', /a\.jsonl, line 2/, convertCommand, async (place) => [
  ...['-i', await place.file('a.jsonl', '{"instruction":"a","output":"b"}\n{bad\n'), '-o', place.out],
]);
refused('convert: an unknown format', /--output-format: expected jsonl or json, got "csv"/, convertCommand, ({ out }) => [
  '-i',
  ALPACA,
  '-o',
  out,
  '-f',
  'csv',
]);
refused('generate: no prompt', /expected one of --prompt, --messages and --raw, got none/, generateCommand, () => [
  '--model',
  MODEL,
]);
refused('generate: two prompts', /got --prompt and --raw/, generateCommand, () => [
  '--model',
  MODEL,
  '--prompt',
  'a',
  '--raw',
  'b',
]);
refused('generate: --system without --prompt', /--system: goes with --prompt only/, generateCommand, () => [
  '--model',
  MODEL,
  '--raw',
  'b',
  '--system',
  's',
]);
refused('generate: a negative temperature', /--temperature: expected a number from 0 to 100, got -1/, generateCommand, () => [
  ...['--model', MODEL, '--prompt', 'a', '--temperature', '-1'],
]);
refused('generate: an image beside messages', /--image: goes with --prompt only/, generateCommand, async (place) => [
  ...['--model', MODEL, '--messages', await place.file('m.json', '[{"role":"user","content":"x"}]'), '--image', 'a.png'],
]);
refused('generate: an image that is not there', /images\[0\]: none\.png: no such file/, generateCommand, () => [
  ...['--model', MODEL, '--prompt', 'x', '--image', 'none.png'],
]);
refused(
  'generate: a messages file with an image without a source',
  /m\.json: messages\[0\]\.content\[0\]: a picture without a source/,
  generateCommand,
  async (place) => [
    ...['--model', MODEL, '--messages', await place.file('m.json', '[{"role":"user","content":[{"type":"image"}]}]')],
  ],
);
refused(
  "generate: a messages file with a column of pictures and no turn of the user's",
  /m\.json: images: there is no turn of the user that its pictures could stand in/,
  generateCommand,
  async (place) => [
    ...['--model', MODEL, '--messages'],
    await place.file('m.json', '{"messages":[{"role":"system","content":"x"}],"images":["a.png"]}'),
  ],
);
refused(
  'generate: a messages file with an unknown role',
  /m\.json: messages\[0\]\.role: expected "system", "user" or "assistant", got "bot"/,
  generateCommand,
  async (place) => [...['--model', MODEL, '--messages', await place.file('m.json', '[{"role":"bot","content":"x"}]')]],
);
refused('generate: a messages file that is not JSON', /m\.json:1:\d+: not valid JSON/, generateCommand, async (place) => [
  ...['--model', MODEL, '--messages', await place.file('m.json', '[{"role"')],
]);
refused(
  'plan: memory that no plan fits in',
  /memory/i,
  planCommand,
  () => ['--model', MODEL, '--dataset', ALPACA, '--max-length', '64', '--memory', '1KB'],
  1,
);
refused('train: exclusive options', /--full-finetuning and --load-in-4bit exclude each other/, trainCommand, ({ out }) => [
  ...['--model', MODEL, '--dataset', ALPACA, '--output-dir', out, '--full-finetuning', '--load-in-4bit'],
]);
refused(
  'train: a target module that the model does not have',
  /--?target.?modules.*zzz_proj|zzz_proj/i,
  trainCommand,
  ({ out }) => [
    ...['--model', MODEL, '--dataset', ALPACA, '--output-dir', out, '--max-length', '64', '--target-modules', 'zzz_proj'],
  ],
);

test.serial('a loss that is not a number stops the run with 1, names the step and keeps what was saved', async (t) => {
  const folder = await scratch(t);
  const place = { folder, out: join(folder, 'out') } as Place;
  const model = await copyModel(place);
  await editHeader(model, (header, data) => {
    const norm = header['model.language_model.norm.weight']!;
    const changed = Buffer.from(data);
    const width = (norm.data_offsets[1] - norm.data_offsets[0]) / norm.shape[0]!;
    // The largest finite number of F32 and of BF16 begins alike: the head's products overflow.
    for (let at = norm.data_offsets[0]; at < norm.data_offsets[1]; at += width) changed.writeUInt16LE(0x7f7f, at + width - 2);
    return changed;
  });
  await mkdir(place.out);
  const { code, stderr } = await run(
    trainCommand,
    '--model',
    model,
    '--dataset',
    ALPACA,
    '--output-dir',
    place.out,
    '--max-length',
    '64',
    '--save-steps',
    '1',
  );
  t.is(code, 1, stderr);
  t.regex(stderr, /vltune: step 1: loss is (NaN|Infinity)/);
  t.deepEqual(await readdir(place.out), [], 'no adapter of such a run is left');
});

test.serial('a row longer than max-length is cut, counted and reported', async (t) => {
  const folder = await scratch(t);
  const data = join(folder, 'long.jsonl');
  await writeFile(data, GOOD + row([turn('user', 'Hi'), turn('assistant', 'word '.repeat(300))]));
  const out = join(folder, 'out');
  const { code, stderr } = await run(
    trainCommand,
    '--model',
    MODEL,
    '--dataset',
    data,
    '--output-dir',
    out,
    '--max-length',
    '64',
    '--max-steps',
    '1',
  );
  t.is(code, 0, stderr);
  t.regex(stderr, /vltune: warning: 1 rows were longer than --max-length and lost their end/);
});

test.serial('image rows are left out with --skip-images, and counted', async (t) => {
  const folder = await scratch(t);
  const data = join(folder, 'images.jsonl');
  await writeFile(
    data,
    GOOD +
      row([
        turn('user', [
          { type: 'image', image: 'a.png' },
          { type: 'text', text: 'x' },
        ]),
        turn('assistant', 'c'),
      ]),
  );
  const out = join(folder, 'out');
  const { code, stderr } = await run(
    trainCommand,
    '--model',
    MODEL,
    '--dataset',
    data,
    '--output-dir',
    out,
    '--max-length',
    '64',
    '--max-steps',
    '1',
    '--skip-images',
  );
  t.is(code, 0, stderr);
  t.regex(stderr, /vltune: warning: 1 rows were left out/);
});
