/**
 * The log of a run: `events.jsonl` in the output folder, what the run says of itself as it goes (`TrainEvent`), one JSON object a
 * line, each with the time of the clock. `vltune report` draws it.
 *
 *   {"time":"2026-11-30T02:15:19.000Z","event":"start",…,"version":"0.1.0","machine":"NVIDIA H200","options":{"lora_r":16,…}}
 *   {"time":…,"event":"step","step":1,"loss":…,"memory_bytes":…}
 *
 * Times and speeds are in no other file of the folder: checkpoints of the same run are the same bytes. A run that goes on from a
 * checkpoint adds to the file, and its `start` says with `resumed_step` from where on the events before it no longer hold.
 */
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, writeFileAtomic } from '../files.js';
import { addon, type Device } from '../native.js';
import { packageVersion } from '../version.js';
import type { TrainArgs } from './args.js';
import { argsAsJson } from './checkpoint.js';
import type { TrainEvent } from './train_events.js';

export const EVENT_LOG = 'events.jsonl';

/**
 * Writes the log. Lines are held back until the run has left something else in the folder: a run that was killed before its first
 * checkpoint leaves nothing, so that it can be started over. A new run takes the place of an older one's log.
 */
export class EventLog {
  readonly #path: string;
  readonly #args: TrainArgs;
  #held: string[] = [];
  #begun: boolean;
  #pending: Promise<void> = Promise.resolve();

  constructor(args: TrainArgs, resumed: boolean) {
    this.#path = join(args.outputDir, EVENT_LOG);
    this.#args = args;
    this.#begun = resumed;
    if (resumed) this.#held.push(''); // ends a line that a kill may have torn
  }

  /** Writes in the background, in order; what fails is told by `close`. */
  onEvent(event: TrainEvent): void {
    const line = { time: new Date().toISOString(), ...event, ...(event.event === 'start' && this.#about(event.device)) };
    this.#held.push(JSON.stringify(line));
    if (!this.#begun && event.event !== 'save' && event.event !== 'end') return;
    const text = `${this.#held.join('\n')}\n`;
    const first = !this.#begun;
    this.#held = [];
    this.#begun = true;
    this.#pending = this.#pending.then(() => this.#write(text, first));
    this.#pending.catch(() => {});
  }

  /** Waits for all that was written. Rejects with ERR_IO if some of it failed. */
  async close(): Promise<void> {
    await this.#pending;
  }

  async #write(text: string, first: boolean): Promise<void> {
    if (first) return await writeFileAtomic(this.#path, text);
    try {
      await appendFile(this.#path, text);
    } catch (error) {
      throw ioError(error, 'write', this.#path);
    }
  }

  #about(device: Device): { version: string; machine: string; options: Record<string, unknown> } {
    return { version: packageVersion(), machine: machineName(device, this.#args), options: argsAsJson(this.#args) };
  }
}

function machineName(device: Device, args: TrainArgs): string {
  if (device === 'cpu') return addon().cpuInfo().model;
  const index = Number(/\d+$/.exec(args.device)?.[0] ?? 0);
  const gpu = addon()
    .cudaInfo()
    .devices.find((one) => one.index === index);
  return gpu?.name ?? args.device;
}
