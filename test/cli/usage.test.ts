import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { addon } from '../../lib/native.js';
import { kebabCase } from '../../lib/options.js';
import { TRAIN_OPTIONS } from '../../lib/train/args.js';
import { MAIN, MESSAGES, MODEL, scratch, vltune } from './run.js';

const GPU = addon().cudaInfo().available;

const COMMANDS = ['demo', 'convert', 'train', 'launch', 'generate', 'report', 'merge', 'quantize', 'plan', 'doctor', 'bench'];

test('help names every command and exits 0; no command at all exits 2', async (t) => {
  const help = await vltune(['--help']);
  t.is(help.code, 0);
  for (const command of COMMANDS) t.regex(help.stdout, new RegExp(`^ {2}${command} `, 'm'));
  const none = await vltune([]);
  t.is(none.code, 2);
  t.is(none.stdout, '');
  t.regex(none.stderr, /Usage: vltune/);
});

test('help and version load nothing but the table of commands and the version', async (t) => {
  const folder = await scratch(t);
  const { code, stdout } = await vltune(['--version'], { env: { NODE_V8_COVERAGE: folder } });
  t.is(code, 0);
  t.regex(stdout, /^\d+\.\d+\.\d+\n$/);
  const [report] = await readdir(folder);
  const { result } = JSON.parse(await readFile(join(folder, report!), 'utf8')) as { result: { url: string }[] };
  const loaded = result.map(({ url }) => url).filter((url) => url.startsWith('file:'));
  const foreign = loaded.filter(
    (url) => !url.includes('/node_modules/commander/') && !/\/dist\/lib\/(cli\/main|version)\.js$/.test(url),
  );
  t.true(loaded.length > 1);
  t.deepEqual(foreign, []);
});

for (const command of COMMANDS) {
  test(`${command} --help states unit or default of every option`, async (t) => {
    const { code, stdout, stderr } = await vltune([command, '--help'], { env: { COLUMNS: '200' } });
    t.is(code, 0, stderr);
    t.is(stderr, '');
    t.regex(stdout, new RegExp(`^Usage: vltune ${command} `));
    t.regex(stdout, /--json/);
    t.regex(stdout, /Exit codes: 0 done/);
    // One option a paragraph: from its flags to the next line that starts with flags, a heading or nothing.
    const paragraphs = stdout.split(/\n(?= {2}-|\n|\S)/).filter((part) => /^ {2}--/.test(part) && !/^ {2}--json/.test(part));
    for (const paragraph of paragraphs) t.regex(paragraph.replace(/\s+/g, ' '), /\((.*; )?(default: .+|required)\)$/);
  });
}

test('train --help has every option of the table in kebab case, and --no- forms', async (t) => {
  const { stdout } = await vltune(['train', '--help']);
  for (const key of Object.keys(TRAIN_OPTIONS)) t.true(stdout.includes(`--${kebabCase(key)}`), key);
  for (const flag of ['packing', 'shuffle', 'load-in-4bit', 'append-eos', 'assistant-only-loss'])
    t.true(stdout.includes(`--no-${flag}`), flag);
});

test('unknown commands and options exit 2 and suggest the nearest', async (t) => {
  const cases: readonly (readonly [string[], RegExp])[] = [
    [['trian'], /^vltune: unknown command 'trian'.*Did you mean train\?/],
    [['--verson'], /^vltune: unknown option '--verson'.*Did you mean --version\?/],
    [['train', '--learning-rat', '1'], /^vltune: unknown option --learning-rat; did you mean --learning-rate\?\n$/],
    [['train', '--learning_rate', '1'], /did you mean --learning-rate\?/],
    [['train', '--no-paking'], /did you mean --no-packing\?/],
    [['generate', '--max-tokens', '3'], /did you mean --max-new-tokens\?/],
    [['doctor', '--frobnicate'], /unknown option --frobnicate; --help lists them/],
    [['train', '--learning-rate'], /option '--learning-rate <X>' argument missing/],
    [['train', 'a.yaml', 'b.yaml'], /too many arguments/],
    [['doctor', 'extra'], /too many arguments/],
  ];
  for (const [args, expected] of cases) {
    const { code, stdout, stderr } = await vltune(args);
    t.is(code, 2, args.join(' '));
    t.is(stdout, '');
    t.regex(stderr, expected);
    t.notRegex(stderr, /\n\s+at /);
  }
});

