/**
 * The safetensors format (8 bytes of little-endian header length N, N bytes of JSON, then the tensors' bytes), and
 * checkpoints made of it: one `model.safetensors`, or shards with `model.safetensors.index.json`.
 *
 * Every claim of a header is checked before a byte is used: lengths against the file, offsets against each other (in
 * order, no overlap, no hole, nothing after the last), bytes against shape and dtype, names against duplicates. What is
 * wrong is ERR_BAD_CHECKPOINT naming file and tensor. Nothing of a checkpoint is executed; pickle files are refused by name.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type ErrorCode, VltuneError } from '../errors.js';
import { type FileSink, ioError, safeJoin, writeFileAtomic } from '../files.js';
import { addon, type Storage } from '../native.js';
import { decodeUtf8, describe, isJsonObject, type JsonObject, parseJsonObject, printable, readJsonObject } from './json.js';

/** Bits of an element. The order is the format's own: it is the order in which a file's tensors are laid out, from the last to the first. */
const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** A dtype as safetensors names it. */
export type SafetensorsDtype = keyof typeof DTYPE_BITS;

const DTYPE_RANK: ReadonlyMap<string, number> = new Map(Object.keys(DTYPE_BITS).map((name, index) => [name, index]));

/** Where a tensor lies: in `file`, `bytes` bytes from byte `offset` of it. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Path of the file. */
  readonly file: string;
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** What one file holds. */
export interface SafetensorsFile {
  readonly path: string;
  /** In the order of their bytes. */
  readonly tensors: readonly TensorInfo[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** Longest header that is read, as in the reference implementation. */
const LARGEST_HEADER = 100_000_000;
/** Longest rank that is read: more dimensions than any framework takes. */
const LARGEST_RANK = 64;

/** Elements of a shape; undefined if there are more than a double counts exactly. */
function numelOf(shape: readonly number[]): number | undefined {
  let product = 1;
  for (const length of shape) {
    product *= length;
    if (!Number.isSafeInteger(product)) return undefined;
  }
  return product;
}

/** Bytes of a tensor; undefined if they are not whole or not countable. */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number | undefined {
  const numel = numelOf(shape);
  if (numel === undefined) return undefined;
  const bits = numel * DTYPE_BITS[dtype];
  return Number.isSafeInteger(bits) && bits % 8 === 0 ? bits / 8 : undefined;
}

/** Reads and checks the header of one file. Errors carry `code` (ERR_BAD_CHECKPOINT for models, ERR_BAD_ADAPTER for adapters). */
export async function readSafetensorsHeader(path: string, code: ErrorCode = 'ERR_BAD_CHECKPOINT'): Promise<SafetensorsFile> {
  let handle: FileHandle | undefined;
  try {
    const found = await stat(path);
    if (!found.isFile())
      throw new VltuneError(code, `${path}: expected a file, found ${found.isDirectory() ? 'a folder' : 'something else'}`);
    if (found.size < 8) throw new VltuneError(code, `${path}: ${found.size} bytes long; a safetensors file has at least 8`);
    handle = await open(path, 'r');
    const prefix = Buffer.alloc(8);
    await readFully(handle, prefix, 0, path, code);
    const length = prefix.readBigUInt64LE();
    if (length > BigInt(LARGEST_HEADER)) {
      throw new VltuneError(
        code,
        `${path}: its first 8 bytes claim a header of ${length} bytes, more than the format allows (${LARGEST_HEADER}); not a safetensors file, or a broken one`,
      );
    }
    if (8n + length > BigInt(found.size)) {
      throw new VltuneError(
        code,
        `${path}: truncated: its first 8 bytes claim a header of ${length} bytes, but the file has ${found.size} bytes in all`,
      );
    }
    const header = Buffer.alloc(Number(length));
    await readFully(handle, header, 8, path, code);
    return parseHeader(path, header, found.size, code);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new VltuneError(code, `${path}: no such file`, { cause: error });
    throw ioError(error, 'read', path);
  } finally {
    await handle?.close();
  }
}

/** A copy of one tensor's bytes, for a file that is read once. `Checkpoint` keeps its files open. */
export async function readTensor(tensor: TensorInfo, code: ErrorCode = 'ERR_BAD_CHECKPOINT'): Promise<Uint8Array<ArrayBuffer>> {
  let all = new Uint8Array(0);
  await readTensorPieces(
    tensor,
    tensor.bytes,
    (bytes) => {
      all = bytes;
    },
    code,
  );
  return all;
}

/** Reads one tensor in pieces of at most `pieceBytes`. `take` hears of each and of the byte it starts at; the buffer is used again. */
export async function readTensorPieces(
  tensor: TensorInfo,
  pieceBytes: number,
  take: (bytes: Uint8Array<ArrayBuffer>, from: number) => void,
  code: ErrorCode = 'ERR_BAD_CHECKPOINT',
): Promise<void> {
  const buffer = new Uint8Array(Math.min(pieceBytes, tensor.bytes));
  let handle: FileHandle | undefined;
  try {
    handle = await open(tensor.file, 'r');
    for (let from = 0; from < tensor.bytes; from += buffer.byteLength) {
      const piece = buffer.subarray(0, Math.min(buffer.byteLength, tensor.bytes - from));
      await readFully(handle, piece, tensor.offset + from, tensor.file, code);
      take(piece, from);
    }
  } catch (error) {
    throw ioError(error, 'read', tensor.file);
  } finally {
    await handle?.close();
  }
}

async function readFully(handle: FileHandle, into: Uint8Array, position: number, path: string, code: ErrorCode): Promise<void> {
  let done = 0;
  while (done < into.byteLength) {
    const { bytesRead } = await handle.read(into, done, into.byteLength - done, position + done);
    if (bytesRead === 0) throw new VltuneError(code, `${path}: the file ended at byte ${position + done} while it was read`);
    done += bytesRead;
  }
}

function parseHeader(path: string, header: Uint8Array, fileBytes: number, code: ErrorCode): SafetensorsFile {
  const where = `${path}: header`;
  if (header[0] !== 0x7b) throw new VltuneError(code, `${where}: must start with "{"`);
  const text = decodeUtf8(header, where, code);
  const object = parseJsonObject(text, where, code);
  const twice = duplicateKey(text);
  if (twice !== undefined) throw new VltuneError(code, `${where}: the name "${printable(twice)}" is there twice`);

  const dataStart = 8 + header.byteLength;
  const tensors: TensorInfo[] = [];
  let metadata: Readonly<Record<string, string>> = {};
  for (const [name, value] of Object.entries(object)) {
    if (name === '__metadata__') metadata = checkMetadata(value, where, code);
    else tensors.push(checkTensor(path, name, value, dataStart, code));
  }

  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  let previous = '';
  for (const { name, offset, bytes } of tensors) {
    if (offset !== end) {
      const what = offset < end ? `overlaps tensor ${previous}` : `leaves a hole of ${offset - end} bytes before it`;
      throw new VltuneError(
        code,
        `${path}: tensor ${printable(name)}: its data_offsets [${offset - dataStart}, ${offset - dataStart + bytes}] ${what}`,
      );
    }
    end += bytes;
    previous = printable(name);
    if (end > fileBytes) {
      throw new VltuneError(code, `${path}: truncated: tensor ${previous} ends at byte ${end}, but the file has ${fileBytes}`);
    }
  }
  if (end !== fileBytes) throw new VltuneError(code, `${path}: ${fileBytes - end} bytes after the last tensor belong to nothing`);
  return { path, tensors, metadata };
}

function checkMetadata(value: unknown, where: string, code: ErrorCode): Readonly<Record<string, string>> {
  if (!isJsonObject(value)) throw new VltuneError(code, `${where}: __metadata__: expected an object, got ${describe(value)}`);
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry !== 'string')
      throw new VltuneError(code, `${where}: __metadata__.${printable(key)}: expected a string, got ${describe(entry)}`);
  }
  return value as Readonly<Record<string, string>>;
}

