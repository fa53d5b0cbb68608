/** Runs that are killed for real: SIGKILL at random moments, then resume, until the run is through. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { ExecutionContext } from 'ava';
import { type TrainOptions, train } from '../../lib/index.js';
import { MersenneTwister } from '../../lib/random.js';
import { latestCheckpoint } from '../../lib/train/checkpoint.js';
import { digests, REPOSITORY, shortRun, temporaryFolder, weightDigest } from './support.js';

const STEPS = 40;
/** Kills before the run may end; the moments are drawn anew each time the test runs. */
const KILLS = 6;

/** A run in a process of its own, which needs what training needs and nothing of the command line's. */
function start(options: TrainOptions): ChildProcess {
  const source = `
    const { train } = await import(${JSON.stringify(pathToFileURL(join(REPOSITORY, 'dist/lib/index.js')).href)});
    await train(${JSON.stringify(options)}, { onEvent: (event) => console.log(JSON.stringify(event)) });`;
  return spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['ignore', 'pipe', 'pipe'] });
}

export function ended(child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null; errors: string }> {
  let errors = '';
  child.stderr!.on('data', (chunk) => {
    errors += chunk;
  });
  child.stdout!.resume();
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal, errors })));
}

/** Resolves at the first update that the run tells of, or at its end. */
export function firstUpdate(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.stdout!.on('data', (chunk: Buffer) => chunk.includes('"event":"step"') && resolve());
    child.on('close', () => resolve());
  });
}

/** Kills a run at random moments and resumes it until it is through: it must end in the bytes of one that was left alone. */
export async function checkKilled(t: ExecutionContext, device: 'cpu' | 'cuda'): Promise<void> {
  t.timeout(240_000);
  const folder = temporaryFolder(t);
  const whole = join(folder, 'whole');
  const options = { device, maxSteps: STEPS, saveStrategy: 'steps', saveSteps: 1, saveTotalLimit: 2 } as const;
  await train(shortRun(whole, options));

  const output = join(folder, 'killed');
  const seed = Date.now() >>> 0;
  const random = new MersenneTwister(seed);
  t.log(`seed ${seed}`);
  let kills = 0;
  for (;;) {
    const resume = (await latestCheckpoint(output)) !== undefined;
    // A run killed before its first checkpoint leaves nothing to go on from: it starts over in a new folder.
    const child = start(shortRun(output, { ...options, resumeFromCheckpoint: resume }));
    const end = ended(child);
    if (kills < KILLS) {
      // Counted from the first update, so that the kill falls into training and saving, not into loading.
      await firstUpdate(child);
      await new Promise((resolve) => setTimeout(resolve, random.uniform() * 120));
      child.kill('SIGKILL');
      kills += 1;
    }
    const { code, signal, errors } = await end;
    if (signal === 'SIGKILL') {
      for (const name of readdirSync(output))
        t.regex(name, /^\.?(checkpoint-\d+|events\.jsonl)/, 'nothing but the log and checkpoints, whole or marked as partial');
      continue;
    }
    t.is(code, 0, errors);
    break;
  }
  t.true(kills >= 1);
  t.is(weightDigest(output), weightDigest(whole));
  const { 'training_args.json': _, ...last } = digests(join(output, `checkpoint-${STEPS}`));
  const { 'training_args.json': __, ...expected } = digests(join(whole, `checkpoint-${STEPS}`));
  t.deepEqual(last, expected);
}
