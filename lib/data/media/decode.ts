/**
 * Picture files to RGB as Pillow gives it after `exif_transpose` and `convert("RGB")`: what transformers' processors start from.
 * sharp decodes; where its own way to RGB is another than Pillow's (CMYK, 16-bit grey, transparent GIFs, colour profiles) it is
 * asked for what the file holds, and the rest is done here. Alpha is dropped, not blended.
 *
 * AVIF is the one kind whose decoders differ (in how they turn YUV into RGB): by a few steps of 255.
 */
import { setImmediate } from 'node:timers/promises';
import type { Metadata, Sharp, SharpOptions } from 'sharp';
import { opaqueGif } from './gif.js';
import type { Size } from './smart_resize.js';
import { sniffFormat } from './sniff.js';

/** RGB, 8 bits each, row by row without gaps. */
export interface Pixels extends Size {
  readonly data: Uint8Array;
}

export interface Header extends Size {
  /** As it is looked at: 1 to 8 as EXIF numbers it, which `width` and `height` have taken in. */
  readonly orientation: number;
  readonly metadata: Metadata;
}

/** Why bytes are no picture that can be used, in words that follow the source's name. */
export class DecodeError extends Error {
  readonly unsupported: boolean;

  constructor(message: string, unsupported = false, options?: ErrorOptions) {
    super(message, options);
    this.unsupported = unsupported;
  }
}

/** Twice Pillow's MAX_IMAGE_PIXELS, where it too takes a picture for a decompression bomb. */
export const MOST_PIXELS: number = 178_956_970;

/** The colour type in a PNG's header, and where it stands. */
const GREY_WITH_ALPHA = 4;
const PNG_COLOR_TYPE = 25;

/** How sharp mirrors (left and right, first) and turns (clockwise, then) for each orientation of EXIF from 2 on. */
const ORIENTATIONS: readonly (readonly [flop: boolean, angle: number])[] = [
  [true, 0],
  [false, 180],
  [true, 180],
  [true, 270],
  [false, 90],
  [true, 90],
  [false, 270],
];

const INPUT = { failOn: 'error', ignoreIcc: true, limitInputPixels: MOST_PIXELS, sequentialRead: true } as const;

/** Loaded with the first picture: it brings a library of its own, which runs on text alone do without. */
async function open(bytes: Uint8Array, options: SharpOptions = INPUT): Promise<Sharp> {
  const { default: sharp } = await import('sharp').catch((cause: Error) => {
    throw new DecodeError(`sharp, which decodes pictures, cannot be loaded here: ${reason(cause)}`, true, { cause });
  });
  return sharp(bytes, options);
}

/** Size and orientation from a file's beginning. DecodeError if it has no such beginning, or needs more of it. */
export async function readHeader(bytes: Uint8Array): Promise<Header> {
  const kind = sniffFormat(bytes);
  if (bytes.length === 0) throw new DecodeError('the file is empty');
  if (kind === undefined) throw new DecodeError('the file is not a picture: expected PNG, JPEG, WebP, GIF, AVIF or TIFF');
  if (!kind.picture) {
    throw new DecodeError(`the file is ${kind.name}, which is not supported: expected PNG, JPEG, WebP, GIF, AVIF or TIFF`, true);
  }
  const image = await open(bytes, { ...INPUT, failOn: 'none', limitInputPixels: false });
  const metadata = await image.metadata().catch((cause: Error) => {
    throw new DecodeError(`the ${kind.name} file cannot be read: ${reason(cause)}`, false, { cause });
  });
  const { width, height } = metadata;
  if (width * height > MOST_PIXELS) {
    throw new DecodeError(`${width}×${height} pixels are too many (at most ${MOST_PIXELS}): is it a decompression bomb?`);
  }
  const orientation = orientationOf(metadata);
  return orientation > 4 ? { width: height, height: width, orientation, metadata } : { width, height, orientation, metadata };
}

/** The last line that libvips wrote: the lines before it are warnings of the same file. */
function reason(error: Error): string {
  const last = error.message.trim().split('\n').at(-1)!;
  return last.replace(/^Input buffer (has corrupt header:? ?)?/, '') || 'its header is corrupt';
}

