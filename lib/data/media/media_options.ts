/** Options of whoever reads pictures and videos: one table for training and generation. */
import type { OptionSpec } from '../../options.js';
import type { ImageBackend } from './image_processor.js';
import type { MediaOptions } from './media_reader.js';

/** Their values, settled. */
export interface MediaArgs {
  /** Where paths of pictures and videos start, and which none may leave. undefined: the data file's folder, and any path. */
  readonly imageRoot: string | undefined;
  readonly allowRemoteImages: boolean;
  /** Which of transformers' two processors pixels follow. */
  readonly imageProcessor: ImageBackend;
  /** Bounds on a picture's pixels after resizing; undefined: the model's. */
  readonly imageMinPixels: number | undefined;
  readonly imageMaxPixels: number | undefined;
  /** Frames sampled of a second of video, bounds on their number, and on the pixels of all of them after resizing; undefined: the model's. */
  readonly videoFps: number | undefined;
  readonly videoMinFrames: number | undefined;
  readonly videoMaxFrames: number | undefined;
  readonly videoMinPixels: number | undefined;
  readonly videoMaxPixels: number | undefined;
}

const FROM_MODEL = "the model's preprocessor_config.json";
const VIDEO_FROM_MODEL = "the model's video_preprocessor_config.json";
const MOST_PIXELS = 2 ** 40;
const MOST_FRAMES = 1_000_000;
/** Options of which the first may not be above the second. */
const BOUNDS: readonly (readonly [keyof MediaArgs, keyof MediaArgs])[] = [
  ['imageMinPixels', 'imageMaxPixels'],
  ['videoMinFrames', 'videoMaxFrames'],
  ['videoMinPixels', 'videoMaxPixels'],
];

/** `start`: in words, where relative paths start by default. */
export function mediaOptionSpecs(group: string, start: string): Readonly<Record<keyof MediaArgs, OptionSpec>> {
  const count = { kind: 'integer', value: 'N', min: 1, group } as const;
  const pixels = { ...count, unit: 'pixels', max: MOST_PIXELS, defaultText: FROM_MODEL } as const;
  const videoPixels = { ...pixels, defaultText: VIDEO_FROM_MODEL };
  const frames = { ...count, max: MOST_FRAMES, defaultText: VIDEO_FROM_MODEL } as const;
  return {
    imageRoot: {
      kind: 'text',
      value: 'DIR',
      defaultText: start,
      group,
      help: 'Folder where paths of images and videos start; one that leads out of it is refused',
    },
    allowRemoteImages: {
      kind: 'flag',
      fallback: false,
      onOnly: true,
      group,
      help: 'Read images and videos from http and https addresses',
    },
    imageProcessor: {
      kind: 'choice',
      value: 'NAME',
      choices: ['torchvision', 'pil'],
      fallback: 'torchvision',
      group,
      help: "Which of transformers' image processors pixels are made as by",
    },
    imageMinPixels: { ...pixels, help: 'Enlarge smaller images' },
    imageMaxPixels: { ...pixels, help: 'Shrink larger images: fewer tokens each' },
    videoFps: {
      kind: 'number',
      value: 'X',
      min: 0.001,
      max: 1000,
      defaultText: VIDEO_FROM_MODEL,
      group,
      help: 'Frames sampled of a second of video',
    },
    videoMinFrames: { ...frames, help: 'Sample at least so many frames of a video, if it has them' },
    videoMaxFrames: { ...frames, help: 'Sample at most so many' },
    videoMinPixels: { ...videoPixels, help: 'Enlarge frames until a video has so many in all' },
    videoMaxPixels: { ...videoPixels, help: 'Shrink them until it has no more: fewer tokens each' },
  };
}

/** What is wrong between them. `name`: how an option is called where its value came from. */
export function mediaOptionErrors(values: Readonly<Record<string, unknown>>, name: (key: string) => string): string[] {
  return BOUNDS.flatMap(([lower, upper]) => {
    const [least, most] = [values[lower], values[upper]] as [number | undefined, number | undefined];
    if (least === undefined || most === undefined || least <= most) return [];
    return [`${name(lower)}: expected at most ${name(upper)} (${most}), got ${least}`];
  });
}

export function mediaOptions(args: MediaArgs): MediaOptions {
  return {
    imageRoot: args.imageRoot,
    allowRemote: args.allowRemoteImages,
    backend: args.imageProcessor,
    minPixels: args.imageMinPixels,
    maxPixels: args.imageMaxPixels,
    video: {
      fps: args.videoFps,
      minFrames: args.videoMinFrames,
      maxFrames: args.videoMaxFrames,
      minPixels: args.videoMinPixels,
      maxPixels: args.videoMaxPixels,
    },
  };
}
