/** Runs of several processes, started by `vltune launch` or one by one, held to runs of one process. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { ExecutionContext } from 'ava';
import { freePort } from '../../lib/distributed/free_port.js';
import { type Finished, jsonLines, MESSAGES, MODEL, type RunOptions, scratch, vltune } from '../cli/run.js';
import { distance, readFloats } from '../parity/fixtures.js';
import { digests, weightDigest } from '../train/support.js';

/** Where a run computes, and variables of its processes. */
export interface Where {
  readonly device: 'cpu' | 'cuda';
  readonly env?: NodeJS.ProcessEnv;
}

/** An epoch is an odd number of micro-batches: at its end one of two processes has none. */
function trainArgs({ device }: Where, out: string, ...more: readonly string[]): string[] {
  return [
    ...['train', '--model', MODEL, '--dataset', MESSAGES, '--output-dir', out, '--device', device, '--json'],
    ...['--max-length', '96', '--per-device-train-batch-size', '1', '--max-steps', '8', '--learning-rate', '1e-3'],
    ...['--lora-dropout', '0.1', '--dtype', 'float32', '--save-steps', '3', ...more],
  ];
}

type OnLine = RunOptions['onLine'];

function alone(where: Where, args: readonly string[]): Promise<Finished> {
  return vltune(args, { env: { ...where.env } });
}

function launched(where: Where, args: readonly string[], onLine?: OnLine): Promise<Finished> {
  return vltune(['launch', '--nproc-per-node', '2', ...args], { env: { ...where.env }, ...(onLine && { onLine }) });
}

/** Two processes as a launcher of someone else's starts them, each with arguments and a folder of its own. */
async function started(
  where: Where,
  args: readonly [readonly string[], readonly string[]],
  { onLine, cwd }: { readonly onLine?: OnLine; readonly cwd?: readonly [string, string] } = {},
): Promise<Finished[]> {
  const port = String(await freePort());
  return await Promise.all(
    args.map((words, rank) =>
      vltune(words, {
        ...(rank === 0 && onLine && { onLine }),
        ...(cwd && { cwd: cwd[rank]! }),
        env: {
          ...where.env,
          OMPI_COMM_WORLD_SIZE: '2',
          OMPI_COMM_WORLD_RANK: String(rank),
          MASTER_ADDR: '127.0.0.1',
          MASTER_PORT: port,
        },
      }),
    ),
  );
}

/** Rows with pictures, and a tower that learns too. */
export const PICTURES: readonly string[] = [
  ...['--model', resolve('models/vltune-tiny'), '--dataset', resolve('examples/data/pictures.jsonl'), '--max-length', '256'],
  ...['--finetune-vision-layers', '--max-steps', '4', '--save-strategy', 'no'],
];

/** Two processes compute what one does with twice the accumulation. `more`: options beside those of all runs here. */
export async function checkShares(t: ExecutionContext, where: Where, more: readonly string[] = []): Promise<void> {
  t.timeout(180_000);
  const folder = await scratch(t);
  const [one, two] = [join(folder, 'one'), join(folder, 'two')];
  const options = ['--eval-dataset', MESSAGES, '--eval-steps', '4', '--optim', 'adamw_torch', ...more];
  const single = await alone(where, trainArgs(where, one, '--gradient-accumulation-steps', '2', ...options));
  const together = await launched(where, trainArgs(where, two, '--gradient-accumulation-steps', '1', ...options));
  t.is(single.code, 0, single.stderr);
  t.is(together.code, 0, together.stderr);

  const [expected, got] = [jsonLines(single.stdout), jsonLines(together.stdout)];
  t.is(got[0]!.processes, 2);
  t.deepEqual(
    got.map(({ event }) => event),
    expected.map(({ event }) => event),
    'one process tells of the run',
  );
  for (const [i, event] of expected.entries()) {
    for (const key of ['step', 'epoch', 'learning_rate', 'num_tokens', 'num_target_tokens', 'micro_batches_per_epoch', 'steps'])
      t.is(got[i]![key], event[key], `${event.event} ${event.step}: ${key}`);
    for (const key of ['loss', 'grad_norm', 'eval_loss', 'train_loss'])
      if (event[key] !== undefined) {
        const apart = Math.abs(Number(got[i]![key]) / Number(event[key]) - 1);
        t.true(apart < 1e-5, `${event.event} ${event.step}: ${key} ${got[i]![key]}, expected ${event[key]}`);
      }
  }
  const final = await readFloats(join(two, 'adapter_model.safetensors'));
  let worst = 0;
  for (const [tensor, values] of await readFloats(join(one, 'adapter_model.safetensors')))
    worst = Math.max(worst, distance(final.get(tensor)!, values));
  t.true(worst < 2e-5, `weights ${worst}`);
  t.log(`weights up to ${worst.toExponential(1)} apart`);
}

/** Two runs of two processes, and one that was stopped and resumed, end in the same bytes. */
export async function checkSameBytes(t: ExecutionContext, where: Where): Promise<void> {
  t.timeout(180_000);
  const folder = await scratch(t);
  const [first, second, stopped] = ['first', 'second', 'stopped'].map((name) => join(folder, name)) as [string, string, string];
  // Many updates, so that a wish to stop comes before the last.
  const args = (out: string, ...more: string[]) => trainArgs(where, out, '--max-steps', '40', '--save-steps', '10', ...more);
  for (const out of [first, second]) {
    const { code, stderr } = await launched(where, args(out));
    t.is(code, 0, stderr);
  }
  t.is(weightDigest(second), weightDigest(first));
  const { 'training_args.json': _, ...other } = digests(join(second, 'checkpoint-40'));
  const { 'training_args.json': __, ...expected } = digests(join(first, 'checkpoint-40'));
  t.deepEqual(other, expected);

  const interrupted = await launched(
    where,
    args(stopped),
    (line, kill) => line.includes('"event":"step"') && line.includes('"step":4,') && kill('SIGINT'),
  );
  t.is(interrupted.code, 130, interrupted.stderr);
  t.regex(interrupted.stderr, /vltune: stopped after \d+ of 40 updates; go on with --resume-from-checkpoint/);
  t.is(interrupted.stderr.match(/stopped after/g)!.length, 1, 'told once');
  const resumed = await launched(where, args(stopped, '--resume-from-checkpoint'));
  t.is(resumed.code, 0, resumed.stderr);
  t.is(weightDigest(stopped), weightDigest(first));
}

