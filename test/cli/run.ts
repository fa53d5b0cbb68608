/** Runs the command line as a user does, in a process of its own. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { ExecutionContext } from 'ava';

export const MAIN: string = resolve('dist/lib/cli/main.js');
export const MODEL: string = resolve('test/fixtures/qwen3vl-tiny');
export const ALPACA: string = resolve('test/fixtures/parity/alpaca.jsonl');
export const MESSAGES: string = resolve('test/fixtures/parity/messages.jsonl');

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Called with each whole line of stdout as it comes. */
  readonly onLine?: (line: string, kill: (signal: NodeJS.Signals) => void) => void;
}

export function vltune(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const { FORCE_COLOR: _, NO_COLOR: __, ...inherited } = process.env; // ava sets one for its own output
  const env = { ...inherited, ...options.env };
  const child = spawn(process.execPath, [MAIN, ...args], { cwd: options.cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  let told = 0;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    for (let end = stdout.indexOf('\n', told); end >= 0; end = stdout.indexOf('\n', told)) {
      options.onLine?.(stdout.slice(told, end), (signal) => child.kill(signal));
      told = end + 1;
    }
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((done, failed) => {
    child.on('error', failed);
    child.on('close', (code, signal) => done({ code, signal, stdout, stderr }));
  });
}

/** A folder that is gone after the test. */
export async function scratch(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'vltune-cli-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** The smallest training run there is on the fixture model. */
export function trainArgs(outputDir: string, ...more: readonly string[]): string[] {
  return [
    'train',
    '--model',
    MODEL,
    '--dataset',
    ALPACA,
    '--output-dir',
    outputDir,
    '--max-length',
    '64',
    '--max-steps',
    '2',
    ...more,
  ];
}
