/** Where a picture or video that a row names is: a file, bytes that came with the row, or an address on the network. */
import { constants } from 'node:fs';
import { open, realpath } from 'node:fs/promises';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VltuneError } from '../../errors.js';
import { ioError } from '../../files.js';
import { printable } from '../../weights/json.js';
import { sniffFormat } from './sniff.js';

/**
 * A path (relative to the data file), `file:`, `data:` or `http(s):` URL, base64 text, the file's bytes, or the form that Parquet
 * files of images have: bytes if they are there, else the path.
 */
export type MediaSource = string | Uint8Array | { readonly bytes?: Uint8Array | null; readonly path?: string | null };

export interface MediaContext {
  /** The data file's folder, from which relative paths start. */
  readonly folder: string;
  /** Relative paths start here instead, and no path may lead out of it, symbolic links followed. */
  readonly imageRoot?: string | undefined;
  /** Whether `http:` and `https:` may be read. Default false. */
  readonly allowRemote?: boolean | undefined;
  /** What errors start with: file, row and field. */
  readonly place?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type Located =
  | { readonly kind: 'file'; readonly name: string; readonly path: string }
  | { readonly kind: 'bytes'; readonly name: string; readonly bytes: Uint8Array };

/** No picture or video of a dataset is larger; a file that is, or an address that sends more, is a mistake or an attack. */
export const LARGEST_MEDIA: number = 2 ** 29;

const REMOTE_TIMEOUT_MS = 60_000;
/** Base64 text without a `data:` before it is told from a path by what it decodes to; a shorter text is taken as a path. */
const SHORTEST_BASE64 = 40;

/** An error about a source, with its place and name before it. */
export function mediaError(
  code: 'ERR_BAD_DATA' | 'ERR_NOT_FOUND' | 'ERR_UNSUPPORTED' | 'ERR_USAGE' | 'ERR_IO',
  context: MediaContext,
  name: string,
  text: string,
  cause?: unknown,
): VltuneError {
  const place = context.place === undefined ? '' : `${context.place}: `;
  return new VltuneError(code, `${place}${name}: ${text}`, cause === undefined ? undefined : { cause });
}

/** Finds a source; files are not opened yet. ERR_NOT_FOUND, ERR_BAD_DATA, ERR_USAGE (a remote one that is not allowed), ERR_IO. */
export async function locate(source: MediaSource, context: MediaContext): Promise<Located> {
  if (source instanceof Uint8Array) return { kind: 'bytes', name: `a file of ${source.length} bytes`, bytes: source };
  if (typeof source === 'string') return locateText(source, context);
  if (typeof source === 'object' && source !== null) {
    const { bytes, path } = source;
    if (bytes instanceof Uint8Array) {
      return {
        kind: 'bytes',
        name: typeof path === 'string' && path !== '' ? printable(path) : `a file of ${bytes.length} bytes`,
        bytes,
      };
    }
    if (typeof path === 'string') return locateText(path, context);
  }
  throw mediaError(
    'ERR_BAD_DATA',
    context,
    'the source',
    'expected a path, a URL, base64 text, bytes, or an object with bytes or path',
  );
}

async function locateText(text: string, context: MediaContext): Promise<Located> {
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(text.slice(0, 32))?.[1]?.toLowerCase();
  if (scheme === 'data') return dataUrl(text, context);
  if (scheme === 'http' || scheme === 'https') return remote(text, context);
  if (scheme === 'file') return file(filePath(text, context), text, context);
  const bytes = bareBase64(text);
  if (bytes) return { kind: 'bytes', name: `base64 text of ${text.length} characters`, bytes };
  return file(text, text, context);
}

/** Looks for what may not be there, which takes one pass however long the text is. */
const NOT_BASE64 = /[^A-Za-z0-9+/_=\s-]/;

function bareBase64(text: string): Uint8Array | undefined {
  if (text.length < SHORTEST_BASE64 || NOT_BASE64.test(text)) return undefined;
  return sniffFormat(Buffer.from(text.slice(0, SHORTEST_BASE64), 'base64')) === undefined
    ? undefined
    : Buffer.from(text, 'base64');
}

function dataUrl(text: string, context: MediaContext): Located {
  const comma = text.indexOf(',');
  const header = printable(text.slice(0, comma < 0 ? 40 : comma), 60);
  const name = `${header},… (${text.length} characters)`;
  if (comma < 0 || !/;base64$/i.test(text.slice(0, comma).trimEnd())) {
    throw mediaError('ERR_BAD_DATA', context, name, 'expected data:image/…;base64, and then base64 text');
  }
  const payload = text.slice(comma + 1);
  if (NOT_BASE64.test(payload)) throw mediaError('ERR_BAD_DATA', context, name, 'what follows the comma is not base64 text');
  return { kind: 'bytes', name, bytes: Buffer.from(payload, 'base64') };
}

function filePath(url: string, context: MediaContext): string {
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw mediaError(
      'ERR_BAD_DATA',
      context,
      printable(url),
      `not a file: URL of this machine (${(cause as Error).message})`,
      cause,
    );
  }
}

