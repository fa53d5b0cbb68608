/** Whole runs of the trainer on the CPU against transformers + PEFT: see `runs.ts`. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { train } from '../../lib/index.js';
import { MODEL } from './fixtures.js';
import { checkRun, MEDIA_RUNS, mediaRows, RUNS } from './runs.js';

for (const name of Object.keys(RUNS)) {
  test(`each update of ${name}, and the weights at its end, are those of transformers and PEFT`, (t) => checkRun(t, name));
}

for (const name of Object.keys(MEDIA_RUNS)) {
  test(`each update of ${name}, over rows with pictures and videos, and the weights at its end, are those of transformers and PEFT`, (t) =>
    checkRun(t, name, mediaRows(t)));
}

test('packed, a run over rows with pictures ends in the same bits with and without a cache of features', async (t) => {
  const ends = [];
  for (const visionCache of [0, '2GB', 40_000]) {
    const outputDir = mkdtempSync(join(tmpdir(), 'vltune-parity-'));
    t.teardown(() => rmSync(outputDir, { recursive: true, force: true }));
    await train({
      ...{
        model: MODEL,
        outputDir,
        visionCache,
        loadIn4bit: false,
        dtype: 'float32',
        numTrainEpochs: 3,
        maxLength: 256,
        warmupSteps: 0,
      },
      ...(mediaRows(t) as { dataset: string[] }),
    });
    ends.push(readFileSync(join(outputDir, 'adapter_model.safetensors')));
  }
  t.deepEqual(ends[0], ends[1]);
  t.deepEqual(ends[0], ends[2]);
});
