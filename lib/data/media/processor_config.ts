/**
 * What a model says about its pictures and videos: preprocessor_config.json, video_preprocessor_config.json, or the nested form in
 * processor_config.json, which transformers 5 writes and which comes first where it is there.
 */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { VltuneError } from '../../errors.js';
import { ConfigReader } from '../../models/config_reader.js';
import { isJsonObject, type JsonObject, readJsonObject } from '../../weights/json.js';

/** A config, and the file that errors about it name. */
export interface ProcessorConfig {
  readonly values: JsonObject;
  readonly file: string;
}

/** How pixels become patches, as the config has it. */
export interface PatchSettings {
  readonly patchSize: number;
  readonly mergeSize: number;
  readonly temporalPatchSize: number;
  readonly minPixels: number;
  readonly maxPixels: number;
  readonly doResize: boolean;
  /** Undefined: pixels stay 0 to 255. */
  readonly rescaleFactor: number | undefined;
  /** Undefined: pixels are not normalised. */
  readonly normalize: { readonly mean: Rgb; readonly std: Rgb } | undefined;
}

export type Rgb = readonly [number, number, number];

/** What a processor has where its config says nothing. */
export interface PatchDefaults {
  readonly patchSize: number;
  readonly minPixels: number;
  readonly maxPixels: number;
  readonly mean: Rgb;
  readonly std: Rgb;
}

const LARGEST_PATCH = 256;
/** A bound above this is a mistake; below it, products of sizes and frames are exact in a double. */
const MOST_PIXELS = 2 ** 40;
/** PIL's number for bicubic, the only filter that the Qwen-VL processors are published with. */
const BICUBIC = 3;

const PROCESSOR_FILE = 'processor_config.json';

/** Reads the config of a model folder. `section` is its name in processor_config.json, `files` those it has of its own, best first. */
export async function findProcessorConfig(folder: string, section: string, files: readonly string[]): Promise<ProcessorConfig> {
  const exists = (path: string) =>
    access(path).then(
      () => true,
      () => false,
    );
  const nested = join(folder, PROCESSOR_FILE);
  if (await exists(nested)) {
    const values = (await readJsonObject(nested, 'ERR_BAD_CHECKPOINT'))[section];
    if (isJsonObject(values)) return { values, file: `${nested}: ${section}` };
  }
  for (const name of files) {
    const file = join(folder, name);
    if (await exists(file)) return { values: await readJsonObject(file, 'ERR_BAD_CHECKPOINT'), file };
  }
  throw new VltuneError(
    'ERR_BAD_CHECKPOINT',
    `${folder}: no ${files.join(' or ')}, and no ${section} in ${PROCESSOR_FILE}: the model does not say how its pictures are prepared`,
  );
}

function rgb(config: ProcessorConfig, reader: ConfigReader, key: string, fallback: Rgb): Rgb {
  const value = config.values[key] ?? fallback;
  if (typeof value === 'number' && Number.isFinite(value)) return [value, value, value];
  const good = Array.isArray(value) && value.length === 3 && value.every((item) => Number.isFinite(item));
  if (!good) reader.fail(key, 'three numbers', value);
  return value as unknown as Rgb;
}

/** Bounds that are the user's instead of the config's. */
export interface PixelBounds {
  readonly minPixels?: number | undefined;
  readonly maxPixels?: number | undefined;
}

/**
 * Checks the keys that pictures and videos share. ERR_BAD_CHECKPOINT naming file and key; ERR_UNSUPPORTED for another filter;
 * ERR_USAGE where the given bounds leave nothing.
 */
export function readPatchSettings(config: ProcessorConfig, defaults: PatchDefaults, given: PixelBounds): PatchSettings {
  const reader = new ConfigReader(config.values, config.file);
  const resample = reader.integer('resample', 0, 5, BICUBIC);
  if (resample !== BICUBIC)
    throw new VltuneError('ERR_UNSUPPORTED', `${config.file}: resample is ${resample}; only ${BICUBIC} (bicubic) is built`);
  const size = reader.optionalSection('size');
  const pixels = (key: string, sizeKey: string, fallback: number) =>
    reader.has(key) || size === undefined ? reader.integer(key, 1, MOST_PIXELS, fallback) : size.integer(sizeKey, 1, MOST_PIXELS);
  const minPixels = given.minPixels ?? pixels('min_pixels', 'shortest_edge', defaults.minPixels);
  const maxPixels = given.maxPixels ?? pixels('max_pixels', 'longest_edge', defaults.maxPixels);
  if (minPixels > maxPixels) {
    const overridden = given.minPixels !== undefined || given.maxPixels !== undefined;
    throw new VltuneError(
      overridden ? 'ERR_USAGE' : 'ERR_BAD_CHECKPOINT',
      `${overridden ? '' : `${config.file}: `}the least number of pixels (${minPixels}) is above the largest (${maxPixels})`,
    );
  }
  const mean = rgb(config, reader, 'image_mean', defaults.mean);
  const std = rgb(config, reader, 'image_std', defaults.std);
  if (std.includes(0)) reader.fail('image_std', 'three numbers other than 0', std);
  return {
    patchSize: reader.integer('patch_size', 1, LARGEST_PATCH, defaults.patchSize),
    mergeSize: reader.integer('merge_size', 1, LARGEST_PATCH, 2),
    temporalPatchSize: reader.integer('temporal_patch_size', 1, LARGEST_PATCH, 2),
    minPixels,
    maxPixels,
    doResize: reader.flag('do_resize', true),
    rescaleFactor: reader.flag('do_rescale', true) ? reader.positive('rescale_factor', 1e6, 1 / 255) : undefined,
    normalize: reader.flag('do_normalize', true) ? { mean, std } : undefined,
  };
}
