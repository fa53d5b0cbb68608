/**
 * Where libvips and Pillow differ in a GIF: where its first frame is transparent, libvips gives black; Pillow's `convert("RGB")` gives
 * the colour that the palette has there, and fills what the frame leaves of the canvas with that colour, or the first one.
 */

export interface OpaqueGif {
  /** The file with the transparency of its first frame switched off. */
  readonly bytes: Uint8Array;
  /** Where the first frame lies, and what the canvas around it is filled with. */
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  readonly fill: readonly [r: number, g: number, b: number];
}

const EXTENSION = 0x21;
const GRAPHIC_CONTROL = 0xf9;
const IMAGE = 0x2c;

/** Undefined for a file that ends before its first frame does begin. */
export function opaqueGif(file: Uint8Array): OpaqueGif | undefined {
  const bytes = Uint8Array.from(file);
  const at = (i: number) => bytes[i] ?? Number.NaN;
  const tableBytes = (flags: number) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let table = 13;
  let i = table + tableBytes(at(10));
  let global = i > table;
  let transparent = 0;
  while (at(i) === EXTENSION) {
    if (at(i + 1) === GRAPHIC_CONTROL && at(i + 2) >= 4 && at(i + 3) & 1) {
      transparent = at(i + 6);
      bytes[i + 3]! &= ~1;
    }
    for (i += 2; at(i) > 0; ) i += at(i) + 1; // sub-blocks
    i++;
  }
  if (at(i) !== IMAGE) return undefined;
  if (at(i + 9) & 0x80) {
    table = i + 10;
    global = true;
  }
  const channel = (c: number) => (global ? (bytes[table + 3 * transparent + c] ?? 0) : transparent);
  const word = (at: number) => (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
  const fill = [channel(0), channel(1), channel(2)] as const;
  return { bytes, left: word(i + 1), top: word(i + 3), width: word(i + 5), height: word(i + 7), fill };
}