function checkTensor(path: string, name: string, value: unknown, dataStart: number, code: ErrorCode): TensorInfo {
  const fail = (what: string): never => {
    throw new VltuneError(code, `${path}: tensor ${printable(name)}: ${what}`);
  };
  if (!isJsonObject(value)) return fail(`expected an object, got ${describe(value)}`);
  for (const key of Object.keys(value)) {
    if (key !== 'dtype' && key !== 'shape' && key !== 'data_offsets') fail(`unknown field "${printable(key)}"`);
  }
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string') return fail(`dtype: expected a name, got ${describe(dtype)}`);
  if (!isDtype(dtype)) return fail(`dtype: ${describe(dtype)} is not one that is known (${Object.keys(DTYPE_BITS).join(', ')})`);
  if (!isLengths(shape) || shape.length > LARGEST_RANK)
    return fail(`shape: expected a list of whole numbers, got ${JSON.stringify(shape)?.slice(0, 80) ?? 'nothing'}`);
  if (!isLengths(offsets) || offsets.length !== 2)
    return fail(`data_offsets: expected two whole numbers, got ${JSON.stringify(offsets)?.slice(0, 80) ?? 'nothing'}`);
  const [begin, end] = offsets as [number, number];
  if (end < begin) return fail(`data_offsets: [${begin}, ${end}] ends before it begins`);
  const bytes = tensorBytes(dtype, shape);
  if (bytes !== end - begin) {
    return fail(
      `its data_offsets hold ${end - begin} bytes, but ${dtype} [${shape.join(', ')}] takes ${bytes ?? 'a number of bytes that is not whole or too large'}`,
    );
  }
  return { name, dtype, shape, file: path, offset: dataStart + begin, bytes };
}

