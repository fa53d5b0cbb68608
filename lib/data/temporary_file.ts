/** A file for one process alone, in a folder for temporary files: it is gone with the process, however that ends. */
import { randomBytes } from 'node:crypto';
import { closeSync, read as fsRead, write as fsWrite, openSync, readSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { VltuneError } from '../errors.js';

const write = promisify(fsWrite);
const read = promisify(fsRead);

export class TemporaryFile {
  /** What it holds, for errors: `the file of tokens`. */
  readonly name: string;
  private descriptor: number | undefined;
  /** Set where the system cannot unlink an open file. */
  private readonly path: string | undefined;
  private size = 0;

  /** ERR_IO if it cannot be made. */
  constructor(folder: string, kind: string) {
    this.name = `the file of ${kind}`;
    const path = join(folder, `vltune-${process.pid}-${randomBytes(8).toString('hex')}.${kind}`);
    try {
      this.descriptor = openSync(path, 'wx+', 0o600);
    } catch (cause) {
      throw new VltuneError('ERR_IO', `${path}: cannot be written: ${(cause as Error).message}`, { cause });
    }
    try {
      // An unlinked file lives as long as its descriptor: not even a killed process leaves it behind.
      rmSync(path);
    } catch {
      this.path = path;
    }
  }

  /** Returns where the bytes begin. One call at a time. ERR_IO, as for a disk that is full. */
  async append(bytes: Uint8Array): Promise<number> {
    const start = this.size;
    try {
      for (let at = 0; at < bytes.length; ) at += (await write(this.open(), bytes, at)).bytesWritten;
    } catch (cause) {
      throw new VltuneError('ERR_IO', `${this.name} cannot be written: ${(cause as Error).message}`, { cause });
    }
    this.size += bytes.length;
    return start;
  }

  /** Fills `into` with the bytes from `start` on. */
  readSync(start: number, into: Uint8Array): void {
    for (let at = 0; at < into.length; ) {
      const got = readSync(this.open(), into, at, into.length - at, start + at);
      if (got === 0) throw this.cutOff();
      at += got;
    }
  }

  async read(start: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const { bytesRead } = await read(this.open(), bytes, at, length - at, start + at);
      if (bytesRead === 0) throw this.cutOff();
      at += bytesRead;
    }
    return bytes;
  }

  /** Frees it. Closing twice is harmless. */
  close(): void {
    if (this.descriptor === undefined) return;
    closeSync(this.descriptor);
    this.descriptor = undefined;
    if (this.path !== undefined) rmSync(this.path, { force: true });
  }

  private open(): number {
    if (this.descriptor === undefined) throw new VltuneError('ERR_ARGUMENT', 'the dataset is closed');
    return this.descriptor;
  }

  private cutOff(): VltuneError {
    return new VltuneError('ERR_IO', `${this.name} was cut off`);
  }
}
