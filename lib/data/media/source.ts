/** Pictures of a dataset: found, their size read from the header alone, decoded when they are wanted. */
import { DecodeError, decodeImage, type Header, type Pixels, readHeader } from './decode.js';
import { type Located, locate, type MediaContext, type MediaSource, mediaError, readLocated } from './locate.js';
import type { Size } from './smart_resize.js';

/** A picture whose header has been read. It may hold the bytes of a small file: keep the source of a picture, not this. */
export interface OpenedImage extends Size {
  /** How errors name it. */
  readonly name: string;
  /** Decodes it: RGB, upright. ERR_BAD_DATA for a file that is broken, cut short, or no longer the one that was opened. */
  decode(): Promise<Pixels>;
}

/** How much of a file is read for its header; more where that does not do. */
const HEADER_BYTES = 64 * 1024;

/**
 * Finds a picture and reads its size (as it is looked at: EXIF orientation applied), and no pixel. Errors name the place and the
 * source: ERR_NOT_FOUND, ERR_BAD_DATA (not a picture, broken, too large, outside the image root), ERR_UNSUPPORTED (a kind of picture
 * that is not decoded here), ERR_USAGE (remote, but not allowed), ERR_IO.
 */
export async function openImage(source: MediaSource, context: MediaContext): Promise<OpenedImage> {
  const located = await locate(source, context);
  const start = await readLocated(located, context, HEADER_BYTES);
  const all = async () => (start.whole ? start.bytes : (await readLocated(located, context)).bytes);
  const header = await named(located, context, async () => {
    if (start.whole) return readHeader(start.bytes);
    return (await readHeader(start.bytes).catch(() => undefined)) ?? readHeader(await all());
  });
  const decode = async () => {
    const bytes = await all();
    return named(located, context, () => decodeOpened(bytes, header));
  };
  return { name: located.name, width: header.width, height: header.height, decode };
}

async function decodeOpened(bytes: Uint8Array, header: Header): Promise<Pixels> {
  const pixels = await decodeImage(bytes, header);
  if (pixels.width !== header.width || pixels.height !== header.height)
    throw new DecodeError(
      `it was ${header.width}×${header.height} when it was opened and is ${pixels.width}×${pixels.height} now`,
    );
  return pixels;
}

/** Work whose errors about what a source holds come with its place and name. */
export async function named<T>(located: Located, context: MediaContext, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw namedError(cause, located, context);
  }
}

export function namedError(cause: unknown, located: Located, context: MediaContext): unknown {
  if (!(cause instanceof DecodeError)) return cause;
  return mediaError(cause.unsupported ? 'ERR_UNSUPPORTED' : 'ERR_BAD_DATA', context, located.name, cause.message, cause);
}
