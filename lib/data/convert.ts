/**
 * Alpaca files to messages, byte for byte as the seed's converter writes them, in flat memory.
 *
 * A record is `{"messages": [user, assistant]}`; the user's content holds the system instruction (if given), the text, and the image
 * (if there is one), each an item. Fields are found as `alpaca.ts` says. Rows without a text are converted too, with an empty one.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { VltuneError } from '../errors.js';
import { ioError } from '../files.js';
import { alpacaTexts } from './alpaca.js';
import { type ExactValue, parseExact, pythonDump } from './json.js';
import { placeName, type RawRecord, readRecords } from './records.js';

export const CONVERT_FORMATS = ['jsonl', 'json'] as const;
export type ConvertFormat = (typeof CONVERT_FORMATS)[number];

export interface ConvertOptions {
  /** An Alpaca file: JSON or JSON Lines. */
  readonly input: string;
  /** The file to write; it appears whole or not at all. May be the input. */
  readonly output: string;
  /** One record a line, or one array with an indent of 2. Default `jsonl`. */
  readonly format?: ConvertFormat | undefined;
  /** Text put before the user's, as an item of its own. */
  readonly systemInstruction?: string | undefined;
  /** Add `{"type":"image","image":null}` to rows without an image. Default false. */
  readonly forceEmptyImage?: boolean | undefined;
  /** How many records to hand back as indented JSON. Default 0. */
  readonly preview?: number | undefined;
  readonly onProgress?: ((progress: ConvertProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ConvertProgress {
  readonly rows: number;
  readonly bytesRead: number;
  readonly bytesTotal: number;
}

export interface ConvertResult {
  readonly rows: number;
  readonly output: string;
  readonly format: ConvertFormat;
  /** The first records as JSON with an indent of 2. */
  readonly preview: readonly string[];
}

const WRITE_CHARACTERS = 1 << 19;
const INDENT = 2;

function item(type: 'text' | 'image', value: ExactValue): Map<string, ExactValue> {
  return new Map<string, ExactValue>([
    ['type', type],
    [type, value],
  ]);
}

function turn(role: string, content: ExactValue[]): Map<string, ExactValue> {
  return new Map<string, ExactValue>([
    ['role', role],
    ['content', content],
  ]);
}

/** The image of a row with its numbers as they were written. */
function exactImage(record: RawRecord, field: string): ExactValue {
  const image = (record.value as Record<string, unknown>)[field];
  if (typeof image === 'string' || typeof image === 'boolean') return image;
  return (parseExact(record.text) as Map<string, ExactValue>).get(field)!;
}

function convertRecord(path: string, record: RawRecord, options: ConvertOptions): ExactValue {
  const { value } = record;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const got = value === null ? 'null' : Array.isArray(value) ? 'a list' : `a ${typeof value}`;
    throw new VltuneError('ERR_BAD_DATA', `${placeName(path, record)}: expected an object with Alpaca fields, got ${got}`);
  }
  const { user, assistant, imageField } = alpacaTexts(value as Record<string, unknown>);
  const content: ExactValue[] = [];
  if (options.systemInstruction) content.push(item('text', options.systemInstruction));
  content.push(item('text', user));
  if (imageField !== undefined) content.push(item('image', exactImage(record, imageField)));
  else if (options.forceEmptyImage) content.push(item('image', null));
  return new Map([['messages', [turn('user', content), turn('assistant', [item('text', assistant)])]]]);
}

/** A file that is written beside its place and renamed into it. What is no regular file (a pipe, a device) is written straight. */
class OutputFile {
  private readonly handle: FileHandle;
  private readonly target: string;
  private readonly beside: string | undefined;
  private text = '';

  private constructor(handle: FileHandle, target: string, beside: string | undefined) {
    this.handle = handle;
    this.target = target;
    this.beside = beside;
  }

  static async create(path: string): Promise<OutputFile> {
    try {
      const there = await stat(path).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined;
        throw error;
      });
      if (there?.isDirectory()) throw new VltuneError('ERR_USAGE', `${path}: expected a file to write, got a folder`);
      if (there !== undefined && !there.isFile()) return new OutputFile(await open(path, 'w'), path, undefined);
      const target = there === undefined ? path : await realpath(path); // a link stays a link
      const beside = `${target}.${process.pid}-${randomBytes(4).toString('hex')}.part`;
      return new OutputFile(await open(beside, 'wx'), target, beside);
    } catch (cause) {
      if (cause instanceof VltuneError) throw cause;
      const { code } = cause as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR')
        throw new VltuneError('ERR_NOT_FOUND', `${path}: its folder does not exist`, { cause });
      if (code === 'EACCES' || code === 'EROFS')
        throw new VltuneError('ERR_USAGE', `--output: ${ioError(cause, 'write', path).message}`, { cause });
      throw ioError(cause, 'write', path);
    }
  }

  async write(text: string): Promise<void> {
    this.text += text;
    if (this.text.length >= WRITE_CHARACTERS) await this.flush();
  }

  private async flush(): Promise<void> {
    const bytes = Buffer.from(this.text);
    this.text = '';
    await this.guard(async () => {
      for (let at = 0; at < bytes.length; ) at += (await this.handle.write(bytes, at)).bytesWritten;
    });
  }

  private async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (cause) {
      throw ioError(cause, 'write', this.target);
    }
  }

  async commit(): Promise<void> {
    await this.flush();
    await this.guard(async () => {
      if (this.beside !== undefined) await this.handle.sync();
      await this.handle.close();
      if (this.beside !== undefined) await rename(this.beside, this.target);
    });
  }

  /** Leaves nothing behind. */
  async discard(): Promise<void> {
    await this.handle.close().catch(() => undefined);
    if (this.beside !== undefined) await rm(this.beside, { force: true });
  }
}

