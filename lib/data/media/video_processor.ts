/**
 * Videos to patches, number for number as transformers' Qwen3-VL video processor makes them: frames sampled at a rate within bounds on
 * their number, all resized to one size within bounds on the pixels of the whole video, two frames (temporalPatchSize) to a patch; and
 * the times that stand before each of these in the prompt.
 */
import { VltuneError } from '../../errors.js';
import { ConfigReader } from '../../models/config_reader.js';
import type { Grid } from '../../models/grid.js';
import type { JsonObject } from '../../weights/json.js';
import type { Pixels } from './decode.js';
import type { Patches } from './image_processor.js';
import { Patcher, patchArray } from './patches.js';
import { findProcessorConfig, type PatchSettings, type PixelBounds, readPatchSettings } from './processor_config.js';
import { roundHalfEven, type Size, unresizedSize, videoSize } from './smart_resize.js';
import type { OpenedVideo } from './video_source.js';

/** Bounds are on the pixels of the resized video, over all its frames. */
export interface VideoProcessorOptions extends PixelBounds {
  /** Frames sampled a second, and bounds on their number. */
  readonly fps?: number | undefined;
  readonly minFrames?: number | undefined;
  readonly maxFrames?: number | undefined;
}

/** Which frames are used, the grid that they become, and the second at which each patch in time stands. */
export interface VideoPlan {
  readonly indices: readonly number[];
  readonly grid: Grid;
  readonly timestamps: readonly number[];
}

/** How many frames there are, and how many to a second. `sampled`: all of them are used. */
export interface VideoLength extends Size {
  readonly frameCount: number;
  readonly fps: number;
  readonly sampled: boolean;
}

const CONFIG_FILES: readonly string[] = ['video_preprocessor_config.json', 'preprocessor_config.json'];

const DEFAULTS = {
  patchSize: 16,
  minPixels: 128 * 32 * 32,
  maxPixels: 32 * 32 * 768,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
} as const;

const MOST_FRAMES = 1_000_000;
/** Patches in time that are made at once: so many frames are in memory. */
const PATCHES_AT_ONCE = 4;

interface Sampling {
  /** False: all frames are used. */
  readonly sample: boolean;
  /** Frames a second, or else a fixed number of frames, or else as many as the bounds let through. */
  readonly fps: number | undefined;
  readonly frames: number | undefined;
  readonly minFrames: number;
  readonly maxFrames: number;
  /** Undefined, or the largest number of merged patches of a frame (transformers' `cap_pixels_per_frame`). */
  readonly tokensPerFrame: number | undefined;
}

function readSampling(values: JsonObject, file: string, options: VideoProcessorOptions): Sampling {
  const reader = new ConfigReader(values, file);
  const frames = reader.has('num_frames') && options.fps === undefined ? reader.integer('num_frames', 1, MOST_FRAMES) : undefined;
  if (frames !== undefined && reader.has('fps')) reader.fail('num_frames', 'absent where fps is there', frames);
  const none = frames !== undefined || values.fps === null;
  return {
    sample: reader.flag('do_sample_frames', true),
    fps: options.fps ?? (none ? undefined : reader.positive('fps', 1e6, 2)),
    frames,
    minFrames: options.minFrames ?? reader.integer('min_frames', 1, MOST_FRAMES, 4),
    maxFrames: options.maxFrames ?? reader.integer('max_frames', 1, MOST_FRAMES, 768),
    tokensPerFrame: reader.flag('cap_pixels_per_frame', false) ? reader.integer('max_video_tokens', 1, 2 ** 31, 768) : undefined,
  };
}

/** numpy's `linspace(0, last, count).round()`. */
function spread(last: number, count: number): number[] {
  const step = count > 1 ? last / (count - 1) : 0;
  return Array.from({ length: count }, (_, i) => (i > 0 && i === count - 1 ? last : roundHalfEven(i * step)));
}

/** How Qwen3-VL's processor writes a time before the patches of that time: Python's `<{:.1f} seconds>`, where a tie goes to the even digit. */
export function timestampText(seconds: number): string {
  const tie = Number.isInteger(seconds * 4);
  return `<${(tie ? roundHalfEven(seconds * 10) / 10 : seconds).toFixed(1)} seconds>`;
}

export class VideoProcessor {
  readonly #settings: PatchSettings;
  readonly #sampling: Sampling;
  readonly #patcher: Patcher;

  private constructor(settings: PatchSettings, sampling: Sampling) {
    this.#settings = settings;
    this.#sampling = sampling;
    this.#patcher = new Patcher(settings, 'torchvision');
  }

