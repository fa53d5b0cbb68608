/** What a model reads pictures and videos with: their grids from headers while a dataset is prepared, their patches when they are wanted. */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { mapBounded } from '../../async.js';
import { VltuneError } from '../../errors.js';
import { ioError } from '../../files.js';
import type { ModelSpec } from '../../models/family.js';
import { type Grid, patchesOf } from '../../models/grid.js';
import { describeModel } from '../../models/registry.js';
import type { MediaItem } from '../message.js';
import { type MediaTokens, readMediaTokens } from '../placeholders.js';
import type { Tokenizer } from '../tokenizer.js';
import { ImageProcessor, type ImageProcessorOptions } from './image_processor.js';
import { type Located, locate, type MediaContext, type MediaSource, mediaError } from './locate.js';
import { PatchArrays } from './patch_arrays.js';
import { openImage } from './source.js';
import { timestampText, VideoProcessor, type VideoProcessorOptions } from './video_processor.js';
import { openVideo, picturesIn, type VideoSource } from './video_source.js';

/** Frames of a list that are looked for at once. */
const FRAMES_AT_ONCE = 8;

export interface MediaOptions extends ImageProcessorOptions {
  /** Paths start here, and none may lead out of it. Default: paths start at the data file's folder. */
  readonly imageRoot?: string | undefined;
  /** Default false. */
  readonly allowRemote?: boolean | undefined;
  readonly video?: VideoProcessorOptions | undefined;
}

/** Where the bytes of a picture are: a file that stays where it is, or bytes that came with the row. */
export type MediaFile = { readonly path: string } | { readonly bytes: Uint8Array; readonly name: string };

/** A picture or video whose size is known. Nothing of it is decoded. */
export interface SeenMedia {
  readonly kind: MediaItem['type'];
  /** Patches along time, height and width. */
  readonly grid: Grid;
  /** Equal for equal files: a hash of their bytes, or of their path, size and time of change. */
  readonly key: string;
  /** The same for a copy of the file elsewhere: its name and size stand for its path and time. */
  readonly fingerprint: string;
  readonly files: readonly MediaFile[];
  /** Whether the files are the frames of a video. */
  readonly list: boolean;
  /** Of frames, where it was given. */
  readonly fps?: number | undefined;
  /** Of a video: what stands before each of its temporal patches. */
  readonly timestamps: readonly string[];
}

/** A model folder that was opened. */
export interface SeeingModel {
  readonly folder: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly spec: Pick<ModelSpec, 'vision'>;
}

export class MediaReader {
  readonly tokens: MediaTokens;
  readonly mergeSize: number;
  /** Numbers in a patch. */
  readonly patchLength: number;
  readonly #images: ImageProcessor;
  readonly #options: MediaOptions;
  readonly #folder: string;
  readonly #arrays = new PatchArrays();
  #videos: Promise<VideoProcessor> | undefined;

  private constructor(folder: string, tokens: MediaTokens, images: ImageProcessor, options: MediaOptions) {
    this.#folder = folder;
    this.tokens = tokens;
    this.mergeSize = images.mergeSize;
    this.patchLength = images.patchLength;
    this.#images = images;
    this.#options = options;
  }

