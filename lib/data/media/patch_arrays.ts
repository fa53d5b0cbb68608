/** Memory for patches that is used again: touching the pages of a new array takes longer than making a picture's patches. */
import { patchArray } from './patches.js';

/** An array is lent for as little as this part of what it has room for. */
const LEAST_USED = 0.5;

export class PatchArrays {
  /** The most that is held for later, in bytes; an array of more than half of it is not. */
  static readonly MOST_HELD: number = 128 << 20;

  /** Of rising size. */
  readonly #held: ArrayBuffer[] = [];
  readonly #lent = new WeakSet<Float32Array>();
  #bytes = 0;

  /** An array of `length` numbers, whatever they are. */
  take(length: number): Float32Array {
    const bytes = length * Float32Array.BYTES_PER_ELEMENT;
    if (bytes > PatchArrays.MOST_HELD / 2) return patchArray(length);
    const at = this.#held.findIndex(({ byteLength }) => byteLength >= bytes);
    const fits = at >= 0 && bytes >= LEAST_USED * this.#held[at]!.byteLength;
    if (fits) this.#bytes -= this.#held[at]!.byteLength;
    const array = fits ? new Float32Array(this.#held.splice(at, 1)[0]!, 0, length) : new Float32Array(length);
    this.#lent.add(array);
    return array;
  }

  /** Takes back an array that was lent, which is empty from then on if there is room for it; leaves any other as it is. */
  give(array: Float32Array): void {
    const lent = array.buffer as ArrayBuffer;
    if (!this.#lent.delete(array) || !this.#hasRoom(lent.byteLength)) return;
    // Detached, so that whoever still holds the array finds nothing rather than another picture.
    const buffer = structuredClone(lent, { transfer: [lent] });
    this.#bytes += buffer.byteLength;
    const after = this.#held.findIndex(({ byteLength }) => byteLength > buffer.byteLength);
    this.#held.splice(after < 0 ? this.#held.length : after, 0, buffer);
  }

  /** Smaller arrays make room for a larger one, which costs more to have anew. */
  #hasRoom(bytes: number): boolean {
    while (this.#bytes + bytes > PatchArrays.MOST_HELD) {
      const [smallest] = this.#held;
      if (!smallest || smallest.byteLength >= bytes) return false;
      this.#held.shift();
      this.#bytes -= smallest.byteLength;
    }
    return true;
  }
}
