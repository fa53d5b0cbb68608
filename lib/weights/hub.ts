/**
 * From a model's name to a folder on this machine: a local folder, else the Hugging Face cache (the same folders as
 * Python's huggingface_hub), else a download into that cache.
 *
 * Only what a model needs is downloaded (weights in safetensors, JSON, chat templates, vocabularies). Pickle files and code
 * are never fetched, and nothing of a checkpoint is executed.
 *
 * Environment, as in huggingface_hub: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HUB_OFFLINE,
 * TRANSFORMERS_OFFLINE.
 */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { copyFile, mkdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ListFileEntry } from '@huggingface/hub';
import { VltuneError } from '../errors.js';
import { ioError, safeJoin, writeFileAtomic } from '../files.js';
import { printable, readJsonObject } from './json.js';

export interface DownloadProgress {
  /** File within the model's folder. */
  readonly file: string;
  /** Of all files that this call downloads. */
  readonly bytes: number;
  readonly totalBytes: number;
}

export interface ResolveModelOptions {
  /** Branch, tag or commit of a hub model. Default "main". */
  readonly revision?: string;
  /** Access token for gated and private models. Default: HF_TOKEN, else the file that `hf auth login` writes. */
  readonly token?: string;
  /** Use nothing but this machine. Default: HF_HUB_OFFLINE. */
  readonly offline?: boolean;
  readonly onProgress?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

const HUB_ID = /^[A-Za-z0-9][\w.-]{0,95}(\/[A-Za-z0-9_][\w.-]{0,95})?$/;
const COMMIT = /^[0-9a-f]{40}$/;
/** What a model needs. `tokenizer.model` and `*.tiktoken` are vocabularies of older tokenizers. */
const WANTED = /\.(safetensors|json|jinja|txt|tiktoken)$|(^|\/)tokenizer\.model$/;

/**
 * The folder of a model. `nameOrPath` is a local folder, or a hub id such as `Qwen/Qwen3-VL-2B-Instruct`; a local folder
 * of that name comes first. Rejects with ERR_NOT_FOUND (no such folder, not on the hub, not in the cache while offline, hub not
 * reachable), ERR_USAGE (neither a path nor an id), ERR_IO (the cache cannot be written).
 */
export async function resolveModel(nameOrPath: string, options: ResolveModelOptions = {}): Promise<string> {
  const name = printable(nameOrPath);
  const path = nameOrPath.startsWith('~/') ? join(homedir(), nameOrPath.slice(2)) : nameOrPath;
  const found = path === '' ? undefined : await stat(path).catch(() => undefined);
  if (found?.isDirectory()) return resolve(path);
  if (found)
    throw new VltuneError('ERR_NOT_FOUND', `the model ${name} is a file; give the folder that holds config.json and the weights`);
  if (/^(\.{0,2}\/|~|[A-Za-z]:[\\/])|^\.{1,2}$|\\/.test(nameOrPath))
    throw new VltuneError('ERR_NOT_FOUND', `the model ${name}: no such folder`);
  if (!HUB_ID.test(nameOrPath) || /--|\.\./.test(nameOrPath)) {
    throw new VltuneError(
      'ERR_USAGE',
      `the model "${name}" is neither a folder that is there nor a hub id (like Qwen/Qwen3-VL-2B-Instruct)`,
    );
  }

  const revision = options.revision ?? 'main';
  const repo = join(hubCache(), `models--${nameOrPath.replace('/', '--')}`);
  if (revision.startsWith('-') || safeJoin(repo, revision) === undefined) {
    throw new VltuneError('ERR_USAGE', `the revision "${printable(revision)}" is not a branch, tag or commit`);
  }
  const cached = await cachedSnapshot(repo, revision);
  if (cached?.complete) return cached.folder;
  if (options.offline ?? isOffline()) {
    const lacking =
      cached === undefined
        ? `is not in the cache (${repo}, revision ${revision})`
        : `is in the cache only in part (${cached.folder})`;
    throw new VltuneError('ERR_NOT_FOUND', `the model ${name} ${lacking}, and HF_HUB_OFFLINE forbids to download it`);
  }
  return download(nameOrPath, revision, repo, options);
}

/** The cache's folder of all hub downloads. */
export function hubCache(): string {
  const env = process.env;
  return expand(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hubHome(), 'hub'));
}