  /** The reader of a model folder. ERR_BAD_CHECKPOINT where its files contradict each other, ERR_UNSUPPORTED, ERR_USAGE. */
  static async load(model: string | SeeingModel, tokenizer: Tokenizer, options: MediaOptions = {}): Promise<MediaReader> {
    const opened = typeof model === 'string' ? { folder: model, ...(await describeModel(model)) } : model;
    const { folder, config, spec } = opened;
    const tokens = readMediaTokens(config, join(folder, 'config.json'), tokenizer);
    const images = await ImageProcessor.load(folder, options);
    const vision = spec.vision?.shape;
    if (vision === undefined) throw new VltuneError('ERR_UNSUPPORTED', `${folder}: the model reads no images or videos`);
    if (images.patchLength !== vision.patchWidth || images.mergeSize !== vision.mergeSize) {
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${folder}: config.json calls for patches of ${vision.patchWidth} numbers, merged ${vision.mergeSize} × ${vision.mergeSize}; ` +
          `the image processor makes them of ${images.patchLength}, merged ${images.mergeSize} × ${images.mergeSize}`,
      );
    }
    return new MediaReader(folder, tokens, images, options);
  }

  /** Finds a picture or video and reads its header. `folder`: where relative paths start; `place`: what errors start with. */
  async see(item: MediaItem, folder: string, place: string, signal?: AbortSignal): Promise<SeenMedia> {
    const { imageRoot, allowRemote } = this.#options;
    const context: MediaContext = { folder, imageRoot, allowRemote, place, signal };
    const found = { kind: item.type, fps: item.type === 'video' ? item.fps : undefined, ...(await filesOf(item, context)) };
    const looked = await this.#measure(found, { folder: '/', place, signal });
    return { ...found, ...looked, ...(await identityOf(found.files, context)) };
  }

  /** Its patches, f32 [t·h·w, patchLength]. ERR_BAD_DATA for a file that is broken or has changed since it was seen; ERR_CANCELLED. */
  async patches(seen: StoredLook & Pick<SeenMedia, 'grid'>, place: string, signal?: AbortSignal): Promise<Float32Array> {
    const context: MediaContext = { folder: '/', place, signal };
    const room = (grid: Grid): Float32Array => {
      if (grid.join() === seen.grid.join()) return this.#arrays.take(patchesOf([grid]) * this.patchLength);
      throw new VltuneError(
        'ERR_BAD_DATA',
        `${place}: the ${seen.kind} is no longer the one that was there when the data were prepared`,
      );
    };
    if (seen.kind === 'image') {
      const pixels = await (await openImage(sourceOf(seen.files[0]!), context)).decode();
      return (await this.#images.process(pixels, room(this.#images.gridOf(pixels.width, pixels.height)))).patches;
    }
    const processor = await this.#videoProcessor();
    const video = await openVideo(videoOf(seen), context, { fps: seen.fps });
    return (await processor.process(video, room(processor.plan(video).grid))).patches;
  }

  /** Takes an array that `patches` gave for pictures to come; it is empty from then on. */
  recycle(patches: Float32Array): void {
    this.#arrays.give(patches);
  }

  async #measure(seen: StoredLook, context: MediaContext): Promise<Pick<SeenMedia, 'grid' | 'timestamps'>> {
    if (seen.kind === 'image') {
      const { width, height } = await openImage(sourceOf(seen.files[0]!), context);
      return { grid: named(context.place!, () => this.#images.gridOf(width, height)), timestamps: [] };
    }
    const processor = await this.#videoProcessor();
    const video = await openVideo(videoOf(seen), context, { fps: seen.fps });
    const { grid, timestamps } = named(context.place!, () => processor.plan(video));
    return { grid, timestamps: timestamps.map(timestampText) };
  }

  /** Opened with the first video: a model may bring no config for them. */
  async #videoProcessor(): Promise<VideoProcessor> {
    this.#videos ??= VideoProcessor.load(this.#folder, this.#options.video);
    const videos = await this.#videos;
    if (videos.mergeSize !== this.mergeSize || videos.patchLength !== this.patchLength) {
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${this.#folder}: patches of videos have ${videos.patchLength} numbers, merged ${videos.mergeSize} × ${videos.mergeSize}; ` +
          `those of images ${this.patchLength}, merged ${this.mergeSize} × ${this.mergeSize}`,
      );
    }
    return videos;
  }
}

/** Finds all that a picture or video is made of, each within the image root: a folder of frames is the list of them from here on. */
async function filesOf(item: MediaItem, context: MediaContext): Promise<Pick<SeenMedia, 'files' | 'list'>> {
  const frames = async (sources: readonly MediaSource[]) => ({
    files: await mapBounded(sources, FRAMES_AT_ONCE, async (source) => fileOf(await locate(source, context))),
    list: true,
  });
  const source = item.type === 'image' ? item.image : item.video;
  if (Array.isArray(source)) return frames(source);
  const located = await locate(source as MediaSource, context);
  const pictures = item.type === 'video' ? await picturesIn(located, context) : undefined;
  return pictures && pictures.length > 0 ? frames(pictures) : { files: [fileOf(located)], list: false };
}

function fileOf(located: Located): MediaFile {
  return located.kind === 'file' ? { path: located.path } : { bytes: located.bytes, name: located.name };
}

/** What opens a picture or video anew. */
type StoredLook = Pick<SeenMedia, 'kind' | 'files' | 'list' | 'fps'>;

function videoOf({ files, list }: StoredLook): VideoSource {
  const sources = files.map(sourceOf);
  return list ? sources : sources[0]!;
}

function sourceOf(file: MediaFile): MediaSource {
  return 'path' in file ? file.path : { bytes: file.bytes, path: file.name };
}

async function identityOf(files: readonly MediaFile[], context: MediaContext): Promise<Pick<SeenMedia, 'key' | 'fingerprint'>> {
  const key = createHash('sha256');
  const fingerprint = createHash('sha256');
  for (const file of files) {
    if ('bytes' in file) {
      const digest = createHash('sha256').update(file.bytes).digest();
      key.update(digest);
      fingerprint.update(digest);
      continue;
    }
    const { size, mtimeMs } = await stat(file.path).catch((cause) => {
      throw mediaError('ERR_IO', context, basename(file.path), ioError(cause, 'read', file.path).message, cause);
    });
    key.update(`${file.path}\0${size}\0${mtimeMs}\0`);
    fingerprint.update(`${basename(file.path)}\0${size}\0`);
  }
  return { key: key.digest('base64url'), fingerprint: fingerprint.digest('base64url') };
}

/** Puts the place before an error about a picture's size. */
function named<T>(place: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof VltuneError && cause.code === 'ERR_BAD_DATA')
      throw new VltuneError('ERR_BAD_DATA', `${place}: ${cause.message}`, { cause });
    throw cause;
  }
}
