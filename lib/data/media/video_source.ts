/** Videos of a dataset: files through the system's ffmpeg, and lists or folders of pictures. */
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ioError } from '../../files.js';
import { cancelled } from '../records.js';
import type { Pixels } from './decode.js';
import { probeVideo, type VideoInfo, videoFrames } from './ffmpeg.js';
import { type Located, locate, type MediaContext, type MediaSource, mediaError, readLocated } from './locate.js';
import type { Size } from './smart_resize.js';
import { sniffFormat } from './sniff.js';
import { named, namedError, type OpenedImage, openImage } from './source.js';

/** A video file, a folder of pictures (taken in the order of their names), or a list of pictures. */
export type VideoSource = MediaSource | readonly MediaSource[];

export interface VideoOptions {
  /** How many of the pictures of a list or folder make a second. Default 24, as transformers takes it. A file says it itself. */
  readonly fps?: number | undefined;
}

/** A video whose size and length are known. */
export interface OpenedVideo extends Size {
  readonly name: string;
  readonly frameCount: number;
  readonly fps: number;
  /** Whether its frames were chosen already: all pictures of a list or folder are used. */
  readonly sampled: boolean;
  /** Decodes the frames of these indices, which do not fall. Errors as for `openVideo`. */
  frames(indices: readonly number[]): AsyncGenerator<Pixels>;
}

const DEFAULT_FPS = 24;
const SNIFFED_BYTES = 64;
/** Headers of a list that are read at a time. */
const OPEN_AT_ONCE = 8;

/**
 * Finds a video and reads its size and length. Errors name the place and the source: those of `openImage`, and ERR_UNSUPPORTED where
 * ffmpeg is not installed.
 */
export async function openVideo(source: VideoSource, context: MediaContext, options: VideoOptions = {}): Promise<OpenedVideo> {
  if (Array.isArray(source)) return openPictures(source, `a list of ${source.length} pictures`, context, options);
  const located = await locate(source as MediaSource, context);
  const pictures = await picturesIn(located, context);
  return pictures ? openPictures(pictures, located.name, context, options) : openFile(located, context);
}

/** The pictures of a folder in the order of their names; undefined for what is no folder. */
export async function picturesIn(located: Located, context: MediaContext): Promise<string[] | undefined> {
  if (located.kind !== 'file') return undefined;
  const { name, path } = located;
  try {
    if (!(await stat(path)).isDirectory()) return undefined;
    const names = (await readdir(path)).filter((each) => !each.startsWith('.'));
    return names.sort(new Intl.Collator('en', { numeric: true }).compare).map((each) => join(path, each));
  } catch (cause) {
    throw mediaError('ERR_IO', context, name, ioError(cause, 'read', path).message, cause);
  }
}

async function openPictures(
  sources: readonly MediaSource[],
  name: string,
  context: MediaContext,
  options: VideoOptions,
): Promise<OpenedVideo> {
  if (sources.length === 0) throw mediaError('ERR_BAD_DATA', context, name, 'there is no picture in it');
  const images: OpenedImage[] = [];
  for (let i = 0; i < sources.length; i += OPEN_AT_ONCE) {
    images.push(...(await Promise.all(sources.slice(i, i + OPEN_AT_ONCE).map((source) => openImage(source, context)))));
  }
  const { width, height } = images[0]!;
  const other = images.find((image) => image.width !== width || image.height !== height);
  if (other) {
    const sizes = `${other.width}×${other.height}, the first is ${width}×${height}`;
    throw mediaError('ERR_BAD_DATA', context, other.name, `all frames of a video are of one size; this one is ${sizes}`);
  }
  return {
    name,
    width,
    height,
    frameCount: images.length,
    fps: options.fps ?? DEFAULT_FPS,
    sampled: true,
    async *frames(indices) {
      for (const index of indices) {
        if (context.signal?.aborted) throw cancelled();
        yield images[index]!.decode();
      }
    },
  };
}

async function openFile(located: Located, context: MediaContext): Promise<OpenedVideo> {
  const { bytes } = await readLocated(located, context, SNIFFED_BYTES);
  const kind = sniffFormat(bytes);
  // ffmpeg would read texts that name other files, too.
  if (!kind?.video) {
    const found = kind ? `is ${kind.name}` : 'is of no known kind';
    throw mediaError(
      'ERR_BAD_DATA',
      context,
      located.name,
      `the file ${found}: expected a video (MP4, MOV, MKV, WebM, AVI, GIF …)`,
    );
  }
  const file = await fileOf(located, context);
  try {
    const info = await named(located, context, () => probeVideo(file.path, context.signal));
    return { name: located.name, ...info, sampled: false, frames: (indices) => framesOf(located, context, info, indices) };
  } finally {
    await file.remove();
  }
}

async function* framesOf(
  located: Located,
  context: MediaContext,
  info: VideoInfo,
  indices: readonly number[],
): AsyncGenerator<Pixels> {
  const file = await fileOf(located, context);
  try {
    yield* videoFrames(file.path, info, indices, context.signal);
  } catch (cause) {
    throw namedError(cause, located, context);
  } finally {
    await file.remove();
  }
}

/** ffmpeg seeks, so what came as bytes becomes a file for a while. */
async function fileOf(located: Located, context: MediaContext): Promise<{ readonly path: string; remove(): Promise<void> }> {
  if (located.kind === 'file') return { path: located.path, remove: async () => {} };
  let folder: string | undefined;
  const remove = async () => {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  };
  try {
    folder = await mkdtemp(join(tmpdir(), 'vltune-video-'));
    const path = join(folder, 'video');
    await writeFile(path, located.bytes);
    return { path, remove };
  } catch (cause) {
    await remove();
    throw mediaError('ERR_IO', context, located.name, ioError(cause, 'write', folder ?? tmpdir()).message, cause);
  }
}
