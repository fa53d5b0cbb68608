/** What the tests of whole runs share: the miniature model, its rows, folders that vanish, and how a folder's bytes are compared. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { type TrainEvent, type TrainOptions, train } from '../../lib/index.js';

export const REPOSITORY: string = fileURLToPath(new URL('../../../', import.meta.url));
export const MODEL: string = join(REPOSITORY, 'test/fixtures/qwen3vl-tiny');
export const ROWS: string = join(REPOSITORY, 'test/fixtures/parity/messages.jsonl');

/** A folder of the test's own. */
export function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'vltune-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A short run in 4 bits with 8-bit AdamW and dropout: everything that has state takes part. */
export function shortRun(outputDir: string, more: Partial<TrainOptions> = {}): TrainOptions {
  return {
    model: MODEL,
    dataset: [ROWS],
    outputDir,
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: 2,
    maxLength: 96,
    maxSteps: 10,
    learningRate: 1e-3,
    loraR: 64,
    loraDropout: 0.1,
    optim: 'adamw_8bit',
    ...more,
  };
}

/** A run that is stopped at its first checkpoint and resumed ends in the bytes of one that is left alone. */
export async function checkResumed(t: ExecutionContext, more: Partial<TrainOptions>): Promise<void> {
  const folder = temporaryFolder(t);
  const [whole, parts] = [join(folder, 'whole'), join(folder, 'parts')];
  const options = { maxSteps: 10, saveSteps: 5, ...more };
  await train(shortRun(whole, options));
  const stop = new AbortController();
  const onEvent = (event: TrainEvent) => event.event === 'save' && stop.abort();
  await t.throwsAsync(train(shortRun(parts, options), { onEvent, signal: stop.signal }), { code: 'ERR_CANCELLED' });
  await train(shortRun(parts, { ...options, resumeFromCheckpoint: true }));
  t.is(weightDigest(parts), weightDigest(whole));
  const last = `checkpoint-${options.maxSteps}`;
  const { 'training_args.json': _, ...resumed } = digests(join(parts, last));
  const { 'training_args.json': __, ...expected } = digests(join(whole, last));
  t.deepEqual(resumed, expected);
}

/** SHA-256 of every file below a folder, by its path; times and speeds are not in any of them. */
export function digests(folder: string, below = ''): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of readdirSync(join(folder, below)).sort()) {
    const path = join(below, name);
    if (statSync(join(folder, path)).isDirectory()) Object.assign(found, digests(folder, path));
    else
      found[path] = createHash('sha256')
        .update(readFileSync(join(folder, path)))
        .digest('hex');
  }
  return found;
}

/** Digests of the weights alone: what a run leaves in its output folder. */
export function weightDigest(folder: string, file = 'adapter_model.safetensors'): string {
  return createHash('sha256')
    .update(readFileSync(join(folder, file)))
    .digest('hex');
}
