/** A growing list of int32. */
export class IntBuffer {
  items: Int32Array = new Int32Array(1 << 12);
  length = 0;

  push(item: number): void {
    if (this.length === this.items.length) this.reserve(1);
    this.items[this.length++] = item;
  }

  pushAll(from: Int32Array, start: number, end: number): void {
    this.reserve(end - start);
    for (let i = start; i < end; i++) this.items[this.length++] = from[i]!;
  }

  private reserve(more: number): void {
    if (this.length + more <= this.items.length) return;
    const grown = new Int32Array(Math.max(this.items.length * 2, this.length + more));
    grown.set(this.items.subarray(0, this.length));
    this.items = grown;
  }

  /** A copy of what is in it. */
  toArray(): Int32Array {
    return this.items.slice(0, this.length);
  }
}
