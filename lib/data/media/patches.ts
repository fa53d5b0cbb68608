/** Frames of one size to patches: the part that pictures and videos share. */
import { addon } from '../../native.js';
import type { Pixels } from './decode.js';
import type { ImageBackend } from './image_processor.js';
import type { PatchSettings } from './processor_config.js';
import { bicubic, pillowResizesRowsFirst } from './resample.js';
import type { Size } from './smart_resize.js';

/**
 * What each of a channel's 256 values becomes, [3, 256]. torchvision's processor takes mean and deviation times 255 away from the
 * bytes; the other one rescales first. Each step rounds to F32, as theirs do.
 */
function valueTable(settings: PatchSettings, backend: ImageBackend): Float32Array {
  const { rescaleFactor, normalize } = settings;
  const f32 = Math.fround;
  const table = new Float32Array(3 * 256);
  for (let c = 0; c < 3; c++) {
    for (let value = 0; value < 256; value++) {
      let x = value;
      let mean = f32(normalize?.mean[c] ?? 0);
      let std = f32(normalize?.std[c] ?? 1);
      if (rescaleFactor !== undefined) {
        if (backend === 'torchvision' && normalize) {
          mean = f32(mean * f32(1 / rescaleFactor));
          std = f32(std * f32(1 / rescaleFactor));
        } else {
          x = f32(backend === 'torchvision' ? value * f32(rescaleFactor) : value * rescaleFactor);
        }
      }
      table[c * 256 + value] = normalize ? f32(f32(x - mean) / std) : x;
    }
  }
  return table;
}

/** Above this many numbers huge pages are worth it. */
const LARGE_ARRAY = 2 ** 21;

/** Memory for patches. */
export function patchArray(length: number): Float32Array {
  return length < LARGE_ARRAY ? new Float32Array(length) : addon().largeArray(length);
}

export class Patcher {
  readonly #settings: PatchSettings;
  readonly #backend: ImageBackend;
  readonly #table: Float32Array;

  constructor(settings: PatchSettings, backend: ImageBackend) {
    this.#settings = settings;
    this.#backend = backend;
    this.#table = valueTable(settings, backend);
  }

  /** Numbers in a row of patches. */
  get patchLength(): number {
    const { patchSize, temporalPatchSize } = this.#settings;
    return 3 * temporalPatchSize * patchSize * patchSize;
  }

  /**
   * Resizes frames to `size`, whose sides are multiples of patch × merge, and writes them as rows of patches; off the main thread.
   * Neither frames nor patches may be touched until it is done.
   */
  write(frames: readonly Pixels[], size: Size, patches: Float32Array): Promise<void> {
    const { width, height } = frames[0]!;
    const { patchSize, mergeSize, temporalPatchSize } = this.#settings;
    const layout = {
      width,
      height,
      columns: bicubic(width, size.width, this.#backend) ?? null,
      rows: bicubic(height, size.height, this.#backend) ?? null,
      rowsFirst: this.#backend === 'pil' && pillowResizesRowsFirst(frames[0]!, size),
      table: this.#table,
      patchSize,
      mergeSize,
      temporalPatchSize,
    };
    return addon().imagePatches(
      frames.map((frame) => frame.data),
      layout,
      patches,
    );
  }
}
