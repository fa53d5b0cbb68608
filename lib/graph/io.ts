/** The small inputs and results of a program: named arrays in one storage. */
import { VltuneError } from '../errors.js';
import { addon, type Device, type Storage } from '../native.js';
import { type Graph, type Value, valueBytes } from './graph.js';
import { align } from './planner.js';
import type { Place } from './program.js';

export class IoBuffers {
  readonly bytes: number;
  readonly #slots = new Map<string, { offset: number; bytes: number }>();
  #storage: Storage | undefined;

  /** One slot for each name among the graphs' `io` values, as large as the largest of that name. */
  constructor(graphs: readonly Graph[]) {
    const sizes = new Map<string, number>();
    for (const graph of graphs) {
      for (const value of graph.values) {
        if (value.kind === 'io') sizes.set(value.name, Math.max(sizes.get(value.name) ?? 0, valueBytes(value, graph.dims)));
      }
    }
    let offset = 0;
    for (const [name, bytes] of sizes) {
      this.#slots.set(name, { offset, bytes });
      offset += align(bytes);
    }
    this.bytes = offset;
  }

  allocate(device: Device): void {
    this.#storage = addon().allocate(this.bytes, device);
  }

  place(value: Value): Place {
    return { storage: this.#allocated(), offset: this.#slot(value.name).offset };
  }

  write(name: string, data: Int32Array | Float32Array): void {
    const { offset, bytes } = this.#slot(name);
    if (data.byteLength > bytes) throw new VltuneError('ERR_SHAPE', `${name}: ${data.byteLength} bytes do not fit in ${bytes}`);
    addon().write(this.#allocated(), offset, data);
  }

  read<T extends Int32Array | Float32Array>(name: string, into: T): T {
    addon().read(this.#allocated(), this.#slot(name).offset, into);
    return into;
  }

  release(): void {
    if (this.#storage) addon().release(this.#storage);
    this.#storage = undefined;
  }

  #slot(name: string): { offset: number; bytes: number } {
    const slot = this.#slots.get(name);
    if (!slot) throw new VltuneError('ERR_INTERNAL', `the programs have no input or result named ${name}`);
    return slot;
  }

  #allocated(): Storage {
    if (!this.#storage) throw new VltuneError('ERR_INTERNAL', 'these buffers are not allocated');
    return this.#storage;
  }
}
