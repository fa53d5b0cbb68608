/** A Python process that waits for requests, one JSON object a line, and answers each with one. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Batch, Timed } from '../../lib/bench/harness.js';
import { PACKAGE_ROOT } from '../../lib/native.js';

/** Sources are not compiled: the Python files lie where they were written. */
export const PEERS: string = join(PACKAGE_ROOT, 'bench', 'peers');

export class PeerProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** Starts a script of `bench/peers` with the number of threads. */
  constructor(python: string, script: string, threads: number) {
    this.#child = spawn(python, [join(PEERS, script), String(threads)], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async ask(request: object): Promise<Readonly<Record<string, unknown>>> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('the Python process ended early; its message is above');
    return JSON.parse(value as string) as Record<string, unknown>;
  }

  /** The case that was asked for last. */
  readonly timed: Timed = {
    repeat: (calls): Batch => ({ run: async () => (await this.ask({ calls })).seconds as number, release: () => {} }),
  };

  async end(): Promise<void> {
    this.#child.stdin!.end();
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
  }
}
