import { readdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { freePort } from '../../lib/distributed/free_port.js';
import { jsonLines, scratch, trainArgs, vltune } from '../cli/run.js';
import { shortRun } from '../train/support.js';
import {
  checkAgreement,
  checkLoss,
  checkSameBytes,
  checkShares,
  checkStopInEvaluation,
  checkTrade,
  PICTURES,
} from './together.js';

const CPU = { device: 'cpu' } as const;

test.serial('two processes compute what one does with twice the accumulation', (t) => checkShares(t, CPU));
test.serial('and so with pictures and a tower that learns', (t) => checkShares(t, CPU, PICTURES));
test.serial('and so with a loss averaged over micro-batches, without packing', (t) =>
  checkShares(t, CPU, ['--loss-average', 'micro-batches', '--no-packing']),
);
test.serial('runs of two processes, stopped and resumed too, end in the same bytes', (t) => checkSameBytes(t, CPU));
test.serial('processes and accumulation steps trade with each other when a run goes on', (t) => checkTrade(t, CPU));
test.serial('when one process is killed the other ends too, and the last checkpoint is kept', (t) => checkLoss(t, CPU));
test.serial('processes that were not started alike say so', (t) => checkAgreement(t, CPU));

test.serial('a wish to stop is heard in an evaluation', (t) => checkStopInEvaluation(t, CPU));

test.serial('launch ends with the code of the process that failed by itself, and the reason is told once', async (t) => {
  const out = await scratch(t);
  writeFileSync(join(out, 'notes.txt'), 'mine');
  const { code, stderr } = await vltune(['launch', '--nproc-per-node', '2', ...trainArgs(out)]);
  t.is(code, 2, stderr);
  t.is(stderr.match(/^vltune: /gm)?.length, 1, stderr);
});

test.serial('when launch is killed its processes end, and save what is whole', async (t) => {
  const out = join(await scratch(t), 'out');
  const args = trainArgs(out, '--max-steps', '100000', '--save-strategy', 'no', '--json');
  const { signal } = await vltune(['launch', '--nproc-per-node', '2', ...args], {
    onLine: (line, kill) => line.includes('"step":3,') && kill('SIGKILL'),
  });
  t.is(signal, 'SIGKILL');
  // The output has ended, so the processes that held it have.
  t.true(readdirSync(out).some((name) => /^checkpoint-\d+$/.test(name)));
});

test.serial('launches on two machines meet at the address that both were given', async (t) => {
  const out = await scratch(t);
  const port = String(await freePort());
  const [first, second] = await Promise.all(
    ['0', '1'].map((node) =>
      vltune([
        ...['launch', '--nproc-per-node', '1', '--nnodes', '2', '--node-rank', node, '--master-port', port],
        ...trainArgs(`${out}/new`, '--json'),
      ]),
    ),
  );
  t.is(first!.code, 0, first!.stderr);
  t.is(second!.code, 0, second!.stderr);
  t.is(jsonLines(first!.stdout)[0]!.processes, 2);
  t.is(second!.stdout, '', 'the first one tells of the run');
});

test.serial('bench step counts what all processes do, on the rows that one would read', async (t) => {
  const args = (accumulation: string) => [
    ...['bench', 'step', '--shape', '100m', '--device', 'cpu', '--per-device-train-batch-size', '1', '--max-length', '16'],
    ...['--gradient-accumulation-steps', accumulation, '--steps', '1', '--json'],
  ];
  const [single, together] = [await vltune(args('2')), await vltune(['launch', '--nproc-per-node', '2', ...args('1')])];
  t.is(single.code, 0, single.stderr);
  t.is(together.code, 0, together.stderr);
  const [expected, got] = [jsonLines(single.stdout)[0]!, jsonLines(together.stdout)[0]!];
  t.deepEqual([expected.processes, got.processes], [1, 2]);
  t.true(Math.abs(Number(got.loss) / Number(expected.loss) - 1) < 1e-6, `${got.loss}, expected ${expected.loss}`);
  t.is(Math.round((Number(got.tokens_per_second) * Number(got.step_ms)) / 1000), 32, 'tokens of an update');
});

test.serial("a script's own call of train is shared, too", async (t) => {
  const out = await scratch(t);
  const script = join(out, 'trainer.mjs');
  const options = { ...shortRun(join(out, 'run')), maxSteps: 2 };
  writeFileSync(
    script,
    `import { train } from ${JSON.stringify(pathToFileURL(resolve('dist/lib/index.js')).href)};
    const events = [];
    const { steps } = await train(${JSON.stringify(options)}, { onEvent: (event) => events.push(event) });
    console.log(JSON.stringify({ rank: process.env.RANK, argument: process.argv[2], steps, events: events.length }));`,
  );
  const { code, stdout, stderr } = await vltune(['launch', '--nproc-per-node', '2', script, '--json']);
  t.is(code, 0, stderr);
  const told = jsonLines(stdout).sort((a, b) => Number(a.rank) - Number(b.rank));
  t.deepEqual(
    told.map(({ rank, argument, steps }) => [rank, argument, steps]),
    [
      ['0', '--json', 2],
      ['1', '--json', 2],
    ],
  );
  t.true(Number(told[0]!.events) > 3);
  t.is(told[1]!.events, 0, 'the first one tells of the run');
});

test('launch says what it can start, and passes on how that ended', async (t) => {
  const nothing = await vltune(['launch', '--nproc-per-node', '2']);
  t.is(nothing.code, 2);
  const other = await vltune(['launch', '--nproc-per-node', '2', 'generate', '--prompt', 'x']);
  t.is(other.code, 2);
  t.regex(other.stderr, /COMMAND: expected train, bench step or a script for Node, got generate/);
  const uncounted = await vltune(['launch', 'train', 'recipe.yaml']);
  t.is(uncounted.code, 2);
  t.regex(uncounted.stderr, /--nproc-per-node/);
  const rank = await vltune(['launch', '--nproc-per-node', '1', '--node-rank', '1', 'train']);
  t.regex(rank.stderr, /--node-rank: expected 0 to 0, got 1/);
  const bad = await vltune(['launch', '--nproc-per-node', '2', 'train', '--lora-rr', '4']);
  t.is(bad.code, 2);
  t.regex(bad.stderr, /unknown option --lora-rr; did you mean --lora-r\?/);
});

test('one GPU for all processes is refused', async (t) => {
  const out = await scratch(t);
  const env = { RANK: '0', WORLD_SIZE: '2', LOCAL_WORLD_SIZE: '2', MASTER_PORT: String(await freePort()) };
  const both = await Promise.all(
    ['0', '1'].map((rank) => vltune(trainArgs(`${out}/new`, '--device', 'cuda:0'), { env: { ...env, RANK: rank } })),
  );
  for (const { code } of both) t.true(code === 1 || code === 2);
  t.regex(both[0]!.stderr, /--device: expected auto, cuda or cpu where several processes train together/);
});
