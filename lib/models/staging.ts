/**
 * The way of a tensor from a mapped file to where ops work on it. On the CPU it is read where it lies; on a GPU it goes over in
 * pieces through a buffer there, so that converting a tensor of any size needs little memory beside what stays.
 */
import { addon, type Device, dtypeBytes, type Storage, type TensorRef } from '../native.js';

/** A run of a tensor's elements, on the device. */
export interface Piece {
  readonly ref: TensorRef;
  /** Number of its first element in the tensor. */
  readonly from: number;
  readonly count: number;
}

export class Staging {
  /** Bytes of a piece on a GPU: some milliseconds of copying, a multiple of what any block of NF4 is made from. */
  static pieceBytes: number = 32 << 20;

  readonly #device: Device;
  readonly #buffers = new Map<string, { storage: Storage; bytes: number }>();

  constructor(device: Device) {
    this.#device = device;
  }

  /** The most elements of a piece of a tensor of `numel` elements. */
  static pieceElements(device: Device, source: { dtype: TensorRef['dtype'] }, numel: number): number {
    return device === 'cpu' ? numel : Math.min(numel, Staging.pieceBytes / dtypeBytes(source.dtype, 1));
  }

  /** Scratch memory under a name: at least so large, its contents gone at the next call of the same name. */
  buffer(name: string, bytes: number): Storage {
    const existing = this.#buffers.get(name);
    if (existing && existing.bytes >= bytes) return existing.storage;
    if (existing) addon().release(existing.storage);
    this.#buffers.delete(name);
    const storage = addon().allocate(bytes, this.#device);
    this.#buffers.set(name, { storage, bytes });
    return storage;
  }

  /** A tensor of host memory, piece by piece. A piece is gone when the next is asked for. */
  async *pieces(source: TensorRef): AsyncGenerator<Piece> {
    const { dtype, storage, offset } = source;
    const numel = source.shape.reduce((product, dim) => product * dim, 1);
    if (this.#device === 'cpu') {
      yield { ref: source, from: 0, count: numel };
      return;
    }
    const most = Staging.pieceElements(this.#device, source, numel);
    const raw = this.buffer('raw', dtypeBytes(dtype, most));
    for (let from = 0; from < numel; from += most) {
      const count = Math.min(most, numel - from);
      await addon().copyAsync(raw, 0, storage, offset + dtypeBytes(dtype, from), dtypeBytes(dtype, count));
      yield { ref: { storage: raw, offset: 0, dtype, shape: [count] }, from, count };
    }
  }

  /** Converts a tensor of host memory into one on the device. */
  async cast(source: TensorRef, to: TensorRef): Promise<void> {
    for await (const { ref, from, count } of this.pieces(source)) {
      const output = { ...to, offset: to.offset + dtypeBytes(to.dtype, from), shape: [count] };
      await addon().callAsync('cast', [{ ...ref, shape: [count] }], [output], {});
    }
  }

  release(): void {
    for (const { storage } of this.#buffers.values()) addon().release(storage);
    this.#buffers.clear();
  }
}