/**
 * Converts an Alpaca file to messages. Errors: ERR_NOT_FOUND, ERR_USAGE, ERR_BAD_DATA (file, line, column or row; also for an input that
 * holds no rows), ERR_IO, ERR_CANCELLED. After an error the output is what it was before.
 */
export async function convert(options: ConvertOptions): Promise<ConvertResult> {
  const { input, output, format = 'jsonl', preview = 0 } = options;
  if (!CONVERT_FORMATS.includes(format))
    throw new VltuneError('ERR_USAGE', `format: expected ${CONVERT_FORMATS.join(' or ')}, got ${JSON.stringify(format)}`);
  if (!Number.isInteger(preview)) throw new VltuneError('ERR_USAGE', `preview: expected a whole number, got ${preview}`);
  const bytes = { read: 0, total: 0 };
  const batches = readRecords(input, {
    signal: options.signal,
    onBytes: (read, total) => {
      bytes.read = read;
      bytes.total = total;
    },
  });
  let file: OutputFile | undefined;
  try {
    let rows = 0;
    const shown: string[] = [];
    for await (const batch of batches) {
      file ??= await OutputFile.create(output);
      for (const record of batch) {
        const converted = convertRecord(input, record, options);
        if (rows < preview) shown.push(pythonDump(converted, INDENT));
        if (format === 'jsonl') await file.write(`${pythonDump(converted)}\n`);
        else await file.write(`${rows === 0 ? '[' : ','}\n${' '.repeat(INDENT)}${pythonDump(converted, INDENT, 1)}`);
        rows++;
      }
      options.onProgress?.({ rows, bytesRead: bytes.read, bytesTotal: bytes.total });
    }
    if (file === undefined) throw new VltuneError('ERR_BAD_DATA', `${input}: no items found in the input`);
    if (format === 'json') await file.write('\n]');
    await file.commit();
    return { rows, output, format, preview: shown };
  } catch (error) {
    await file?.discard();
    throw error;
  }
}
