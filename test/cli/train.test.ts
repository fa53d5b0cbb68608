import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { jsonLines, MAIN, MESSAGES, MODEL, scratch, trainArgs, vltune } from './run.js';

test('--json prints start, steps, saves and end, and people read on stderr', async (t) => {
  const out = join(await scratch(t), 'out');
  const { code, stdout, stderr } = await vltune(trainArgs(out, '--json', '--save-steps', '1', '--save-total-limit', '1'));
  t.is(code, 0, stderr);
  const events = jsonLines(stdout);
  t.deepEqual(
    events.map(({ event }) => event),
    ['start', 'step', 'save', 'step', 'save', 'end'],
  );
  const [first, second] = events.filter(({ event }) => event === 'step');
  t.is(first!.step, 1);
  t.is(first!.learning_rate, 0, 'warm-up starts with 0');
  for (const key of ['epoch', 'loss', 'grad_norm', 'num_tokens', 'num_target_tokens', 'tokens_per_second', 'memory_bytes']) {
    t.true(Number(second![key]) > 0, key);
  }
  t.true(Number(second!.num_target_tokens) < Number(second!.num_tokens));
  t.like(events.at(-1), { output_dir: out, steps: 2 });
  t.true(Number(events.at(-1)!.peak_memory_bytes) > 0);
  t.true(Number(events.at(-1)!.planned_memory_bytes) > 0);
  t.is(events[4]!.path, join(out, 'checkpoint-2'));
  t.deepEqual(
    (await readdir(out)).sort(),
    ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'checkpoint-2', 'events.jsonl', 'loss.svg'],
    'the older checkpoint is gone',
  );
  t.regex(stderr, /2 updates of [\d,]+ parameters/);
});

test('for people the results are on stdout, the steps on stderr, without colour or bars off a terminal', async (t) => {
  const out = join(await scratch(t), 'out');
  const { code, stdout, stderr } = await vltune(trainArgs(out));
  t.is(code, 0, stderr);
  t.regex(stdout, /adapter {2}.*out/);
  t.regex(stdout, /try it: vltune generate --model/);
  t.regex(stderr, /^step 1\/2 {2}epoch \d/m);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is looked for
  t.notRegex(stdout + stderr, /\u001b|\r/);
});

test('SIGTERM saves a checkpoint, exits 130, and resume ends in the same bytes as a run that was not stopped', async (t) => {
  const folder = await scratch(t);
  const more = ['--max-steps', '12', '--learning-rate', '1e-3', '--warmup-steps', '2', '--lora-dropout', '0.1'];
  const whole = join(folder, 'whole');
  t.is((await vltune(trainArgs(whole, ...more, '--save-strategy', 'no'))).code, 0);

  const stopped = join(folder, 'stopped');
  const first = await vltune(trainArgs(stopped, ...more, '--json'), {
    onLine: (line, kill) => {
      // At the step and again at the save: a late second signal must not take the exit code from the first.
      if ((JSON.parse(line) as { step?: number }).step === 4) kill('SIGTERM');
    },
  });
  t.is(first.code, 130, first.stderr);
  t.regex(first.stderr, /vltune: stopped after \d+ of 12 updates; go on with --resume-from-checkpoint/);
  const saved = jsonLines(first.stdout).filter(({ event }) => event === 'save');
  t.is(saved.length, 1);
  t.true(existsSync(String(saved[0]!.path)));

  const second = await vltune(trainArgs(stopped, ...more, '--resume-from-checkpoint', '--json'));
  t.is(second.code, 0, second.stderr);
  t.is(jsonLines(second.stdout)[0]!.resumed_step, saved[0]!.step);
  const weights = (out: string): Promise<Buffer> => readFile(join(out, 'adapter_model.safetensors'));
  t.true((await weights(whole)).equals(await weights(stopped)));
});

test('a signal before the first update is whole saves nothing and exits 130', async (t) => {
  const out = join(await scratch(t), 'out');
  const { code, stderr } = await vltune(
    trainArgs(out, '--max-steps', '100000', '--gradient-accumulation-steps', '60000', '--json'),
    {
      onLine: (_, kill) => kill('SIGINT'),
    },
  );
  t.is(code, 130, stderr);
  t.regex(stderr, /stopped after 0 of 100000 updates, before the first update was whole/);
});

