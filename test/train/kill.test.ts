/** Runs on the CPU that are stopped by signals: see `kill.ts`. */
import { join } from 'node:path';
import test from 'ava';
import { latestCheckpoint } from '../../lib/train/checkpoint.js';
import { checkKilled, ended, start } from './kill.js';
import { temporaryFolder } from './support.js';

test('killed at random moments and resumed, a run ends in the bytes of one that was left alone', (t) => checkKilled(t, 'cpu'));

test('SIGTERM saves a checkpoint, and the exit code is 130', async (t) => {
  t.timeout(120_000);
  const output = join(temporaryFolder(t), 'run');
  const child = start(output, false);
  const end = ended(child);
  await new Promise<void>((resolve) =>
    child.stdout!.on('data', (chunk: Buffer) => chunk.includes('"event":"step"') && resolve()),
  );
  child.kill('SIGTERM');
  const { code, errors } = await end;
  t.is(code, 130, errors);
  t.truthy(await latestCheckpoint(output));
});