/** A run of two processes goes on as one process with twice the accumulation, and not otherwise. */
export async function checkTrade(t: ExecutionContext, where: Where): Promise<void> {
  t.timeout(180_000);
  const out = join(await scratch(t), 'out');
  t.is((await launched(where, trainArgs(where, out, '--gradient-accumulation-steps', '2'))).code, 0);
  const more = ['--max-steps', '10', '--resume-from-checkpoint', '--gradient-accumulation-steps'];
  const refused = await alone(where, trainArgs(where, out, ...more, '2'));
  t.is(refused.code, 2);
  t.regex(refused.stderr, /--gradient-accumulation-steps: expected 4 micro-batches an update as in the checkpoint, got 2/);
  const resumed = await alone(where, trainArgs(where, out, ...more, '4'));
  t.is(resumed.code, 0, resumed.stderr);
  t.is(jsonLines(resumed.stdout)[0]!.resumed_step, 8);
}

/** When one process is killed the other ends too, says why, and keeps the last checkpoint. */
export async function checkLoss(t: ExecutionContext, where: Where): Promise<void> {
  t.timeout(180_000);
  const out = join(await scratch(t), 'out');
  const args = trainArgs(where, out, '--max-steps', '100000', '--save-steps', '1', '--save-total-limit', '2');
  const saved = (line: string) => line.includes('"event":"save"') && line.includes('checkpoint-3"');
  const [first, second] = await started(where, [args, args], { onLine: (line, kill) => saved(line) && kill('SIGKILL') });
  t.is(first!.signal, 'SIGKILL');
  t.is(second!.code, 1, second!.stderr);
  t.regex(second!.stderr, /^vltune: process 0 (has ended|is gone.*)$/m);
  const names = await readdir(out);
  t.true(
    names.some((name) => /^checkpoint-\d+$/.test(name)),
    names.join(),
  );
  const resumed = await launched(where, trainArgs(where, out, '--resume-from-checkpoint', '--max-steps', '6'));
  t.is(resumed.code, 0, resumed.stderr);
}

/** Processes that were not started alike, or have not the same data, say so before anything is trained or removed. */
export async function checkAgreement(t: ExecutionContext, where: Where): Promise<void> {
  t.timeout(180_000);
  const folder = await scratch(t);
  const out = join(folder, 'out');
  const differing = 'the processes of a run must be started alike:\n';
  t.is((await launched(where, trainArgs(where, out, '--max-steps', '2'))).code, 0);
  const before = digests(out);
  const args = trainArgs(where, out, '--overwrite-output-dir');
  const options = await started(where, [args, [...args, '--seed', '1']]);
  for (const { code, stderr } of options) {
    t.is(code, 2, stderr);
    t.true(stderr.includes(`${differing}  --seed: process 1 has 1, process 0 has 3407\n`), stderr);
  }

  // The same names in two folders.
  const cwd = [join(folder, 'a'), join(folder, 'b')] as const;
  const rows = readFileSync(MESSAGES, 'utf8').split('\n');
  for (const [i, place] of cwd.entries()) {
    mkdirSync(place);
    writeFileSync(join(place, 'eval.jsonl'), rows.slice(i).join('\n'));
  }
  writeFileSync(join(cwd[0], 'rows.jsonl'), rows.join('\n'));
  const evaluation = [...args, '--eval-dataset', 'eval.jsonl'];
  for (const { code, stderr } of await started(where, [evaluation, evaluation], { cwd })) {
    t.is(code, 2, stderr);
    t.true(stderr.includes(`${differing}  rows of --eval-dataset: `), stderr);
  }
  const data = [...args, '--dataset', 'rows.jsonl'];
  const [first, second] = await started(where, [data, data], { cwd });
  t.deepEqual([first!.code, second!.code], [1, 2]);
  t.regex(first!.stderr, /^vltune: process 1 failed: .*rows\.jsonl/m);
  t.deepEqual(digests(out), before, 'the earlier run is as it was');
}

/** A wish to stop is heard by all while they evaluate, and the update before is saved. */
export async function checkStopInEvaluation(t: ExecutionContext, where: Where): Promise<void> {
  t.timeout(180_000);
  const folder = await scratch(t);
  const rows = readFileSync(MESSAGES, 'utf8').trim();
  writeFileSync(join(folder, 'eval.jsonl'), Array.from({ length: 400 }, () => rows).join('\n'));
  const evaluation = ['--eval-dataset', join(folder, 'eval.jsonl'), '--eval-steps', '1'];
  const { code, stdout, stderr } = await launched(
    where,
    trainArgs(where, join(folder, 'out'), ...evaluation),
    (line, kill) => line.includes('"event":"step"') && kill('SIGINT'),
  );
  t.is(code, 130, stderr);
  t.regex(stderr, /stopped after 1 of 8 updates; go on with --resume-from-checkpoint/);
  t.false(jsonLines(stdout).some(({ event }) => event === 'eval'));
}
