import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { ALPACA, jsonLines, MODEL, scratch, vltune } from './run.js';

const ADAPTER = 'test/fixtures/parity/adapter-final';
const GREEDY = ['--temperature', '0', '--max-new-tokens', '6', '--dtype', 'float32'];

test('generate streams the text that --json tells with its token ids', async (t) => {
  const args = ['generate', '--model', MODEL, '--prompt', 'Who are you?', ...GREEDY];
  const [people, json] = await Promise.all([vltune(args), vltune([...args, '--json'])]);
  t.is(people.code, 0, people.stderr);
  const lines = jsonLines(json.stdout);
  t.is(lines.length, 1);
  const { text, token_ids: ids, num_prompt_tokens: prompt, finish_reason: reason, tokens_per_second: rate } = lines[0]!;
  t.is(people.stdout, `${String(text)}\n`);
  t.true((ids as number[]).length <= 6 && (ids as number[]).every(Number.isInteger));
  t.is(reason, (ids as number[]).length === 6 ? 'length' : 'stop');
  t.true(Number(prompt) > 4 && Number(rate) > 0);
  t.deepEqual(Object.keys(lines[0]!), ['text', 'token_ids', 'num_prompt_tokens', 'finish_reason', 'tokens_per_second']);
});

test('a messages file is the same as the prompt and system that it holds; raw text has no template', async (t) => {
  const file = join(await scratch(t), 'chat.json');
  const messages = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: [{ type: 'text', text: 'Hi' }] },
  ];
  await writeFile(file, JSON.stringify({ messages }));
  const answer = async (...args: string[]): Promise<Record<string, unknown>> => {
    const { code, stdout, stderr } = await vltune(['generate', '--model', MODEL, ...GREEDY, '--json', ...args]);
    t.is(code, 0, stderr);
    return jsonLines(stdout)[0]!;
  };
  const fromFile = await answer('--messages', file);
  const fromPrompt = await answer('--prompt', 'Hi', '--system', 'Be brief.');
  t.deepEqual(fromFile.token_ids, fromPrompt.token_ids);
  t.is(fromFile.num_prompt_tokens, fromPrompt.num_prompt_tokens);
  t.true(Number((await answer('--raw', 'Hi')).num_prompt_tokens) < 4);
});

test('images and videos of the command line stand before the prompt, as messages that hold them in their folder have it', async (t) => {
  const folder = await scratch(t);
  const [picture, frames] = [join(folder, 'a.png'), join(folder, 'frames')];
  await mkdir(frames);
  await copyFile('test/fixtures/media-rows/wide.png', picture);
  for (const name of ['frame0.png', 'frame1.png']) await copyFile(`test/fixtures/media-rows/${name}`, join(frames, name));
  const content = [
    { type: 'image', image: 'a.png' },
    { type: 'video', video: 'frames' },
    { type: 'text', text: 'What?' },
  ];
  const file = join(folder, 'chat.json');
  await writeFile(file, JSON.stringify([{ role: 'user', content }]));
  const answer = async (...args: string[]) => {
    const { code, stdout, stderr } = await vltune(['generate', '--model', MODEL, ...GREEDY, '--json', ...args]);
    t.is(code, 0, stderr);
    const { token_ids: ids, num_prompt_tokens: prompt } = jsonLines(stdout)[0]!;
    return { ids, prompt };
  };
  const fromLine = await answer('--prompt', 'What?', '--image', picture, '--video', frames);
  t.deepEqual(await answer('--messages', file), fromLine);
  t.true(Number(fromLine.prompt) > 65 + 4);
});

test('a seed repeats what is sampled', async (t) => {
  const sample = async (seed: string): Promise<unknown> => {
    const args = [
      '--prompt',
      'Hi',
      '--temperature',
      '2',
      '--top-k',
      '0',
      '--top-p',
      '1',
      '--max-new-tokens',
      '8',
      '--seed',
      seed,
    ];
    return jsonLines((await vltune(['generate', '--model', MODEL, '--json', ...args])).stdout)[0]!.token_ids;
  };
  const [first, again, other] = await Promise.all([sample('1'), sample('1'), sample('2')]);
  t.deepEqual(first, again);
  t.notDeepEqual(first, other);
});

test('merge then generate answers as the adapter does; quantize then generate as 4 bits do', async (t) => {
  const folder = await scratch(t);
  const merged = join(folder, 'merged');
  const merge = await vltune(['merge', '--model', MODEL, '--adapter', ADAPTER, '--output-dir', merged, '--json']);
  t.is(merge.code, 0, merge.stderr);
  t.like(jsonLines(merge.stdout)[0], { event: 'end', output_dir: merged });
  const quantized = join(folder, 'nf4');
  const quantize = await vltune(['quantize', '--model', MODEL, '--output-dir', quantized, '--json']);
  t.is(quantize.code, 0, quantize.stderr);
  const { bytes_before: before, bytes_after: after } = jsonLines(quantize.stdout)[0]!;
  t.true(Number(after) < Number(before));

  const ids = async (...args: string[]): Promise<unknown> => {
    const { code, stdout, stderr } = await vltune(['generate', ...args, '--prompt', 'Who are you?', ...GREEDY, '--json']);
    t.is(code, 0, stderr);
    return jsonLines(stdout)[0]!.token_ids;
  };
  t.deepEqual(await ids('--model', merged), await ids('--model', MODEL, '--adapter', ADAPTER));
  t.deepEqual(await ids('--model', quantized), await ids('--model', MODEL, '--load-in-4bit'));
});

test('convert writes what it says, in both forms, and previews on request', async (t) => {
  const folder = await scratch(t);
  const lines = join(folder, 'a.jsonl');
  const people = await vltune(['convert', '-i', ALPACA, '-o', lines, '-p', '1']);
  t.is(people.code, 0, people.stderr);
  const rows = (await readFile(lines, 'utf8')).trimEnd().split('\n');
  t.is(people.stdout.trimEnd().split('\n').at(-1), `Converted ${rows.length} items -> ${lines} (format=jsonl)`);
  t.deepEqual(JSON.parse(people.stdout.slice(0, people.stdout.indexOf('Converted'))), JSON.parse(rows[0]!));

  const array = join(folder, 'a.json');
  const json = await vltune(['convert', '--input', ALPACA, '--output', array, '--output-format', 'json', '--json', '-p', '1']);
  t.deepEqual(jsonLines(json.stdout), [{ event: 'end', rows: rows.length, output: array, format: 'json' }]);
  t.regex(json.stderr, /"role": "user"/, 'the preview is for people');
  t.deepEqual(
    JSON.parse(await readFile(array, 'utf8')),
    rows.map((row) => JSON.parse(row) as unknown),
  );
});

test('a hub id that is not in the cache and may not be fetched is refused by name', async (t) => {
  const home = await scratch(t);
  const { code, stderr } = await vltune(['generate', '--model', 'nobody/nothing', '--prompt', 'x'], {
    env: { HF_HOME: home, HF_HUB_OFFLINE: '1' },
  });
  t.is(code, 2);
  t.regex(stderr, /^vltune: .*nobody\/nothing/);
  t.false(existsSync(join(home, 'hub', 'models--nobody--nothing')));
});
