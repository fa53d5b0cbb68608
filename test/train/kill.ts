/** Runs that are killed for real: SIGKILL at random moments, then resume, until the run is through. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { train } from '../../lib/index.js';
import { MersenneTwister } from '../../lib/random.js';
import { latestCheckpoint } from '../../lib/train/checkpoint.js';
import { digests, MODEL, REPOSITORY, ROWS, shortRun, temporaryFolder, weightDigest } from './support.js';

const STEPS = 40;
/** Kills before the run may end; the moments are drawn anew each time the test runs. */
const KILLS = 6;

export function start(output: string, resume: boolean, device: 'cpu' | 'cuda' = 'cpu'): ChildProcess {
  const options = {
    model: MODEL,
    device,
    dataset: ROWS,
    'output-dir': output,
    'per-device-train-batch-size': 2,
    'gradient-accumulation-steps': 2,
    'max-length': 96,
    'max-steps': STEPS,
    'learning-rate': 1e-3,
    'lora-r': 64,
    'lora-dropout': 0.1,
    'save-steps': 1,
    'save-total-limit': 2,
  };
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  return spawn(
    process.execPath,
    [join(REPOSITORY, 'dist/lib/cli/main.js'), 'train', ...words, '--json', ...(resume ? ['--resume-from-checkpoint'] : [])],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
}

export function ended(child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null; errors: string }> {
  let errors = '';
  child.stderr!.on('data', (chunk) => {
    errors += chunk;
  });
  child.stdout!.resume();
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal, errors })));
}

/** Kills a run at random moments and resumes it until it is through: it must end in the bytes of one that was left alone. */
export async function checkKilled(t: ExecutionContext, device: 'cpu' | 'cuda'): Promise<void> {
  t.timeout(240_000);
  const folder = temporaryFolder(t);
  const whole = join(folder, 'whole');
  await train(shortRun(whole, { device, maxSteps: STEPS, saveStrategy: 'steps', saveSteps: 1, saveTotalLimit: 2 }));

  const output = join(folder, 'killed');
  const seed = Date.now() >>> 0;
  const random = new MersenneTwister(seed);
  t.log(`seed ${seed}`);
  let kills = 0;
  for (;;) {
    const resume = (await latestCheckpoint(output)) !== undefined;
    // A run killed before its first checkpoint leaves nothing to go on from: it starts over in a new folder.
    const child = start(output, resume, device);
    const end = ended(child);
    if (kills < KILLS) {
      // Counted from the first update, so that the kill falls into training and saving, not into loading.
      await new Promise<void>((resolve) => {
        child.stdout!.on('data', (chunk: Buffer) => chunk.includes('"event":"step"') && resolve());
        child.on('close', () => resolve());
      });
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
