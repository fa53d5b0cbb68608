/** A Python process that waits for requests, one JSON object a line, and answers each with one. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Batch, Timed } from '../../lib/bench/harness.js';
import { type Device, PACKAGE_ROOT } from '../../lib/native.js';

/** Sources are not compiled: the Python files lie where they were written. */
export const PEERS: string = join(PACKAGE_ROOT, 'bench', 'peers');

/** A case that was prepared cannot be run after all. */
export class PeerFailure extends Error {}

export class PeerProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** Starts a script of `bench/peers` with the number of threads. */
  constructor(python: string, script: string, threads: number, device: Device = 'cpu') {
    const args = [join(PEERS, script), String(threads), ...(device === 'cpu' ? [] : [device])];
    this.#child = spawn(python, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    // A process that ended is told of where its answer is missed.
    this.#child.stdin!.on('error', () => {});
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async ask(request: object): Promise<Readonly<Record<string, unknown>>> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('the Python process ended early; its message is above');
    return JSON.parse(value as string) as Record<string, unknown>;
  }

  /** The case that was asked for last. */
  readonly timed: Timed = { repeat: (calls): Batch => ({ run: () => this.#time(calls), release: () => {} }) };

  async #time(calls: number): Promise<number> {
    const { seconds, missing } = await this.ask({ calls });
    if (typeof seconds !== 'number') throw new PeerFailure(String(missing));
    return seconds;
  }

  async end(): Promise<void> {
    this.#child.stdin!.end();
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
  }
}