/** Pillow's order: EXIF, and XMP where EXIF does not say. */
function orientationOf(metadata: Metadata): number {
  const { orientation, xmp } = metadata;
  const told = orientation ?? Number(/tiff:Orientation(?:="|>)([0-9])/.exec(xmp?.toString('latin1') ?? '')?.[1] ?? 1);
  return told >= 1 && told <= 8 ? told : 1;
}

/** The whole file's picture. DecodeError for a file that is broken or cut short. */
export async function decodeImage(bytes: Uint8Array, header: Header): Promise<Pixels> {
  try {
    return await decodeAs(bytes, header);
  } catch (cause) {
    if (cause instanceof DecodeError) throw cause;
    throw new DecodeError(`the picture is broken or cut short: ${reason(cause as Error)}`, false, { cause });
  }
}

async function decodeAs(bytes: Uint8Array, header: Header): Promise<Pixels> {
  const { format, space, depth } = header.metadata;
  if (space === 'cmyk') return fromCmyk(bytes, header);
  // Grey with an alpha channel of its own Pillow reads as 8 bits, grey whose transparency is one number as 16.
  if (space === 'grey16' && !(format === 'png' && bytes[PNG_COLOR_TYPE] === GREY_WITH_ALPHA)) return fromGrey16(bytes, header);
  if (depth !== 'uchar' && depth !== 'ushort') throw new DecodeError(`its samples are ${depth}: expected 8 or 16 bits`, true);
  if (format === 'gif') return fromGif(bytes);
  return raw((await upright(bytes, header)).removeAlpha().toColourspace('srgb'), 3);
}

async function upright(bytes: Uint8Array, { orientation }: Header): Promise<Sharp> {
  const image = await open(bytes);
  if (orientation === 1) return image;
  const [flop, angle] = ORIENTATIONS[orientation - 2]!;
  return image.flop(flop).rotate(angle);
}

async function raw(image: Sharp, channels: number, depth: 'uchar' | 'ushort' = 'uchar'): Promise<Pixels> {
  const { data, info } = await image.raw({ depth }).toBuffer({ resolveWithObject: true });
  if (info.channels !== channels) throw new DecodeError(`${info.channels} channels came out, expected ${channels}`, true);
  return { data, width: info.width, height: info.height };
}

/** Pixels between which the event loop gets its turn. */
const SLICE = 2 ** 17;

/** RGB made on this thread, pixel by pixel: `write` sets the three bytes from `to` on. */
async function rgbOf({ width, height }: Size, write: (rgb: Uint8Array, to: number, pixel: number) => void): Promise<Pixels> {
  const data = new Uint8Array(width * height * 3);
  for (let begin = 0; begin < width * height; begin += SLICE) {
    const end = Math.min(begin + SLICE, width * height);
    for (let pixel = begin, to = 3 * begin; pixel < end; pixel++, to += 3) write(data, to, pixel);
    if (end < width * height) await setImmediate();
  }
  return { data, width, height };
}

async function fromCmyk(bytes: Uint8Array, header: Header): Promise<Pixels> {
  const image = (await upright(bytes, header)).pipelineColourspace('cmyk').toColourspace('cmyk');
  const cmyk = await raw(image, 4);
  return rgbOf(cmyk, (rgb, to, pixel) => {
    const white = 255 - cmyk.data[4 * pixel + 3]!;
    for (let c = 0; c < 3; c++) {
      const product = cmyk.data[4 * pixel + c]! * white + 128; // over 255, rounded, in the integers that Pillow uses
      rgb[to + c] = Math.max(0, white - (((product >> 8) + product) >> 8));
    }
  });
}

/** Pillow clips 16-bit grey at 255. */
async function fromGrey16(bytes: Uint8Array, header: Header): Promise<Pixels> {
  const image = (await upright(bytes, header)).removeAlpha().toColourspace('grey16');
  const grey = await raw(image, 1, 'ushort');
  return rgbOf(grey, (rgb, to, pixel) => {
    const [low, high] = [grey.data[2 * pixel]!, grey.data[2 * pixel + 1]!];
    rgb.fill(high > 0 ? 255 : low, to, to + 3);
  });
}

async function fromGif(bytes: Uint8Array): Promise<Pixels> {
  const gif = opaqueGif(bytes);
  if (!gif) throw new DecodeError('the picture is broken or cut short: no frame');
  const canvas = await raw((await open(gif.bytes)).removeAlpha().toColourspace('srgb'), 3);
  const { data, width, height } = canvas;
  if (gif.width >= width && gif.height >= height) return canvas;
  return rgbOf(canvas, (rgb, to, pixel) => {
    const [x, y] = [(pixel % width) - gif.left, Math.floor(pixel / width) - gif.top];
    const inside = x >= 0 && x < gif.width && y >= 0 && y < gif.height;
    for (let c = 0; c < 3; c++) rgb[to + c] = inside ? data[to + c]! : gif.fill[c]!;
  });
}
