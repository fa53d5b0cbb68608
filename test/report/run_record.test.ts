import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { readRun } from '../../lib/report/run_record.js';
import { train } from '../../lib/train/trainer.js';
import { shortRun, temporaryFolder } from '../train/support.js';
import { END, type Event, RUN, START, step, writeLog } from './support.js';

async function logged(t: ExecutionContext, text: string): Promise<string> {
  const folder = temporaryFolder(t);
  await writeFile(join(folder, 'events.jsonl'), text);
  return folder;
}

const lines = (events: readonly Event[]): string => events.map((event) => `${JSON.stringify(event)}\n`).join('');

test('of a run that was resumed, what was done again counts once', async (t) => {
  const folder = temporaryFolder(t);
  const later = (n: number): Event => step(n, { loss: 10 + n });
  await writeLog(folder, [
    ...RUN.slice(0, 6),
    { ...START, resumed_step: 2, time: '2026-11-30T03:00:00.000Z' },
    later(3),
    later(4),
  ]);
  const run = await readRun(folder);
  t.deepEqual(
    run.steps.map(({ step: n, loss }) => [n, loss]),
    [
      [1, 4],
      [2, 2],
      [3, 13],
      [4, 14],
    ],
  );
  t.deepEqual(run.evaluations, [], 'that of update 3 is no longer of this run');
  t.is(run.starts, 2);
  t.is(run.end, undefined);
});

test('the time between two starts is not counted', async (t) => {
  const folder = temporaryFolder(t);
  const again = (seconds: string): string => `2026-11-30T05:00:${seconds}.000Z`;
  await writeLog(folder, [
    START,
    step(1),
    step(3),
    { ...START, resumed_step: 3, time: again('00') },
    { ...END, time: again('04') },
  ]);
  t.is((await readRun(folder)).seconds, 7);
});