function hubHome(): string {
  const env = process.env;
  return expand(env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'));
}

function expand(path: string): string {
  return resolve(path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path);
}

function isOffline(): boolean {
  const value = process.env.HF_HUB_OFFLINE || process.env.TRANSFORMERS_OFFLINE || '';
  return ['1', 'ON', 'YES', 'TRUE'].includes(value.toUpperCase());
}

async function accessToken(given: string | undefined): Promise<string | undefined> {
  const token = given ?? (process.env.HF_TOKEN || process.env.HUGGING_FACE_HUB_TOKEN);
  if (token) return token.trim();
  const path = process.env.HF_TOKEN_PATH || join(hubHome(), 'token');
  const text = await readFile(expand(path), 'utf8').catch(() => '');
  return text.trim() || undefined;
}

/** The snapshot of a revision in the cache, if there is one, and whether all that a model needs is in it. */
async function cachedSnapshot(repo: string, revision: string): Promise<{ folder: string; complete: boolean } | undefined> {
  let commit = revision;
  if (!COMMIT.test(revision)) {
    const text = await readFile(join(repo, 'refs', revision), 'utf8').catch(() => undefined);
    if (text === undefined) return undefined;
    commit = text.trim();
    if (!COMMIT.test(commit)) return undefined;
  }
  const folder = join(repo, 'snapshots', commit);
  if (!(await isThere(folder))) return undefined;
  return { folder, complete: await isComplete(folder) };
}

/** Follows links, so that a link to a blob that is gone counts as absent. */
async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function isComplete(folder: string): Promise<boolean> {
  if (!(await isThere(join(folder, 'config.json')))) return false;
  if (await isThere(join(folder, 'model.safetensors'))) return true;
  const index = join(folder, 'model.safetensors.index.json');
  if (!(await isThere(index))) return false;
  const { weight_map: map } = await readJsonObject(index, 'ERR_BAD_CHECKPOINT');
  const shards = new Set(Object.values((map ?? {}) as Record<string, unknown>));
  for (const shard of shards) {
    const path = typeof shard === 'string' ? safeJoin(folder, shard) : undefined;
    if (path !== undefined && !(await isThere(path))) return false; // a bad name is for Checkpoint.open to report
  }
  return true;
}

async function download(name: string, revision: string, repo: string, options: ResolveModelOptions): Promise<string> {
  const hub = await import('@huggingface/hub');
  const token = await accessToken(options.token);
  if (token !== undefined && !token.startsWith('hf_')) {
    throw new VltuneError(
      'ERR_USAGE',
      'the access token (HF_TOKEN, or the file that `hf auth login` writes) must start with hf_',
    );
  }
  const hubUrl = process.env.HF_ENDPOINT?.replace(/\/+$/, '');
  const { signal } = options;
  const common = {
    repo: { type: 'model', name } as const,
    ...(token === undefined ? {} : { accessToken: token }),
    ...(hubUrl ? { hubUrl } : {}),
    ...(signal ? { fetch: ((input, init) => fetch(input, { ...init, signal })) as typeof fetch } : {}),
  };
  try {
    const { sha } = await hub.modelInfo({ ...common, name, revision, additionalFields: ['sha'] });
    if (typeof sha !== 'string' || !COMMIT.test(sha))
      throw new VltuneError('ERR_IO', `the hub gave no commit for ${name}, revision ${revision}`);
    const snapshot = join(repo, 'snapshots', sha);
    const files: { entry: ListFileEntry; link: string }[] = [];
    for await (const entry of hub.listFiles({ ...common, recursive: true, revision: sha })) {
      if (entry.type !== 'file' || entry.path.includes('/') || !WANTED.test(entry.path)) continue;
      const link = safeJoin(snapshot, entry.path);
      if (link !== undefined && !(await isThere(link))) files.push({ entry, link });
    }
    const totalBytes = files.reduce((sum, { entry }) => sum + entry.size, 0);
    let bytes = 0;
    for (const { entry, link } of files) {
      signal?.throwIfAborted();
      const etag = entry.lfs?.oid ?? entry.oid;
      if (etag === undefined || !/^[0-9a-f]{40,64}$/.test(etag))
        throw new VltuneError('ERR_IO', `the hub gave no hash for ${name}/${entry.path}`);
      const blob = join(repo, 'blobs', etag);
      if (!(await isThere(blob))) {
        const content = await hub.downloadFile({ ...common, path: entry.path, revision: sha });
        if (content === null) throw new VltuneError('ERR_NOT_FOUND', `the hub has no ${name}/${entry.path}`);
        const before = bytes;
        await writeBlob(blob, content, entry, signal, (done) => {
          options.onProgress?.({ file: entry.path, bytes: before + done, totalBytes });
        });
      }
      bytes += entry.size;
      await linkTo(blob, link);
    }
    // The reference is written last: a revision that is in refs/ has its files.
    if (revision !== sha) await writeFileAtomic(join(repo, 'refs', revision), sha);
    if (!(await isComplete(snapshot))) {
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `the hub model ${name} has no config.json with weights in safetensors; other formats (pickle) are never read`,
      );
    }
    return snapshot;
  } catch (error) {
    throw downloadError(error, name, revision, token !== undefined, signal);
  }
}

