/**
 * Writing that leaves nothing half done: a file or a folder is built beside its place, synced to the disk and renamed
 * into it. Whatever goes wrong, and on a signal, the half-built one is removed. Failures of the system are ERR_IO and name
 * the path; a bad output folder is ERR_USAGE and names the option.
 */
import { constants, rmSync } from 'node:fs';
import { access, lstat, mkdir, open, readdir, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { VltuneError } from './errors.js';

/** What the commonest system errors mean, in words. */
const SYSTEM_ERRORS: Readonly<Record<string, string>> = {
  ENOSPC: 'no space left on the disk',
  EDQUOT: 'the disk quota is used up',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'the file system is read-only',
  ENOTDIR: 'a part of the path is not a folder',
  EISDIR: 'it is a folder',
  EEXIST: 'a file is in the way',
  ENOENT: 'no such file or folder',
  EMFILE: 'too many open files',
  EFBIG: 'the file system does not take files this large',
  ENAMETOOLONG: 'the name is too long',
  EIO: 'input/output error',
};

/** A system error as ERR_IO that says what was tried on which path; errors that are vltune's own already pass unchanged. */
export function ioError(cause: unknown, action: string, path: string): VltuneError {
  if (cause instanceof VltuneError) return cause;
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  const known = typeof code === 'string' ? SYSTEM_ERRORS[code] : undefined;
  const reason = known === undefined ? (cause instanceof Error ? cause.message : String(cause)) : `${known} (${code})`;
  return new VltuneError('ERR_IO', `cannot ${action} ${path}: ${reason}`, { cause });
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === 'string';
}

// ---- What is being built now, so that a signal or an early exit leaves nothing of it.

const building = new Set<string>();
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

function removeBuilding(): void {
  for (const path of building) rmSync(path, { recursive: true, force: true });
  building.clear();
}

/** Another listener of the signal decides what happens (it may want to finish this very write); alone, we clean up and die of it. */
function onSignal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return;
  removeBuilding();
  for (const name of SIGNALS) process.removeListener(name, onSignal);
  process.kill(process.pid, signal);
}

function startBuilding(path: string): void {
  if (building.size === 0) {
    for (const name of SIGNALS) process.on(name, onSignal);
    process.on('exit', removeBuilding);
  }
  building.add(path);
}

function stopBuilding(path: string): void {
  building.delete(path);
  if (building.size > 0) return;
  for (const name of SIGNALS) process.removeListener(name, onSignal);
  process.removeListener('exit', removeBuilding);
}

// ---- Names of half-built things: `.NAME.partial-PID-N`, so that those of a killed process are known as such.

let count = 0;

function partialPath(folder: string, name: string): string {
  count += 1;
  return join(folder, `.${name}.partial-${process.pid}-${count}`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Removes what a killed process (one that could not clean up) left of this name. */
async function removeStale(folder: string, name: string): Promise<void> {
  const prefix = `.${name}.partial-`;
  const names = await readdir(folder).catch(() => [] as string[]);
  for (const entry of names) {
    if (!entry.startsWith(prefix)) continue;
    const pid = /^(\d+)-\d+$/.exec(entry.slice(prefix.length))?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) await rm(join(folder, entry), { recursive: true, force: true });
  }
}

/** Syncs one file or folder to the disk. File systems that cannot sync a folder say EINVAL or EPERM, which is no loss. */
async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'EINVAL' && code !== 'EPERM' && code !== 'ENOTSUP') throw error;
  } finally {
    await handle.close();
  }
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await sync(path);
  }
  await sync(folder);
}

/** The kind of what lies at a path, symbolic links followed. */
async function kindOf(path: string): Promise<'none' | 'folder' | 'file' | 'other'> {
  try {
    const found = await stat(path);
    return found.isDirectory() ? 'folder' : found.isFile() ? 'file' : 'other';
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return 'none';
    throw ioError(error, 'look at', path);
  }
}

