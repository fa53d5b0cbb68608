/** Where the fixtures of these tests lie, and a folder for what a test writes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { type ErrorCode, VltuneError } from '../../lib/errors.js';
import { PACKAGE_ROOT } from '../../lib/native.js';

export function fixture(name: string): string {
  return join(PACKAGE_ROOT, 'test/fixtures/weights', name);
}

/** A new folder that is removed when the test ends. */
export async function scratch(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'vltune-weights-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Expects a VltuneError with this code whose message has each of `parts`. */
export async function fails(t: ExecutionContext, code: ErrorCode, parts: readonly string[], run: () => unknown): Promise<void> {
  let caught: unknown;
  try {
    await run();
  } catch (error) {
    caught = error;
  }
  if (!(caught instanceof VltuneError)) {
    t.fail(`expected a VltuneError ${code}, got ${String(caught)}`);
    return;
  }
  t.is(caught.code, code, caught.message);
  for (const part of parts) t.true(caught.message.includes(part), `"${caught.message}" should name ${part}`);
}