test('a line that a kill tore, at the end or before the next start, is no error; any other is named', async (t) => {
  const first = lines([START, step(1)]);
  const torn = '{"event":"step","st';
  t.is((await readRun(await logged(t, first + torn))).steps.length, 1);
  const resumed = lines([{ ...START, resumed_step: 1 }, step(2)]);
  t.is((await readRun(await logged(t, `${first}${torn}\n${resumed}`))).steps.length, 2);
  await t.throwsAsync(async () => readRun(await logged(t, `${first}${torn}\n${lines([step(2)])}`)), {
    code: 'ERR_BAD_DATA',
    message: /events\.jsonl: line 3: expected a JSON object, got \{"event":"step","st/,
  });
});

test('a field that is not what it should be is named by line and field', async (t) => {
  const cases: readonly (readonly [Event, RegExp])[] = [
    [step(1, { loss: 'low' }), /line 2: loss: expected a number, got "low"/],
    [step(1, { step: null }), /line 2: step: expected a number, got nothing/],
    [step(1, { time: 'noon' }), /line 2: time: expected a time, got "noon"/],
    [{ ...START, model: 7 }, /line 2: model: expected a text, got 7/],
    [{ ...START, options: [] }, /line 2: options: expected an object, got a list of 0/],
  ];
  for (const [event, message] of cases) {
    await t.throwsAsync(async () => readRun(await logged(t, lines([START, event]))), { code: 'ERR_BAD_DATA', message });
  }
  await t.throwsAsync(async () => readRun(await logged(t, lines([step(1)]))), {
    code: 'ERR_BAD_DATA',
    message: /line 1: event: expected a start before anything else, got "step"/,
  });
  await t.throwsAsync(async () => readRun(await logged(t, '\n')), { message: /no run starts in it/ });
});

test('a folder that holds no run is refused, and a run one folder below is named', async (t) => {
  const folder = temporaryFolder(t);
  await t.throwsAsync(readRun(join(folder, 'none')), { code: 'ERR_NOT_FOUND', message: /none: no such folder$/ });
  await t.throwsAsync(readRun(folder), { code: 'ERR_USAGE', message: /found an empty folder$/ });
  await writeFile(join(folder, 'file'), '');
  await t.throwsAsync(readRun(join(folder, 'file')), {
    code: 'ERR_USAGE',
    message: /expected the output folder of a run, got a file/,
  });
  await writeLog(join(folder, 'adapter'), RUN);
  await t.throwsAsync(readRun(folder), { code: 'ERR_USAGE', message: /found neither; did you mean .*adapter\?$/ });
});

test('without a log the newest checkpoint tells, as transformers writes it', async (t) => {
  const folder = temporaryFolder(t);
  const history = [
    { epoch: 0.1, step: 1, loss: 3, grad_norm: 2, learning_rate: 1e-4 },
    { epoch: 0.1, step: 1, eval_loss: 2.5, eval_runtime: 1 },
    { epoch: 0.2, step: 2, loss: 2 },
    { epoch: 0.2, step: 2, train_runtime: 5, train_loss: 2.5 },
  ];
  for (const [n, count] of [
    [1, 2],
    [2, 4],
  ] as const) {
    await mkdir(join(folder, `checkpoint-${n}`));
    const state = { max_steps: 10, log_history: history.slice(0, count) };
    await writeFile(join(folder, `checkpoint-${n}`, 'trainer_state.json'), JSON.stringify(state));
  }
  for (const place of [folder, join(folder, 'checkpoint-2')]) {
    const run = await readRun(place);
    t.deepEqual(
      run.steps.map(({ loss }) => loss),
      [3, 2],
    );
    t.is(run.evaluations[0]!.loss, 2.5);
    t.is(run.totalSteps, 10);
    t.is(run.start, undefined);
    t.is(run.steps[1]!.gradNorm, undefined);
  }
});

test('the log of a real run, stopped and resumed, tells every update once; without it the checkpoint tells the same losses', async (t) => {
  t.timeout(120_000);
  const outputDir = join(temporaryFolder(t), 'run');
  const options = { saveSteps: 2, saveStrategy: 'steps', device: 'cpu' } as const;
  await train(shortRun(outputDir, { ...options, maxSteps: 3 }));
  await train(shortRun(outputDir, { ...options, maxSteps: 4, resumeFromCheckpoint: join(outputDir, 'checkpoint-2') }));
  const run = await readRun(outputDir);
  t.deepEqual(
    run.steps.map(({ step: n }) => n),
    [1, 2, 3, 4],
  );
  t.is(run.starts, 2);
  for (const entry of run.steps) {
    for (const value of [entry.loss, entry.tokensPerSecond, entry.memoryBytes]) t.true(value! > 0);
  }
  t.is(run.options!.lora_r, 64);
  t.is(run.end!.steps, 4);
  t.true(String(run.start!.machine).length > 0);
  const checkpoint = await readRun(join(outputDir, 'checkpoint-4'));
  t.deepEqual(
    checkpoint.steps.map(({ loss }) => loss),
    run.steps.map(({ loss }) => loss),
  );
  t.is(checkpoint.options!.lora_r, 64);
});

test('a run that leaves nothing leaves no log, and a new run takes the place of an older one', async (t) => {
  const outputDir = join(temporaryFolder(t), 'run');
  const stop = new AbortController();
  stop.abort();
  await t.throwsAsync(train(shortRun(outputDir, { device: 'cpu' }), { signal: stop.signal }), { code: 'ERR_CANCELLED' });
  await t.throwsAsync(readRun(outputDir), { code: 'ERR_NOT_FOUND' });
  for (const maxSteps of [3, 1]) {
    await train(shortRun(outputDir, { device: 'cpu', maxSteps, saveStrategy: 'no', overwriteOutputDir: true }));
    const run = await readRun(outputDir);
    t.is(run.steps.length, maxSteps);
    t.is(run.starts, 1);
  }
});
