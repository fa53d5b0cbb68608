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

export class Patcher {
  readonly #settings: PatchSettings;
  readonly #backend: ImageBackend;
  readonly #table: Float32Array;

  constructor(settings: PatchSettings, backend: ImageBackend) {
    this.#settings = settings;
    this.#backend = backend;
    this.#table = valueTable(settings, backend);
  }

  /** Resizes frames to `size`, whose sides are multiples of patch × merge, and cuts them into rows of patches; off the main thread. */
  patches(frames: readonly Pixels[], size: Size): Promise<Float32Array> {
    const { width, height } = frames[0]!;
    const { patchSize, mergeSize, temporalPatchSize } = this.#settings;
    return addon().imagePatches(
      frames.map((frame) => frame.data),
      {
        width,
        height,
        columns: bicubic(width, size.width, this.#backend) ?? null,
        rows: bicubic(height, size.height, this.#backend) ?? null,
        rowsFirst: this.#backend === 'pil' && pillowResizesRowsFirst(frames[0]!, size),
        table: this.#table,
        patchSize,
        mergeSize,
        temporalPatchSize,
      },
    );
  }
}