  /** `config` is what video_preprocessor_config.json holds. ERR_BAD_CHECKPOINT, ERR_UNSUPPORTED, ERR_USAGE. */
  static fromConfig(config: JsonObject, options: VideoProcessorOptions = {}, file: string = CONFIG_FILES[0]!): VideoProcessor {
    const settings = readPatchSettings({ values: config, file }, DEFAULTS, options);
    const sampling = readSampling(config, file, options);
    if (sampling.minFrames > sampling.maxFrames) {
      const overridden = options.minFrames !== undefined || options.maxFrames !== undefined;
      throw new VltuneError(
        overridden ? 'ERR_USAGE' : 'ERR_BAD_CHECKPOINT',
        `${overridden ? '' : `${file}: `}the least number of frames (${sampling.minFrames}) is above the largest (${sampling.maxFrames})`,
      );
    }
    return new VideoProcessor(settings, sampling);
  }

  /** The processor of a model folder. */
  static async load(folder: string, options: VideoProcessorOptions = {}): Promise<VideoProcessor> {
    const { values, file } = await findProcessorConfig(folder, 'video_processor', CONFIG_FILES);
    return VideoProcessor.fromConfig(values, options, file);
  }

  get mergeSize(): number {
    return this.#settings.mergeSize;
  }

  /** Frames, grid and times of a video of this length and size. ERR_BAD_DATA if it is too short, or too long and thin. */
  plan(video: VideoLength): VideoPlan {
    const { temporalPatchSize, patchSize } = this.#settings;
    const indices = this.#sample(video);
    const size = this.#resized(video, indices.length);
    const times = Math.ceil(indices.length / temporalPatchSize);
    const second = (i: number) => indices[Math.min(i, indices.length - 1)]! / video.fps;
    return {
      indices,
      grid: [times, size.height / patchSize, size.width / patchSize],
      // The middle between the first and the last frame of a patch.
      timestamps: Array.from(
        { length: times },
        (_, t) => (second(t * temporalPatchSize) + second((t + 1) * temporalPatchSize - 1)) / 2,
      ),
    };
  }

  /** Numbers in a row of patches. */
  get patchLength(): number {
    return this.#patcher.patchLength;
  }

  /** Decodes the frames of the plan, a few at a time, and makes patches of them off the main thread; into `into` if it is given. */
  async process(video: OpenedVideo, into?: Float32Array): Promise<Patches & VideoPlan> {
    const plan = this.plan(video);
    const { temporalPatchSize, patchSize } = this.#settings;
    const [t, h, w] = plan.grid;
    const size = { width: w * patchSize, height: h * patchSize };
    const timeLength = h * w * this.patchLength;
    const patches = into ?? patchArray(t * timeLength);
    let time = 0;
    const write = async (frames: readonly Pixels[]) => {
      const end = time + Math.ceil(frames.length / temporalPatchSize);
      await this.#patcher.write(frames, size, patches.subarray(time * timeLength, end * timeLength));
      time = end;
    };
    let waiting: Pixels[] = [];
    for await (const frame of video.frames(plan.indices)) {
      waiting.push(frame);
      if (waiting.length < PATCHES_AT_ONCE * temporalPatchSize) continue;
      await write(waiting);
      waiting = [];
    }
    if (waiting.length > 0) await write(waiting);
    return { patches, ...plan };
  }

  #sample({ frameCount, fps: given, sampled }: VideoLength): number[] {
    const { sample, fps, frames, minFrames, maxFrames } = this.#sampling;
    if (sampled || !sample) return Array.from({ length: frameCount }, (_, i) => i);
    const bounded = (count: number) => Math.min(Math.max(count, minFrames), maxFrames);
    const count = fps === undefined ? bounded(frameCount) : Math.min(bounded(Math.trunc((frameCount / given) * fps)), frameCount);
    return spread(frameCount - 1, frames ?? count);
  }

  #resized({ width, height }: Size, frames: number): Size {
    const { patchSize, mergeSize, temporalPatchSize, doResize, minPixels, maxPixels } = this.#settings;
    const factor = patchSize * mergeSize;
    if (!doResize) return unresizedSize({ width, height }, factor);
    const { tokensPerFrame } = this.#sampling;
    let most = maxPixels;
    if (tokensPerFrame !== undefined) {
      const cap = Math.min(tokensPerFrame * factor * factor, Math.floor(maxPixels / frames));
      most = Math.max(cap, Math.trunc(minPixels * 1.05)) * frames;
    }
    return videoSize({ width, height }, frames, temporalPatchSize, { factor, minPixels, maxPixels: most });
  }
}