test('an evaluation is reported every --eval-steps, and after each epoch without', async (t) => {
  const folder = await scratch(t);
  const evaluate = async (out: string, ...more: string[]): Promise<unknown[]> => {
    const args = trainArgs(
      join(folder, out),
      '--json',
      '--eval-dataset',
      MESSAGES,
      '--max-steps',
      '3',
      '--save-strategy',
      'no',
      ...more,
    );
    const { code, stdout, stderr } = await vltune(args);
    t.is(code, 0, stderr);
    const events = jsonLines(stdout).filter(({ event }) => event === 'eval');
    for (const { eval_loss: loss } of events) t.true(Number(loss) > 0);
    return events.map(({ step }) => step);
  };
  t.deepEqual(await evaluate('steps', '--eval-steps', '2'), [2]);
  t.deepEqual(await evaluate('epochs'), [1, 2, 3], 'five rows are one update an epoch');
});

test('a disk that takes no more ends the run with 1, names the file and leaves no half checkpoint', async (t) => {
  const out = join(await scratch(t), 'out');
  // A limit on the size of a file stands for the full disk: writing fails alike, some way into the adapter.
  const command = [process.execPath, MAIN, ...trainArgs(out, '--save-steps', '1')].map((word) => `'${word}'`).join(' ');
  const { status, stderr } = spawnSync('bash', ['-c', `trap '' XFSZ; ulimit -f 64; exec ${command}`], { encoding: 'utf8' });
  t.is(status, 1, stderr);
  t.regex(stderr, /^vltune: cannot write .*checkpoint-1.*: the file system does not take files this large \(EFBIG\)$/m);
  t.notRegex(stderr, /\n\s+at /);
  t.deepEqual(await readdir(out).catch(() => []), [], 'nothing was saved, so nothing is there');
});

test('tensorboard events are written when asked for', async (t) => {
  const out = join(await scratch(t), 'out');
  t.is((await vltune(trainArgs(out, '--report-to', 'tensorboard'))).code, 0);
  const [file] = await readdir(join(out, 'runs'));
  const bytes = await readFile(join(out, 'runs', file!));
  t.regex(file!, /^events\.out\.tfevents\./);
  t.is(bytes.toString('latin1').split('train/loss').length - 1, 2);
});

test('an output folder with files is refused, taken with --overwrite-output-dir, and its checkpoints go', async (t) => {
  const out = join(await scratch(t), 'out');
  await mkdir(join(out, 'checkpoint-9'), { recursive: true });
  await writeFile(join(out, 'notes.txt'), 'mine');
  const refused = await vltune(trainArgs(out));
  t.is(refused.code, 2);
  t.regex(refused.stderr, /^vltune: --output-dir: .*out is not empty/);
  const taken = await vltune(trainArgs(out, '--overwrite-output-dir', '--save-strategy', 'no'));
  t.is(taken.code, 0, taken.stderr);
  t.deepEqual((await readdir(out)).sort(), [
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
    'events.jsonl',
    'loss.svg',
    'notes.txt',
  ]);
});

test('resuming with other options names them; a checkpoint of another model is refused', async (t) => {
  const out = join(await scratch(t), 'out');
  t.is((await vltune(trainArgs(out, '--save-steps', '1'))).code, 0);
  const { code, stderr } = await vltune(trainArgs(out, '--resume-from-checkpoint', '--lora-r', '4', '--seed', '1'));
  t.is(code, 2);
  t.regex(stderr, /--lora-r: expected 16 as in the checkpoint, got 4/);
  t.regex(stderr, /--seed: expected 3407 as in the checkpoint, got 1/);
});

test('full fine-tuning writes a model that generate reads', async (t) => {
  const out = join(await scratch(t), 'out');
  const trained = await vltune(trainArgs(out, '--full-finetuning', '--save-strategy', 'no'));
  t.is(trained.code, 0, trained.stderr);
  t.true(existsSync(join(out, 'config.json')));
  const answer = await vltune([
    'generate',
    '--model',
    out,
    '--prompt',
    'hi',
    '--max-new-tokens',
    '4',
    '--json',
    '--temperature',
    '0',
  ]);
  t.is(answer.code, 0, answer.stderr);
});

test('plan agrees with what the run then says, by the same recipe', async (t) => {
  const out = join(await scratch(t), 'out');
  const args = trainArgs(out, '--json');
  const plan = jsonLines((await vltune(['plan', ...args.slice(1)])).stdout)[0]!;
  t.false(existsSync(out), 'a plan writes nothing');
  const start = jsonLines((await vltune(args)).stdout)[0]!;
  t.is(plan.steps, start.steps);
  t.is(plan.trainable_parameters, start.trainable_parameters);
  const kinds = plan.kinds as Record<string, number>;
  const parts = ['weights', 'params', 'grads', 'state', 'arena', 'io'].reduce((sum, kind) => sum + kinds[kind]!, 0);
  t.true(parts > 0 && parts <= Number(plan.planned_memory_bytes));
  t.is((await vltune(['plan', '--model', MODEL])).code, 2, 'a dataset must be given');
});