function isDtype(name: string): name is SafetensorsDtype {
  return DTYPE_RANK.has(name);
}

function isLengths(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((length) => Number.isSafeInteger(length) && length >= 0);
}

/**
 * The first key that an object of this (valid) JSON text holds twice; undefined if there is none. JSON.parse keeps the last
 * of two without a word, and a reader of another language may keep the first.
 */
function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | null)[] = []; // the keys so far of each object that is open; null for a list
  let expectsKey = false;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '{':
        open.push(new Set());
        expectsKey = true;
        break;
      case '[':
        open.push(null);
        expectsKey = false;
        break;
      case '}':
      case ']':
        open.pop();
        expectsKey = false;
        break;
      case ',':
        expectsKey = open.at(-1) != null;
        break;
      case '"': {
        const start = at;
        for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++;
        if (!expectsKey) break;
        expectsKey = false;
        const key = JSON.parse(text.slice(start, at + 1)) as string;
        const keys = open.at(-1)!;
        if (keys.has(key)) return key;
        keys.add(key);
      }
    }
  }
  return undefined;
}

// ---- Checkpoints

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const PICKLE = /\.(bin|pt|pth|ckpt|pkl|pickle)$/;

/** The tensors of a model folder, or of any one file. Files are mapped when a tensor of theirs is first asked for. */
export class Checkpoint {
  /** The folder, as it was given. */
  readonly folder: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The files, in the order of their names. */
  readonly files: readonly SafetensorsFile[];
  /** Path of the index, if there are shards. */
  readonly index: string | undefined;
  readonly #storages = new Map<string, Storage>();
  /** Of tensors that no op may read where they lie. */
  readonly #copies = new Map<string, Storage>();
  readonly #descriptors = new Map<string, number>();
  #closed = false;

