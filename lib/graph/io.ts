/**
 * The inputs and results of a program: named arrays in one storage. On a GPU a write costs the host more than the bytes of most do,
 * so small inputs gather in a host copy and `flush` brings what has changed over in one.
 */
import { VltuneError } from '../errors.js';
import { addon, type Device, type Storage } from '../native.js';
import { type Graph, type Value, valueBytes } from './graph.js';
import { align } from './planner.js';
import type { Place } from './program.js';

/** Inputs that may be larger, as the pixels of pictures, are written by themselves. */
const GATHERED_BYTES = 1 << 20;

interface Slot {
  readonly offset: number;
  readonly bytes: number;
}

export class IoBuffers {
  readonly bytes: number;
  readonly #slots = new Map<string, Slot>();
  /** Small inputs end here; behind them lie large ones, and what programs write. */
  readonly #gatheredBytes: number;
  #storage: Storage | undefined;
  #mirror: Uint8Array | undefined;
  /** The range of the mirror that differs from the device. */
  #dirty = { first: 0, end: 0 };

  /** One slot for each name among the graphs' `io` values, as large as the largest of that name. */
  constructor(graphs: readonly Graph[]) {
    const sizes = new Map<string, number>();
    const written = new Set<string>();
    for (const graph of graphs) {
      for (const value of graph.values) {
        if (value.kind === 'io') sizes.set(value.name, Math.max(sizes.get(value.name) ?? 0, valueBytes(value, graph.dims)));
      }
      for (const op of graph.ops) for (const value of op.out) if (value?.kind === 'io') written.add(value.name);
    }
    let offset = 0;
    const take = (name: string, bytes: number): void => {
      this.#slots.set(name, { offset, bytes });
      offset += align(bytes);
    };
    const isGathered = (name: string, bytes: number) => !written.has(name) && bytes <= GATHERED_BYTES;
    for (const [name, bytes] of sizes) if (isGathered(name, bytes)) take(name, bytes);
    this.#gatheredBytes = offset;
    for (const [name, bytes] of sizes) if (!isGathered(name, bytes)) take(name, bytes);
    this.bytes = offset;
  }

  allocate(device: Device): void {
    this.#storage = addon().allocate(this.bytes, device);
    if (device !== 'cpu') this.#mirror = new Uint8Array(this.#gatheredBytes);
  }

  place(value: Value): Place {
    return { storage: this.#allocated(), offset: this.#slot(value.name).offset };
  }

  /** Sets an array, from byte `from` on. Inputs are there for the next run once `flush` has been called. */
  write(name: string, data: Int32Array | Float32Array | Uint8Array, from = 0): void {
    const { offset: start, bytes } = this.#slot(name);
    const offset = start + from;
    if (from + data.byteLength > bytes)
      throw new VltuneError('ERR_SHAPE', `${name}: ${from + data.byteLength} bytes do not fit in ${bytes}`);
    if (!this.#mirror || offset >= this.#gatheredBytes) {
      addon().write(this.#allocated(), offset, data);
      return;
    }
    this.#mirror.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    const { first, end } = this.#dirty;
    const until = offset + data.byteLength;
    this.#dirty = end === 0 ? { first: offset, end: until } : { first: Math.min(first, offset), end: Math.max(end, until) };
  }

  /** Brings every input written since the last time to the device. */
  flush(): void {
    const { first, end } = this.#dirty;
    if (!this.#mirror || end === 0) return;
    addon().write(this.#allocated(), first, this.#mirror.subarray(first, end));
    this.#dirty = { first: 0, end: 0 };
  }

  read<T extends Int32Array | Float32Array | Uint8Array>(name: string, into: T): T {
    addon().read(this.#allocated(), this.#slot(name).offset, into);
    return into;
  }

  release(): void {
    if (this.#storage) addon().release(this.#storage);
    this.#storage = undefined;
    this.#mirror = undefined;
  }

  #slot(name: string): Slot {
    const slot = this.#slots.get(name);
    if (!slot) throw new VltuneError('ERR_INTERNAL', `the programs have no input or result named ${name}`);
    return slot;
  }

  #allocated(): Storage {
    if (!this.#storage) throw new VltuneError('ERR_INTERNAL', 'these buffers are not allocated');
    return this.#storage;
  }
}