/** A place to write to in `writeFileAtomic`: bytes are added at the end. */
export interface FileSink {
  write(bytes: Uint8Array): Promise<void>;
}

/**
 * Writes a file whole or not at all. `content` is text (UTF-8), bytes, or a function that writes piece by piece; the
 * folder of `path` is made if it is missing. An existing file is replaced in one step. Rejects with ERR_IO.
 */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array | ((sink: FileSink) => Promise<void>),
): Promise<void> {
  const folder = dirname(resolve(path));
  const name = basename(resolve(path));
  const partial = partialPath(folder, name);
  startBuilding(partial);
  try {
    await mkdir(folder, { recursive: true });
    await removeStale(folder, name);
    const handle = await open(partial, 'wx');
    try {
      if (typeof content === 'function') {
        await content({
          async write(bytes: Uint8Array): Promise<void> {
            let done = 0;
            while (done < bytes.byteLength) done += (await handle.write(bytes, done, bytes.byteLength - done)).bytesWritten;
          },
        });
      } else {
        await handle.writeFile(content);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(partial, path);
    await sync(folder);
  } catch (error) {
    await rm(partial, { force: true }).catch(() => {});
    throw error instanceof VltuneError || !isSystemError(error) ? error : ioError(error, 'write', path);
  } finally {
    stopBuilding(partial);
  }
}

export interface WriteFolderOptions {
  /** Replace a folder that is already there. Without it, only an absent or empty folder is taken. */
  readonly replace?: boolean;
}

/**
 * Builds a folder whole or not at all: `fill` writes into a temporary folder beside it, which is then synced and renamed.
 * If `fill` throws, the temporary folder is removed and the error passed on. Where the place beside is not ours to write
 * (the folder is a mount point, or its parent belongs to someone else), the files are built inside it and moved up at the end.
 * Rejects with ERR_IO, or ERR_USAGE if the folder is a file or holds something already.
 */
export async function writeFolderAtomic(
  folder: string,
  fill: (temporary: string) => Promise<void>,
  options: WriteFolderOptions = {},
): Promise<void> {
  const kind = await kindOf(folder);
  if (kind === 'file' || kind === 'other') throw new VltuneError('ERR_USAGE', `${folder} is a file; a folder was expected`);
  const target = kind === 'folder' ? await realpath(folder) : resolve(folder);
  const parent = dirname(target);
  const name = basename(target);
  if (kind === 'folder' && !options.replace && (await entriesOf(target)).length > 0) {
    throw new VltuneError('ERR_USAGE', `${folder} is not empty`);
  }

  let partial = partialPath(parent, name);
  let inside = false;
  startBuilding(partial);
  try {
    try {
      await mkdir(parent, { recursive: true });
      await removeStale(parent, name);
      await mkdir(partial);
      if (kind === 'folder' && (await stat(partial)).dev !== (await stat(target)).dev) {
        await rm(partial, { recursive: true, force: true });
        inside = true; // a mount point: nothing can be renamed onto it
      }
    } catch (error) {
      if (kind !== 'folder' || !['EACCES', 'EPERM', 'EROFS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      inside = true;
    }
    if (inside) {
      stopBuilding(partial);
      partial = partialPath(target, 'vltune');
      startBuilding(partial);
      await removeStale(target, 'vltune');
      await mkdir(partial);
    }
    await fill(partial);
    await syncTree(partial);
    if (inside) await moveUp(partial, target);
    else await takePlace(partial, target, kind === 'folder');
    await sync(inside ? target : parent);
  } catch (error) {
    await rm(partial, { recursive: true, force: true }).catch(() => {});
    if (error instanceof VltuneError && error.message.includes(partial)) {
      // Name the place that the user knows, not the temporary one.
      throw new VltuneError(error.code, error.message.replaceAll(partial, folder), { cause: error });
    }
    throw error instanceof VltuneError || !isSystemError(error) ? error : ioError(error, 'write', folder);
  } finally {
    stopBuilding(partial);
  }
}

/** What a folder holds, without the half-built things of vltune itself. */
async function entriesOf(folder: string): Promise<string[]> {
  const names = await readdir(folder);
  return names.filter((name) => !/^\..*\.partial-\d+-\d+$/.test(name));
}

/** Renames `partial` to `target`. A folder in the way that is not empty is moved aside first and removed after. */
async function takePlace(partial: string, target: string, exists: boolean): Promise<void> {
  try {
    await rename(partial, target); // takes the place of an empty folder too
    return;
  } catch (error) {
    if (!exists || !['ENOTEMPTY', 'EEXIST', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
  const old = join(dirname(target), `.${basename(target)}.old-${process.pid}-${count}`);
  await rename(target, old);
  try {
    await rename(partial, target);
  } catch (error) {
    await rename(old, target);
    throw error;
  }
  await rm(old, { recursive: true, force: true });
}

/** Moves what `partial` holds into the folder above it, in place of what is there. */
async function moveUp(partial: string, target: string): Promise<void> {
  const built = await readdir(partial);
  for (const name of await readdir(target)) {
    if (join(target, name) !== partial) await rm(join(target, name), { recursive: true, force: true });
  }
  for (const name of built) await rename(join(partial, name), join(target, name));
  await rm(partial, { recursive: true, force: true });
}

/**
 * Checks, before any work is done, that `folder` can become an output folder: absent in a place where it can be made, or
 * there, empty and writable. Otherwise ERR_USAGE that names `option`. Nothing is created.
 */
export async function ensureEmptyOutput(folder: string, option = '--output-dir'): Promise<void> {
  if (folder === '') throw new VltuneError('ERR_USAGE', `${option}: expected a folder, got an empty path`);
  let place = resolve(folder);
  let kind = await kindOf(place).catch((error: unknown) => {
    throw new VltuneError('ERR_USAGE', `${option}: ${(error as Error).message}`, { cause: error });
  });
  if (kind === 'file' || kind === 'other')
    throw new VltuneError('ERR_USAGE', `${option}: ${folder} is a file; expected a folder that is empty or absent`);
  if (kind === 'folder') {
    const names = await entriesOf(place).catch((error: unknown) => {
      throw new VltuneError('ERR_USAGE', `${option}: ${ioError(error, 'read', folder).message}`, { cause: error });
    });
    if (names.length > 0) {
      throw new VltuneError(
        'ERR_USAGE',
        `${option}: ${folder} is not empty (it holds ${names[0]}${names.length > 1 ? ` and ${names.length - 1} more` : ''}); expected a folder that is empty or absent`,
      );
    }
  }
  while (kind === 'none' && dirname(place) !== place) {
    // A link that points nowhere would swallow what is written through it.
    if (
      await lstat(place).then(
        () => true,
        () => false,
      )
    ) {
      throw new VltuneError('ERR_USAGE', `${option}: ${place} is a symbolic link to nothing`);
    }
    place = dirname(place);
    kind = await kindOf(place);
    if (kind === 'file' || kind === 'other')
      throw new VltuneError('ERR_USAGE', `${option}: ${folder} cannot be made, since ${place} is a file`);
  }
  try {
    await access(place, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new VltuneError('ERR_USAGE', `${option}: ${ioError(error, 'write to', place).message}`, { cause: error });
  }
}

/**
 * `folder/name` for a name that came from a file (an index entry, a file list): it must stay in the folder. Returns undefined
 * if it does not (absolute, `..`, a drive letter, a NUL, empty); the caller knows what to call the error.
 * Names are judged as text: a file of the folder may well be a symbolic link, as in the hub's cache.
 */
export function safeJoin(folder: string, name: string): string | undefined {
  if (name === '' || name.includes('\0') || name.includes('\\') || isAbsolute(name) || /^[A-Za-z]:/.test(name)) return undefined;
  if (name.split('/').some((part) => part === '..' || part === '' || part === '.')) return undefined;
  return join(folder, name);
}