  private constructor(
    folder: string,
    files: readonly SafetensorsFile[],
    tensors: ReadonlyMap<string, TensorInfo>,
    index?: string,
  ) {
    this.folder = folder;
    this.index = index;
    this.files = files;
    this.tensors = tensors;
  }

  /**
   * Opens a model folder: `model.safetensors`, else the shards that `model.safetensors.index.json` names. Rejects with
   * ERR_BAD_CHECKPOINT naming file and tensor, ERR_NOT_FOUND if the folder is not there, ERR_UNSUPPORTED if it holds
   * weights in another format only.
   */
  static async open(folder: string): Promise<Checkpoint> {
    let names: Set<string>;
    try {
      names = new Set(await readdir(folder));
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT') throw new VltuneError('ERR_NOT_FOUND', `${folder}: no such folder`, { cause: error });
      if (code === 'ENOTDIR')
        throw new VltuneError('ERR_NOT_FOUND', `${folder}: expected the folder of a model, found a file`, { cause: error });
      throw ioError(error, 'read', folder);
    }
    if (names.has(SINGLE)) {
      const file = await readSafetensorsHeader(join(folder, SINGLE));
      return new Checkpoint(folder, [file], new Map(file.tensors.map((tensor) => [tensor.name, tensor])));
    }
    if (names.has(INDEX)) return Checkpoint.#openShards(folder);
    const pickle = [...names].find((name) => PICKLE.test(name));
    if (pickle !== undefined) {
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `${folder}: its weights are in ${pickle}, a pickle file; such files can run code and are never read. Use a version of the model in safetensors`,
      );
    }
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${folder}: neither ${SINGLE} nor ${INDEX} is there`);
  }

  static async #openShards(folder: string): Promise<Checkpoint> {
    const code = 'ERR_BAD_CHECKPOINT';
    const index = join(folder, INDEX);
    const { weight_map: map } = await readJsonObject(index, code);
    if (!isJsonObject(map))
      throw new VltuneError(code, `${index}: weight_map: expected an object from tensor to file, got ${describe(map)}`);
    const shards = new Map<string, Set<string>>();
    for (const [tensor, file] of Object.entries(map)) {
      if (typeof file !== 'string')
        throw new VltuneError(
          code,
          `${index}: weight_map: tensor ${printable(tensor)}: expected a file name, got ${describe(file)}`,
        );
      if (safeJoin(folder, file) === undefined)
        throw new VltuneError(code, `${index}: weight_map: tensor ${printable(tensor)}: ${describe(file)} leaves the folder`);
      if (!file.endsWith('.safetensors'))
        throw new VltuneError(
          code,
          `${index}: weight_map: tensor ${printable(tensor)}: ${describe(file)} is not a safetensors file`,
        );
      const tensors = shards.get(file);
      if (tensors === undefined) shards.set(file, new Set([tensor]));
      else tensors.add(tensor);
    }
    if (shards.size === 0) throw new VltuneError(code, `${index}: weight_map: names no tensor`);

    const files: SafetensorsFile[] = [];
    const tensors = new Map<string, TensorInfo>();
    for (const [name, expected] of [...shards].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const path = safeJoin(folder, name)!;
      const found = await stat(path).catch(() => undefined);
      if (found === undefined)
        throw new VltuneError(
          code,
          `${index}: names the shard ${printable(name)}, which is not there (${expected.size} tensors, the first is ${printable([...expected][0]!)})`,
        );
      const file = await readSafetensorsHeader(path);
      for (const tensor of file.tensors) {
        if (!expected.delete(tensor.name)) {
          const said = Object.hasOwn(map, tensor.name) ? map[tensor.name] : undefined;
          const what = said === undefined ? 'is not in the index' : `lies in this shard, but the index says ${describe(said)}`;
          throw new VltuneError(code, `${path}: tensor ${printable(tensor.name)} ${what}`);
        }
        tensors.set(tensor.name, tensor);
      }
      for (const missing of expected)
        throw new VltuneError(code, `${path}: tensor ${printable(missing)} is missing, though the index says that it lies here`);
      files.push(file);
    }
    return new Checkpoint(folder, files, tensors, index);
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** A tensor's place; ERR_BAD_CHECKPOINT if the checkpoint has none of that name. */
  get(name: string): TensorInfo {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw new VltuneError('ERR_BAD_CHECKPOINT', `${this.folder}: tensor ${printable(name)} is missing`);
    return tensor;
  }

  /** A copy of a tensor's bytes, little-endian as on disk. */
  bytes(name: string): Uint8Array {
    const tensor = this.get(name);
    const into = new Uint8Array(tensor.bytes);
    this.read(tensor, 0, into);
    return into;
  }

  /** Fills `into` with a tensor's bytes from byte `from` of it. */
  read(tensor: TensorInfo, from: number, into: Uint8Array): void {
    if (from < 0 || from + into.byteLength > tensor.bytes)
      throw new RangeError(`bytes ${from} to ${from + into.byteLength} of tensor ${tensor.name}, which has ${tensor.bytes}`);
    const descriptor = this.#descriptor(tensor.file);
    let done = 0;
    while (done < into.byteLength) {
      let read: number;
      try {
        read = readSync(descriptor, into, done, into.byteLength - done, tensor.offset + from + done);
      } catch (error) {
        throw ioError(error, 'read', tensor.file);
      }
      if (read === 0)
        throw new VltuneError(
          'ERR_BAD_CHECKPOINT',
          `${tensor.file}: the file was cut short while it was in use (tensor ${tensor.name})`,
        );
      done += read;
    }
  }

  /**
   * A tensor's place in the read-only mapping of its file. Programs and ops read the file's pages directly: nothing is copied but
   * a tensor that does not start at a multiple of its element's size, as in files of writers that do not pad the header.
   */
  ref(name: string): { readonly storage: Storage; readonly offset: number } {
    const tensor = this.get(name);
    this.#checkOpen();
    let mapped = this.#storages.get(tensor.file);
    if (mapped === undefined) {
      mapped = addon().mapFile(tensor.file);
      this.#storages.set(tensor.file, mapped);
    }
    const elements = tensor.shape.reduce((product, length) => product * length, 1);
    if (elements === 0 || tensor.offset % (tensor.bytes / elements) === 0) return { storage: mapped, offset: tensor.offset };
    let copy = this.#copies.get(name);
    if (copy === undefined) {
      copy = addon().allocate(tensor.bytes, 'cpu');
      addon().copy(copy, 0, mapped, tensor.offset, tensor.bytes);
      this.#copies.set(name, copy);
    }
    return { storage: copy, offset: 0 };
  }

  /** Closes files and mappings. Nothing that `ref` returned may be used after; a program that is running keeps its mappings until it ends. */
  close(): void {
    this.#closed = true;
    for (const descriptor of this.#descriptors.values()) closeSync(descriptor);
    for (const storage of [...this.#storages.values(), ...this.#copies.values()]) addon().release(storage);
    this.#descriptors.clear();
    this.#storages.clear();
    this.#copies.clear();
  }

  #descriptor(file: string): number {
    this.#checkOpen();
    let descriptor = this.#descriptors.get(file);
    if (descriptor === undefined) {
      try {
        descriptor = openSync(file, 'r');
      } catch (error) {
        throw ioError(error, 'read', file);
      }
      this.#descriptors.set(file, descriptor);
    }
    return descriptor;
  }

  #checkOpen(): void {
    if (this.#closed) throw new VltuneError('ERR_ARGUMENT', `the checkpoint ${this.folder} is closed`);
  }
}

// ---- Writing

/** A tensor to write. `data` holds its bytes, or writes them piece by piece; there must be as many as shape and dtype take. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView | ((sink: FileSink) => Promise<void>);
}

/** Size of a shard unless told otherwise: 5 GB, which every hub client takes. */
export const SHARD_BYTES = 5_000_000_000;

/**
 * Writes one file, whole or not at all, tensor by tensor: never more than one piece of one tensor is in memory. Bytes are
 * those that the reference implementation writes for the same tensors: laid out by dtype, then name, the header padded
 * with spaces to 8 bytes.
 */
export async function writeSafetensors(
  path: string,
  entries: readonly TensorEntry[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): Promise<void> {
  const sorted = [...entries].sort(byLayout);
  const header: [string, JsonObject][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  const names = new Set<string>();
  let end = 0;
  for (const { name, dtype, shape } of sorted) {
    if (names.has(name) || name === '__metadata__')
      throw new VltuneError('ERR_ARGUMENT', `${path}: tensor ${name} is given twice or has a name that is taken`);
    names.add(name);
    const bytes = entryBytes(path, name, dtype, shape);
    header.push([name, { dtype, shape, data_offsets: [end, end + bytes] }]);
    end += bytes;
  }
  const json = Buffer.from(`{${header.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(',')}}`);
  const padded = Buffer.alloc(8 + Math.ceil(json.byteLength / 8) * 8, 0x20);
  padded.writeBigUInt64LE(BigInt(padded.byteLength - 8));
  json.copy(padded, 8);

  await writeFileAtomic(path, async (sink) => {
    await sink.write(padded);
    for (const { name, dtype, shape, data } of sorted) {
      let written = 0;
      const counting: FileSink = {
        async write(bytes: Uint8Array): Promise<void> {
          written += bytes.byteLength;
          await sink.write(bytes);
        },
      };
      if (typeof data === 'function') await data(counting);
      else await counting.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      const bytes = entryBytes(path, name, dtype, shape);
      if (written !== bytes)
        throw new VltuneError(
          'ERR_ARGUMENT',
          `${path}: tensor ${name}: ${dtype} [${shape.join(', ')}] takes ${bytes} bytes, got ${written}`,
        );
    }
  });
}

function byLayout(a: TensorEntry, b: TensorEntry): number {
  const dtype = DTYPE_RANK.get(b.dtype)! - DTYPE_RANK.get(a.dtype)!;
  return dtype !== 0 ? dtype : Buffer.compare(Buffer.from(a.name), Buffer.from(b.name));
}

function entryBytes(path: string, name: string, dtype: SafetensorsDtype, shape: readonly number[]): number {
  const bytes = tensorBytes(dtype, shape);
  if (bytes === undefined)
    throw new VltuneError('ERR_ARGUMENT', `${path}: tensor ${name}: ${dtype} [${shape.join(', ')}] has no whole number of bytes`);
  return bytes;
}

/**
 * Writes the weights of a model folder: `model.safetensors`, or if they take more than `shardBytes`, shards of at most that
 * size (a larger tensor is a shard of its own) with their index. Entries keep their order over the shards.
 */
export async function writeCheckpoint(
  folder: string,
  entries: readonly TensorEntry[],
  shardBytes: number = SHARD_BYTES,
): Promise<void> {
  const shards: TensorEntry[][] = [[]];
  let filled = 0;
  let total = 0;
  for (const entry of entries) {
    const bytes = entryBytes(folder, entry.name, entry.dtype, entry.shape);
    if (filled > 0 && filled + bytes > shardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(entry);
    filled += bytes;
    total += bytes;
  }
  if (shards.length === 1) {
    await writeSafetensors(join(folder, SINGLE), shards[0]!);
    return;
  }
  const map: [string, string][] = [];
  for (const [number, shard] of shards.entries()) {
    const name = `model-${String(number + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`;
    await writeSafetensors(join(folder, name), shard);
    for (const entry of shard) map.push([entry.name, name]);
  }
  map.sort(([a], [b]) => (a < b ? -1 : 1));
  const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(map) };
  await writeFileAtomic(join(folder, INDEX), `${JSON.stringify(index, null, 2)}\n`);
}