/** Streams one file of the hub to its blob, by way of a name of its own; size, and SHA-256 where the hub gives it, must agree. */
async function writeBlob(
  blob: string,
  content: Blob,
  entry: ListFileEntry,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  await mkdir(dirname(blob), { recursive: true });
  const incomplete = `${blob}.${process.pid}.incomplete`;
  const hash = createHash('sha256');
  let bytes = 0;
  const count = new Transform({
    transform(chunk: Uint8Array, _encoding, done): void {
      hash.update(chunk);
      bytes += chunk.byteLength;
      onBytes(bytes);
      done(null, chunk);
    },
  });
  try {
    const source = Readable.fromWeb(content.stream() as Parameters<typeof Readable.fromWeb>[0]);
    await pipeline(source, count, createWriteStream(incomplete, { flush: true }), signal ? { signal } : {});
    if (bytes !== entry.size)
      throw new VltuneError('ERR_IO', `${entry.path}: the hub promised ${entry.size} bytes and sent ${bytes}`);
    if (entry.lfs !== undefined && hash.digest('hex') !== entry.lfs.oid)
      throw new VltuneError('ERR_IO', `${entry.path}: what the hub sent does not have the hash it gave`);
    await rename(incomplete, blob);
  } finally {
    await rm(incomplete, { force: true });
  }
}

/** A relative link from the snapshot to the blob, as huggingface_hub makes them; a copy where links cannot be made. */
async function linkTo(blob: string, link: string): Promise<void> {
  await mkdir(dirname(link), { recursive: true });
  await rm(link, { force: true });
  try {
    await symlink(relative(dirname(link), blob), link);
  } catch {
    await copyFile(blob, link);
  }
}

function downloadError(
  error: unknown,
  name: string,
  revision: string,
  hasToken: boolean,
  signal: AbortSignal | undefined,
): Error {
  if (error instanceof VltuneError) return error;
  if (signal?.aborted) return new VltuneError('ERR_CANCELLED', `the download of ${name} was stopped`, { cause: error });
  const { statusCode, message, syscall, cause } = error as {
    statusCode?: number;
    message?: string;
    syscall?: string;
    cause?: Error;
  };
  if (statusCode === 401 || statusCode === 403) {
    const remedy = hasToken
      ? 'the token has no access to it'
      : 'it does not exist, is private or gated: set HF_TOKEN (and accept its terms on its page)';
    return new VltuneError('ERR_NOT_FOUND', `the hub refuses ${name}: ${remedy}`, { cause: error });
  }
  if (statusCode === 404)
    return new VltuneError('ERR_NOT_FOUND', `the hub has no model ${name} with a revision ${printable(revision)}`, {
      cause: error,
    });
  if (statusCode !== undefined)
    return new VltuneError('ERR_IO', `the hub failed on ${name}: ${printable(message ?? '')}`, { cause: error });
  if (error instanceof TypeError) {
    const reason = cause?.message ? `: ${printable(cause.message)}` : '';
    return new VltuneError(
      'ERR_NOT_FOUND',
      `the model ${name} is neither a folder nor in the cache (${hubCache()}), and the hub cannot be reached${reason}`,
      { cause: error },
    );
  }
  if (syscall !== undefined) return ioError(error, 'write to', hubCache());
  return new VltuneError('ERR_IO', `downloading ${name} failed: ${printable(message ?? String(error))}`, { cause: error });
}