test('a reader that goes away ends the command without a word', async (t) => {
  const child = spawn(process.execPath, [MAIN, 'train', '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const code = await new Promise((done) => child.on('close', done));
  t.is(code, 0);
  t.is(stderr, '');
});

test('doctor tells of CPU, kernels, memory, CUDA and the model cache; as JSON too', async (t) => {
  const people = await vltune(['doctor'], { env: { HF_HOME: '/nowhere/hf' } });
  t.is(people.code, 0);
  for (const word of ['CPU', 'kernels', 'threads', 'memory', 'CUDA', '/nowhere/hf']) t.true(people.stdout.includes(word), word);
  const json = await vltune(['doctor', '--json']);
  const lines = json.stdout.trimEnd().split('\n');
  t.is(lines.length, 1);
  const report = JSON.parse(lines[0]!) as { cpu: { threads: number; kernels: string }; device: string };
  t.true(report.cpu.threads >= 1);
  t.true(['portable', 'avx2', 'avx512'].includes(report.cpu.kernels));
  t.is(report.device, GPU ? 'cuda' : 'cpu');
});

test('doctor names each GPU with memory and compute capability, and says where cuBLASLt and NCCL are or why not', async (t) => {
  const { stdout } = await vltune(['doctor']);
  const { compiled, reason, devices, blas } = addon().cudaInfo();
  if (!compiled) t.true(stdout.includes('not in this build'));
  else if (!GPU) t.true(stdout.includes(`not usable: ${reason}`));
  if (!compiled) return;
  for (const gpu of devices) t.regex(stdout, new RegExp(`cuda:${gpu.index} .*compute capability ${gpu.computeCapability}`));
  t.true(stdout.includes(blas.found ? blas.path : blas.reason || 'not looked for'));
  const nccl = addon().ncclInfo();
  if (GPU) t.true(stdout.includes(nccl.found ? nccl.path : nccl.reason));
  else t.notRegex(stdout, /NCCL/, 'of no use');
});

(GPU ? test.skip : test)('doctor --device cuda tells all it knows before it fails for want of a GPU', async (t) => {
  const { code, stdout, stderr } = await vltune(['doctor', '--device', 'cuda']);
  t.is(code, 1);
  t.true(stdout.includes('kernels'));
  t.regex(stderr, /^vltune: --device cuda: .* --device cpu \(or auto\)\.\n$/);
});

(GPU ? test.skip : test)(
  'no command computes on a GPU that is not there, and each says so before it writes anything',
  async (t) => {
    const model = ['--model', MODEL];
    const out = join(await scratch(t), 'out');
    for (const args of [
      ['train', ...model, '--dataset', MESSAGES, '--output-dir', out],
      ['generate', ...model, '--prompt', 'Hi'],
      ['merge', ...model, '--adapter', 'none', '--output-dir', out],
      ['quantize', ...model, '--output-dir', out],
      ['bench'],
      ['demo', '--output-dir', out],
    ]) {
      const { code, stdout, stderr } = await vltune([...args, '--device', 'cuda:0']);
      t.is(code, 1, args[0]);
      t.is(stdout, '', args[0]);
      t.regex(stderr, /^vltune: --device cuda:0: /, args[0]);
    }
    t.false(existsSync(out));
  },
);

test('colour only where it is wanted', async (t) => {
  const hasColour = (text: string): boolean => text.includes('\u001b[');
  t.false(hasColour((await vltune(['doctor'])).stdout));
  t.true(hasColour((await vltune(['doctor'], { env: { FORCE_COLOR: '1' } })).stdout));
  t.false(hasColour((await vltune(['doctor'], { env: { FORCE_COLOR: '1', NO_COLOR: '1' } })).stdout));
});

/** A command that only ends when it is made to, run as `main.ts` runs one. */
const ENDLESS = `
  const { runCommand } = await import(${JSON.stringify(MAIN.replace('main.js', 'run_command.js'))});
  const command = { name: 'endless', summary: '', table: {}, recipe: false, examples: [], run: () => new Promise(() => {
    setInterval(() => {}, 1000);
    console.log('running');
  }) };
  process.exit(await runCommand(command, []));`;

for (const [wait, ended] of [
  [0, false],
  [800, true],
] as const) {
  test(`a second signal after ${wait} ms ${ended ? 'ends at once with 130' : 'is the first one heard twice'}`, async (t) => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', ENDLESS], { stdio: ['ignore', 'pipe', 'pipe'] });
    const closed = new Promise<number | null>((done) => child.on('close', done));
    await new Promise((done) => child.stdout.once('data', done));
    child.kill('SIGINT');
    await new Promise((done) => child.stderr.once('data', done)); // the first was heard
    await new Promise((done) => setTimeout(done, wait));
    child.kill('SIGINT');
    const code = await Promise.race([closed, new Promise((done) => setTimeout(done, 300, 'running on'))]);
    child.kill('SIGKILL');
    t.is(ended ? await closed : code, ended ? 130 : 'running on');
  });
}
