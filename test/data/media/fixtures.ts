/** The fixtures of pictures and videos, as `test/fixtures/scripts/media.py` wrote them. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Pixels } from '../../../lib/data/media/decode.js';
import { type OpenedImage, openImage } from '../../../lib/data/media/source.js';
import type { Grid } from '../../../lib/models/grid.js';
import { PACKAGE_ROOT } from '../../../lib/native.js';
import type { JsonObject } from '../../../lib/weights/json.js';

export const MEDIA: string = join(PACKAGE_ROOT, 'test/fixtures/media');

export interface MediaFixtures {
  readonly configs: Readonly<Record<string, JsonObject>>;
  readonly videoConfigs: Readonly<Record<string, JsonObject>>;
  /** What Pillow makes of each file. */
  readonly files: readonly {
    readonly file: string;
    readonly mode: string;
    readonly width: number;
    readonly height: number;
    readonly rgb: string;
  }[];
  /** What each of transformers' image processors makes of the photograph, tiled to a size. */
  readonly images: readonly {
    readonly config: string;
    readonly width: number;
    readonly height: number;
    readonly grid: Grid;
    readonly torchvision: string;
    readonly pil: string;
  }[];
  /** What transformers' video processor makes of frames that walk over the tiled photograph. */
  readonly videos: readonly {
    readonly config: string;
    readonly frames: number;
    readonly width: number;
    readonly height: number;
    readonly fps: number;
    readonly indices: readonly number[];
    readonly grid: Grid;
    readonly timestamps: readonly number[];
    readonly texts: readonly string[];
    readonly patches: string;
  }[];
}

export function mediaFixtures(): MediaFixtures {
  return JSON.parse(readFileSync(join(MEDIA, 'media.json'), 'utf8')) as MediaFixtures;
}

export function openFixture(file: string): Promise<OpenedImage> {
  return openImage(file, { folder: MEDIA });
}

export async function photo(): Promise<Pixels> {
  return (await openFixture('photo.png')).decode();
}

/** Begins of SHA-256, as the fixtures have them. */
export function sha(array: Uint8Array | Float32Array): string {
  return createHash('sha256')
    .update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    .digest('hex')
    .slice(0, 32);
}

/** The picture beside its mirror image, and so on, to any size, beginning at an offset. */
export function tiled(picture: Pixels, width: number, height: number, dx = 0, dy = 0): Pixels {
  const walk = (i: number, length: number) =>
    i % (2 * length) < length ? i % (2 * length) : 2 * length - 1 - (i % (2 * length));
  const columns = Array.from({ length: width }, (_, x) => 3 * walk(x + dx, picture.width));
  const data = new Uint8Array(width * height * 3);
  let to = 0;
  for (let y = 0; y < height; y++) {
    const row = 3 * picture.width * walk(y + dy, picture.height);
    for (const column of columns) {
      data[to++] = picture.data[row + column]!;
      data[to++] = picture.data[row + column + 1]!;
      data[to++] = picture.data[row + column + 2]!;
    }
  }
  return { data, width, height };
}
