/** Pictures of a dataset: found, their size read from the header alone, decoded when they are wanted. */
import { DecodeError, decodeImage, type Header, type Pixels, readHeader } from './decode.js';
import { type Located, locate, type MediaContext, type MediaSource, mediaError, readLocated } from './locate.js';
import type { Size } from './smart_resize.js';

/** A picture whose header has been read. */
export interface OpenedImage extends Size {
  /** How errors name it. */
  readonly name: string;
  /** Reads and decodes it: RGB, upright. ERR_BAD_DATA for a file that is broken, cut short, or no longer the one that was opened. */
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
  const { width, height } = await headerOf(located, context);
  return {
    name: located.name,
    width,
    height,
    async decode() {
      try {
        const { bytes } = await readLocated(located, context);
        const header = await readHeader(bytes);
        if (header.width !== width || header.height !== height)
          throw new DecodeError(`it was ${width}×${height} when it was opened and is ${header.width}×${header.height} now`);
        return await decodeImage(bytes, header);
      } catch (cause) {
        throw named(cause, located, context);
      }
    },
  };
}

async function headerOf(located: Located, context: MediaContext): Promise<Header> {
  try {
    const start = await readLocated(located, context, HEADER_BYTES);
    if (start.whole) return await readHeader(start.bytes);
    const header = await readHeader(start.bytes).catch(() => undefined);
    return header ?? (await readHeader((await readLocated(located, context)).bytes));
  } catch (cause) {
    throw named(cause, located, context);
  }
}

/** An error about what a source holds, with its place and name; another one as it is. */
export function named(cause: unknown, located: Located, context: MediaContext): unknown {
  if (!(cause instanceof DecodeError)) return cause;
  return mediaError(cause.unsupported ? 'ERR_UNSUPPORTED' : 'ERR_BAD_DATA', context, located.name, cause.message, cause);
}
