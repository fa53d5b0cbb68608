/** Options of whoever reads pictures and videos: one table for training and generation. */
import type { OptionSpec } from '../../options.js';
import type { ImageBackend } from './image_processor.js';
import type { MediaOptions } from './media_reader.js';

/** Their values, settled. */
export interface ImageArgs {
  /** Where paths of pictures and videos start, and which none may leave. undefined: the data file's folder, and any path. */
  readonly imageRoot: string | undefined;
  readonly allowRemoteImages: boolean;
  /** Which of transformers' two processors pixels follow. */
  readonly imageProcessor: ImageBackend;
  /** Bounds on a picture's pixels after resizing; undefined: the model's. */
  readonly imageMinPixels: number | undefined;
  readonly imageMaxPixels: number | undefined;
}

const FROM_MODEL = "the model's preprocessor_config.json";
const MOST_PIXELS = 2 ** 40;

/** `start`: in words, where relative paths start by default. */
export function imageOptions(group: string, start: string): Readonly<Record<keyof ImageArgs, OptionSpec>> {
  const pixels = {
    kind: 'integer',
    value: 'N',
    unit: 'pixels',
    min: 1,
    max: MOST_PIXELS,
    defaultText: FROM_MODEL,
    group,
  } as const;
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
  };
}

/** What is wrong between them. `name`: how an option is called where its value came from. */
export function imageOptionErrors(values: Readonly<Record<string, unknown>>, name: (key: string) => string): string[] {
  const { imageMinPixels: least, imageMaxPixels: most } = values as Partial<ImageArgs>;
  if (least === undefined || most === undefined || least <= most) return [];
  return [`${name('imageMinPixels')}: expected at most ${name('imageMaxPixels')} (${most}), got ${least}`];
}

export function mediaOptions(args: ImageArgs): MediaOptions {
  return {
    imageRoot: args.imageRoot,
    allowRemote: args.allowRemoteImages,
    backend: args.imageProcessor,
    minPixels: args.imageMinPixels,
    maxPixels: args.imageMaxPixels,
  };
}
