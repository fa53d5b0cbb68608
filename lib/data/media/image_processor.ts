/**
 * Pictures to patches, number for number as transformers' Qwen2-VL image processors make them (Qwen3-VL uses the same): resized to
 * multiples of patch × merge within bounds on the pixels, rescaled, normalised, and cut into patches in the order in which the
 * merger takes them.
 */
import type { Grid } from '../../models/grid.js';
import type { JsonObject } from '../../weights/json.js';
import type { Pixels } from './decode.js';
import { Patcher, patchArray } from './patches.js';
import { findProcessorConfig, type PatchSettings, type PixelBounds, readPatchSettings } from './processor_config.js';
import { imageSize, type ResizeRule, type Size, unresizedSize } from './smart_resize.js';

export interface Patches {
  /** [t·h·w, 3·temporalPatchSize·patchSize²], row-major; rows stand in groups of merge × merge, a row's order is channel, frame, y, x. */
  readonly patches: Float32Array;
  readonly grid: Grid;
}

/** Which of transformers' two processors is followed: they round differently, by one step of 255 in some pixels. */
export type ImageBackend = 'torchvision' | 'pil';

/** Bounds are on the pixels of the resized picture. */
export interface ImageProcessorOptions extends PixelBounds {
  readonly backend?: ImageBackend | undefined;
}

const CONFIG_FILES: readonly string[] = ['preprocessor_config.json'];

const DEFAULTS = {
  patchSize: 14,
  minPixels: 56 * 56,
  maxPixels: 28 * 28 * 1280,
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
} as const;

export class ImageProcessor {
  readonly backend: ImageBackend;
  readonly #settings: PatchSettings;
  readonly #patcher: Patcher;

  private constructor(settings: PatchSettings, backend: ImageBackend) {
    this.#settings = settings;
    this.backend = backend;
    this.#patcher = new Patcher(settings, backend);
  }

  /** `config` is what preprocessor_config.json holds, `file` its name for errors. ERR_BAD_CHECKPOINT, ERR_UNSUPPORTED, ERR_USAGE. */
  static fromConfig(config: JsonObject, options: ImageProcessorOptions = {}, file: string = CONFIG_FILES[0]!): ImageProcessor {
    const settings = readPatchSettings({ values: config, file }, DEFAULTS, options);
    return new ImageProcessor(settings, options.backend ?? 'torchvision');
  }

  /** The processor of a model folder. */
  static async load(folder: string, options: ImageProcessorOptions = {}): Promise<ImageProcessor> {
    const { values, file } = await findProcessorConfig(folder, 'image_processor', CONFIG_FILES);
    return ImageProcessor.fromConfig(values, options, file);
  }

  get patchSize(): number {
    return this.#settings.patchSize;
  }

  get mergeSize(): number {
    return this.#settings.mergeSize;
  }

  get temporalPatchSize(): number {
    return this.#settings.temporalPatchSize;
  }

  /** Numbers in a row of patches. */
  get patchLength(): number {
    return this.#patcher.patchLength;
  }

  /** The grid of a picture of this size (as it is looked at: orientation applied). ERR_BAD_DATA if it is too long and thin. */
  gridOf(width: number, height: number): Grid {
    const { patchSize } = this.#settings;
    const size = this.#resized({ width, height });
    return [1, size.height / patchSize, size.width / patchSize];
  }

  /**
   * Off the main thread: the pixels must not change until it is done. `into`, if given, is where the patches are written (as many rows
   * as the grid has): a part of a batch, say. ERR_BAD_DATA as for `gridOf`.
   */
  async process(pixels: Pixels, into?: Float32Array): Promise<Patches> {
    const grid = this.gridOf(pixels.width, pixels.height);
    const patches = into ?? patchArray(grid[1] * grid[2] * this.patchLength);
    await this.#patcher.write([pixels], this.#resized(pixels), patches);
    return { patches, grid };
  }

  #resized(size: Size): Size {
    const { patchSize, mergeSize, doResize, minPixels, maxPixels } = this.#settings;
    const rule: ResizeRule = { factor: patchSize * mergeSize, minPixels, maxPixels };
    return doResize ? imageSize(size, rule) : unresizedSize(size, rule.factor);
  }
}