async function file(path: string, given: string, context: MediaContext): Promise<Located> {
  const name = printable(given);
  const from = resolve(context.imageRoot ?? context.folder);
  const full = resolve(from, path);
  if (path === '') throw mediaError('ERR_BAD_DATA', context, 'the path', 'it is empty');
  if (path.includes('\0')) throw mediaError('ERR_BAD_DATA', context, name, 'a path holds no zero byte');
  const real = await realpath(full).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'ENOENT' && cause.code !== 'ENOTDIR' && cause.code !== 'ENAMETOOLONG')
      throw mediaError('ERR_IO', context, name, ioError(cause, 'read', full).message, cause);
    const where = isAbsolute(path) ? '' : ` (looked in ${from})`;
    throw mediaError('ERR_NOT_FOUND', context, name, `no such file${where}`, cause);
  });
  if (context.imageRoot !== undefined) {
    const root = await realpath(from).catch((cause: NodeJS.ErrnoException) => {
      throw new VltuneError('ERR_NOT_FOUND', `the image root ${context.imageRoot}: no such folder`, { cause });
    });
    const inside = relative(root, real);
    if (inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside))
      throw mediaError('ERR_BAD_DATA', context, name, `it leads out of the image root ${context.imageRoot}`);
  }
  return { kind: 'file', name, path: real };
}

async function remote(url: string, context: MediaContext): Promise<Located> {
  const name = printable(url);
  if (!context.allowRemote) {
    throw mediaError('ERR_USAGE', context, name, 'nothing is read from the network unless it is allowed (--allow-remote-images)');
  }
  const limit = AbortSignal.timeout(REMOTE_TIMEOUT_MS);
  try {
    const response = await fetch(url, { signal: context.signal ? AbortSignal.any([context.signal, limit]) : limit });
    if (!response.ok)
      throw mediaError('ERR_NOT_FOUND', context, name, `the server answered ${response.status} ${response.statusText}`);
    return { kind: 'bytes', name, bytes: await limitedBody(response, context, name) };
  } catch (cause) {
    if (cause instanceof VltuneError) throw cause;
    if (context.signal?.aborted) throw new VltuneError('ERR_CANCELLED', 'cancelled', { cause });
    const { message, cause: deeper } = cause as Error;
    throw mediaError('ERR_IO', context, name, `cannot be read: ${deeper instanceof Error ? deeper.message : message}`, cause);
  }
}

async function limitedBody(response: Response, context: MediaContext, name: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > LARGEST_MEDIA) throw tooLarge(context, name, `more than ${LARGEST_MEDIA}`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function tooLarge(context: MediaContext, name: string, bytes: string): VltuneError {
  return mediaError('ERR_BAD_DATA', context, name, `${bytes} bytes are too many for a picture (at most ${LARGEST_MEDIA})`);
}

/** The first `limit` bytes of what was located, or all; `whole` says which. ERR_BAD_DATA for what is no file or too large, ERR_IO. */
export async function readLocated(
  located: Located,
  context: MediaContext,
  limit: number = LARGEST_MEDIA,
): Promise<{ readonly bytes: Uint8Array; readonly whole: boolean }> {
  if (located.kind === 'bytes') {
    if (located.bytes.length > LARGEST_MEDIA) throw tooLarge(context, located.name, `${located.bytes.length}`);
    return { bytes: located.bytes, whole: true };
  }
  const fail = (cause: unknown): never => {
    throw mediaError('ERR_IO', context, located.name, ioError(cause, 'read', located.path).message, cause);
  };
  // Non-blocking: opening a pipe would wait for its writer.
  const handle = await open(located.path, constants.O_RDONLY | constants.O_NONBLOCK).catch(fail);
  try {
    const stats = await handle.stat();
    if (!stats.isFile())
      throw mediaError(
        'ERR_BAD_DATA',
        context,
        located.name,
        stats.isDirectory() ? 'it is a folder' : 'it is not a regular file',
      );
    if (limit >= LARGEST_MEDIA && stats.size > LARGEST_MEDIA) throw tooLarge(context, located.name, `${stats.size}`);
    const bytes = Buffer.allocUnsafe(Math.min(limit, stats.size));
    let at = 0;
    while (at < bytes.length) {
      const { bytesRead } = await handle.read(bytes, at, bytes.length - at, at);
      if (bytesRead === 0) break;
      at += bytesRead;
    }
    return { bytes: bytes.subarray(0, at), whole: stats.size <= limit };
  } catch (cause) {
    if (cause instanceof VltuneError) throw cause;
    return fail(cause);
  } finally {
    await handle.close();
  }
}
