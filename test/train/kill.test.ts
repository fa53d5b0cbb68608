/** Runs on the CPU that are stopped by signals: see `kill.ts`. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import test from 'ava';
import { latestCheckpoint } from '../../lib/train/checkpoint.js';
import { checkKilled, ended, firstUpdate } from './kill.js';
import { MODEL, REPOSITORY, ROWS, temporaryFolder } from './support.js';

test('killed at random moments and resumed, a run ends in the bytes of one that was left alone', (t) => checkKilled(t, 'cpu'));

test('SIGTERM saves a checkpoint, and the exit code is 130', async (t) => {
  t.timeout(120_000);
  const output = join(temporaryFolder(t), 'run');
  const options = { model: MODEL, device: 'cpu', dataset: ROWS, 'output-dir': output, 'max-length': 96, 'max-steps': 40 };
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const child = spawn(process.execPath, [join(REPOSITORY, 'dist/lib/cli/main.js'), 'train', ...words, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const end = ended(child);
  await firstUpdate(child);
  child.kill('SIGTERM');
  const { code, errors } = await end;
  t.is(code, 130, errors);
  t.truthy(await latestCheckpoint(output));
});
