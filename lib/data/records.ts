/**
 * JSON and JSON Lines files as a stream of records, in flat memory: one window over the file that only a long record makes grow.
 *
 * `.jsonl`, `.ndjson` and any other ending are read line by line; `.json` holds a list, or an object whose `data`, `items`,
 * `examples` or `records` is a list, or an object of objects (its values are the records), or one object.
 *
 * The array reader is our own byte scanner and not a token stream: it finds where each element ends (brackets and strings only)
 * and hands the bytes to `JSON.parse`, which is five to ten times faster than assembling from tokens, knows the line of each record,
 * and bounds nesting before anything is built.
 */
import { isAscii, isUtf8 } from 'node:buffer';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { VltuneError } from '../errors.js';
import { JsonSyntaxError, MAX_DEPTH, parseExact, plainValue } from './json.js';
import { pythonStrip } from './text.js';

/** One record of a dataset file. */
export interface RawRecord {
  readonly value: unknown;
  /** Its JSON text, for those who need numbers as they were written. */
  readonly text: string;
  /** 1-based count of records in the file, and the 1-based line where this one starts. */
  readonly row: number;
  readonly line: number;
}

export interface RecordOptions {
  /** Called after each block with the bytes read so far and the size of the file. */
  readonly onBytes?: ((read: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

const BLOCK_BYTES = 1 << 18;
/** The longest record: two bytes a character must stay below the longest string of the engine. */
const MAX_RECORD_BYTES = 256 * 1024 * 1024;
const LIST_KEYS: readonly string[] = ['data', 'items', 'examples', 'records'];

const NEWLINE = 0x0a;
const RETURN = 0x0d;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

export function cancelled(): VltuneError {
  return new VltuneError('ERR_CANCELLED', 'the work was cancelled');
}

/** Opens a regular file for reading, with an error that says what stands in the way. */
export async function openInput(path: string): Promise<{ handle: FileHandle; size: number }> {
  try {
    const info = await stat(path);
    if (info.isDirectory()) throw new VltuneError('ERR_BAD_DATA', `${path}: expected a file, got a folder`);
    if (info.isFile() && info.size === 0) throw new VltuneError('ERR_BAD_DATA', `${path}: the file is empty`);
    return { handle: await open(path, 'r'), size: info.size };
  } catch (cause) {
    if (cause instanceof VltuneError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new VltuneError('ERR_NOT_FOUND', `${path}: no such file`, { cause });
    throw new VltuneError('ERR_IO', `${path}: cannot be read: ${message}`, { cause });
  }
}

/** 1-based line and column (in characters) of a byte of a file. Reads the file up to there: for messages only. */
async function placeOf(path: string, offset: number): Promise<{ line: number; column: number }> {
  const handle = await open(path, 'r');
  try {
    const block = Buffer.allocUnsafe(BLOCK_BYTES);
    let line = 1;
    let column = 1;
    for (let at = 0; at < offset; ) {
      const { bytesRead } = await handle.read(block, 0, Math.min(block.length, offset - at), at);
      if (bytesRead === 0) break;
      for (let i = 0; i < bytesRead; i++) {
        const byte = block[i]!;
        if (byte === NEWLINE) {
          line++;
          column = 1;
        } else if ((byte & 0xc0) !== 0x80 && !(at + i < 3 && byte === 0xef)) {
          column++; // continuation bytes and a byte order mark are no columns
        }
      }
      at += bytesRead;
    }
    return { line, column };
  } finally {
    await handle.close();
  }
}

async function syntaxError(path: string, offset: number, message: string): Promise<VltuneError> {
  const { line, column } = await placeOf(path, offset);
  return new VltuneError('ERR_BAD_DATA', `${path}, line ${line}, column ${column}: ${message}`);
}

/** The first byte that breaks UTF-8 in `bytes`. */
function firstInvalidByte(bytes: Buffer): number {
  const text = bytes.toString('utf8');
  for (let at = text.indexOf('\ufffd'); at >= 0; at = text.indexOf('\ufffd', at + 1)) {
    const offset = Buffer.byteLength(text.slice(0, at));
    // The replacement character may itself stand in the text, as EF BF BD.
    if (bytes[offset] !== 0xef || bytes[offset + 1] !== 0xbf || bytes[offset + 2] !== 0xbd) return offset;
  }
  return 0;
}

/** Whether brackets nest deeper than MAX_DEPTH; strings are skipped. Returns the offset of the bracket too deep, or -1. */
function tooDeepAt(bytes: Buffer, start: number, end: number): number {
  if (end - start <= MAX_DEPTH) return -1;
  let depth = 0;
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!;
    if (byte === QUOTE) {
      for (i++; i < end && bytes[i] !== QUOTE; i++) if (bytes[i] === BACKSLASH) i++;
    } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      if (++depth > MAX_DEPTH) return i;
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
      depth--;
    }
  }
  return -1;
}

/** A window over a file: bytes `keep`..`end` of `bytes` are held; `fill` reads on, and moves or grows the window as needed. */
class Window {
  readonly path: string;
  bytes: Buffer = Buffer.allocUnsafe(BLOCK_BYTES);
  /** File offset of `bytes[0]`. */
  base = 0;
  keep = 0;
  at = 0;
  end = 0;
  ended = false;
  private readonly handle: FileHandle;
  private readonly size: number;
  private readonly options: RecordOptions;

  constructor(path: string, handle: FileHandle, size: number, options: RecordOptions) {
    this.path = path;
    this.handle = handle;
    this.size = size;
    this.options = options;
  }

  /** Reads one block more. False at the end of the file. */
  async fill(): Promise<boolean> {
    if (this.options.signal?.aborted) throw cancelled();
    if (this.ended) return false;
    if (this.keep > 0) {
      this.bytes.copy(this.bytes, 0, this.keep, this.end);
      this.base += this.keep;
      this.at -= this.keep;
      this.end -= this.keep;
      this.keep = 0;
    }
    if (this.bytes.length - this.end < BLOCK_BYTES / 2) {
      if (this.end >= MAX_RECORD_BYTES) {
        throw await syntaxError(this.path, this.base, `a record is longer than ${MAX_RECORD_BYTES / 1024 / 1024} MiB`);
      }
      const grown = Buffer.allocUnsafe(this.bytes.length * 2);
      this.bytes.copy(grown, 0, 0, this.end);
      this.bytes = grown;
    } else if (this.bytes.length > 8 * BLOCK_BYTES && this.end < BLOCK_BYTES) {
      this.bytes = Buffer.from(this.bytes.subarray(0, BLOCK_BYTES * 2)); // a long record has passed: give its memory back
    }
    const { bytesRead } = await this.handle.read(this.bytes, this.end, this.bytes.length - this.end, null);
    if (bytesRead === 0) {
      this.ended = true;
      return false;
    }
    if (this.base === 0 && this.end === 0 && bytesRead >= 2) this.skipMark(bytesRead);
    this.end += bytesRead;
    this.options.onBytes?.(this.base + this.end, Math.max(this.size, this.base + this.end));
    return true;
  }

  private skipMark(length: number): void {
    const [a, b, c] = this.bytes;
    if (length >= 3 && a === 0xef && b === 0xbb && c === 0xbf) this.keep = this.at = 3;
    if ((a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff)) {
      throw new VltuneError('ERR_BAD_DATA', `${this.path}, line 1: the text is UTF-16; expected UTF-8`);
    }
  }

  /** The text of a range of the window; `known` says what was already found out about its encoding. */
  async decode(start: number, end: number, known: 'ascii' | 'utf8' | 'unknown'): Promise<string> {
    if (known === 'ascii') return this.bytes.toString('latin1', start, end);
    if (known === 'unknown') {
      const range = this.bytes.subarray(start, end);
      if (!isUtf8(range)) throw await syntaxError(this.path, this.base + start + firstInvalidByte(range), 'invalid UTF-8');
    }
    return this.bytes.toString('utf8', start, end);
  }

  /** The value of a JSON text that starts at `start` of the window. */
  async parse(text: string, start: number): Promise<unknown> {
    try {
      return JSON.parse(text);
    } catch {
      try {
        return plainValue(parseExact(text)); // what only Python's reader takes: NaN and the infinities
      } catch (cause) {
        if (!(cause instanceof JsonSyntaxError)) throw cause;
        const offset = this.base + start + Buffer.byteLength(text.slice(0, cause.offset));
        throw await syntaxError(this.path, offset, cause.message);
      }
    }
  }

  async fail(message: string, at: number = this.at): Promise<never> {
    throw await syntaxError(this.path, this.base + at, message);
  }
}

async function checkDepth(window: Window, start: number, end: number): Promise<void> {
  const deep = tooDeepAt(window.bytes, start, end);
  if (deep >= 0) await window.fail(`nested deeper than ${MAX_DEPTH} levels`, deep);
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === NEWLINE || byte === RETURN || byte === 0x09;
}

/** Records of a JSON Lines file. Lines end with LF, CRLF or CR, as for Python's text files; blank lines are skipped. */
async function* lineRecords(window: Window): AsyncGenerator<RawRecord[]> {
  let line = 0;
  let row = 0;
  while (true) {
    const more = await window.fill();
    const { bytes, end } = window;
    const last = more ? bytes.subarray(0, end).lastIndexOf(NEWLINE) : end - 1;
    if (last < window.at) {
      if (!more) return;
      continue;
    }
    const block = bytes.subarray(0, last + 1);
    const whole = block.subarray(window.at);
    const encoding = isAscii(whole) ? 'ascii' : isUtf8(whole) ? 'utf8' : 'unknown';
    const hasReturn = whole.includes(RETURN);
    const records: RawRecord[] = [];
    while (window.at < block.length) {
      const start = window.at;
      let stop = block.indexOf(NEWLINE, start);
      if (stop < 0) stop = block.length;
      let next = stop + 1;
      if (hasReturn) {
        const carriage = block.subarray(start, stop).indexOf(RETURN);
        if (carriage >= 0) {
          next = start + carriage === stop - 1 ? next : start + carriage + 1;
          stop = start + carriage;
        }
      }
      line++;
      window.at = next;
      let first = start;
      while (first < stop && isSpace(bytes[first]!)) first++;
      if (first === stop) continue;
      await checkDepth(window, first, stop);
      const text = pythonStrip(await window.decode(first, stop, encoding));
      if (text === '') continue;
      records.push({ value: await window.parse(text, first), text, row: ++row, line });
    }
    window.at = Math.min(window.at, end);
    window.keep = window.at;
    if (records.length > 0) yield records;
    if (!more) return;
  }
}

/** What the first pass over an object in a `.json` file found: which of its values are the records. */
type Layout = { kind: 'list' | 'members'; offset: number; line: number } | { kind: 'one' };

/** Walks over JSON values by their brackets and strings alone. */
class Scanner {
  readonly window: Window;
  line = 1;

  constructor(window: Window) {
    this.window = window;
  }

  /** Skips spaces; the byte that follows, or -1 at the end of the file. */
  async peek(): Promise<number> {
    const { window } = this;
    for (;;) {
      for (; window.at < window.end; window.at++) {
        const byte = window.bytes[window.at]!;
        if (byte === NEWLINE) this.line++;
        else if (!isSpace(byte)) return byte;
      }
      window.keep = window.at;
      if (!(await window.fill())) return -1;
    }
  }

  /** Steps over one byte if it is `byte`. */
  async take(byte: number): Promise<boolean> {
    if ((await this.peek()) !== byte) return false;
    this.window.at++;
    return true;
  }

  /** Moves to the end of the value that starts here. With `hold`, the window keeps its bytes from `keep` on. */
  async skipValue(hold: boolean): Promise<void> {
    const { window } = this;
    const first = await this.peek();
    if (first < 0) await window.fail('the file ends where a value was expected');
    window.keep = window.at;
    let depth = 0;
    let inString = false;
    let escaped = false;
    const scalar = first !== QUOTE && first !== OPEN_LIST && first !== OPEN_OBJECT;
    for (;;) {
      const { bytes, end } = window;
      let i = window.at;
      for (; i < end; i++) {
        const byte = bytes[i]!;
        if (inString) {
          if (escaped) escaped = false;
          else if (byte === BACKSLASH) escaped = true;
          else if (byte === QUOTE) {
            inString = false;
            if (depth === 0) {
              window.at = i + 1;
              return;
            }
          }
        } else if (scalar) {
          if (byte === COMMA || byte === CLOSE_LIST || byte === CLOSE_OBJECT || byte === COLON || isSpace(byte)) {
            window.at = i;
            if (i === window.keep) await window.fail(`expected a value, got "${String.fromCharCode(byte)}"`);
            return;
          }
        } else if (byte === QUOTE) {
          inString = true;
        } else if (byte === NEWLINE) {
          this.line++;
        } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
          if (++depth > MAX_DEPTH) await window.fail(`nested deeper than ${MAX_DEPTH} levels`, i);
        } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
          if (--depth === 0) {
            window.at = i + 1;
            return;
          }
        }
      }
      window.at = end;
      if (!hold) window.keep = end;
      if (!(await window.fill())) {
        if (scalar) return;
        await window.fail(inString ? 'the file ends inside a string' : 'the file ends inside an array or object');
      }
    }
  }

  /** Parses the value that starts here. */
  async value(): Promise<{ value: unknown; text: string; line: number }> {
    await this.peek();
    const { line, window } = this;
    await this.skipValue(true);
    const text = await window.decode(window.keep, window.at, 'unknown');
    return { value: await window.parse(text, window.keep), text, line };
  }

  async key(): Promise<string> {
    if ((await this.peek()) !== QUOTE) await this.window.fail('expected a key in double quotes');
    const { value } = await this.value();
    if (!(await this.take(COLON))) await this.window.fail('expected ":" after a key');
    return value as string;
  }

  /** Steps over "," (true) or `close` (false). */
  async more(close: number): Promise<boolean> {
    if (await this.take(COMMA)) return true;
    if (await this.take(close)) return false;
    const next = await this.peek();
    const got = next < 0 ? 'the end of the file' : `"${String.fromCharCode(next)}"`;
    return this.window.fail(`expected "," or "${String.fromCharCode(close)}", got ${got}`);
  }

  async end(): Promise<void> {
    if ((await this.peek()) >= 0)
      await this.window.fail('unexpected text after the end of the value (one value a line is JSON Lines: name it .jsonl)');
  }
}

/** First pass over a top-level object: only keys are kept, so memory stays flat. */
async function layoutOf(scanner: Scanner): Promise<Layout> {
  const lists = new Map<string, { offset: number; line: number }>();
  let onlyObjects = true;
  const start = { offset: scanner.window.base + scanner.window.at, line: scanner.line };
  scanner.window.at++;
  if (!(await scanner.take(CLOSE_OBJECT))) {
    do {
      const key = await scanner.key();
      const first = await scanner.peek();
      if (first !== OPEN_OBJECT) onlyObjects = false;
      if (LIST_KEYS.includes(key)) {
        // A key given twice: the last one counts, as in every JSON reader.
        if (first === OPEN_LIST) lists.set(key, { offset: scanner.window.base + scanner.window.at, line: scanner.line });
        else lists.delete(key);
      }
      await scanner.skipValue(false);
    } while (await scanner.more(CLOSE_OBJECT));
  }
  await scanner.end();
  for (const key of LIST_KEYS) {
    const list = lists.get(key);
    if (list !== undefined) return { kind: 'list', ...list };
  }
  return onlyObjects ? { kind: 'members', ...start } : { kind: 'one' };
}

const RECORDS_A_BATCH = 1024;
const BYTES_A_BATCH = 1 << 18;

/** Elements of a list, or values of an object, that starts at the scanner. */
async function* elements(scanner: Scanner, kind: 'list' | 'members'): AsyncGenerator<RawRecord[]> {
  const close = kind === 'list' ? CLOSE_LIST : CLOSE_OBJECT;
  await scanner.peek();
  scanner.window.at++;
  if (await scanner.take(close)) return;
  let records: RawRecord[] = [];
  let bytes = 0;
  let row = 0;
  do {
    if (kind === 'members') await scanner.key();
    const { value, text, line } = await scanner.value();
    records.push({ value, text, row: ++row, line });
    bytes += text.length;
    if (records.length === RECORDS_A_BATCH || bytes > BYTES_A_BATCH) {
      yield records;
      records = [];
      bytes = 0;
    }
  } while (await scanner.more(close));
  if (records.length > 0) yield records;
}

async function* documentRecords(path: string, window: Window, options: RecordOptions): AsyncGenerator<RawRecord[]> {
  const scanner = new Scanner(window);
  const first = await scanner.peek();
  if (first < 0) throw new VltuneError('ERR_BAD_DATA', `${path}: the file holds nothing but blanks`);
  if (first === OPEN_LIST) {
    yield* elements(scanner, 'list');
    await scanner.end();
    return;
  }
  if (first !== OPEN_OBJECT) await window.fail(`expected a list or an object, got "${String.fromCharCode(first)}"`);
  const layout = await layoutOf(scanner);
  const { handle, size } = await openInput(path);
  try {
    const again = new Scanner(new Window(path, handle, size, options));
    if (layout.kind === 'one') {
      const { value, text, line } = await again.value();
      yield [{ value, text, row: 1, line }];
      return;
    }
    while (again.window.base + again.window.end <= layout.offset) {
      again.window.keep = again.window.at = again.window.end;
      if (!(await again.window.fill())) await again.window.fail('the file shrank while it was read');
    }
    again.window.at = layout.offset - again.window.base;
    again.line = layout.line;
    yield* elements(again, layout.kind);
  } finally {
    await handle.close();
  }
}

/**
 * Streams the records of a file in batches. Errors: ERR_NOT_FOUND, ERR_IO, and ERR_BAD_DATA that names file, line and column of broken
 * JSON or invalid UTF-8. A file that holds no record yields nothing.
 */
export async function* readRecords(path: string, options: RecordOptions = {}): AsyncGenerator<RawRecord[]> {
  const { handle, size } = await openInput(path);
  try {
    const window = new Window(path, handle, size, options);
    if (isDocument(path)) yield* documentRecords(path, window, options);
    else yield* lineRecords(window);
  } finally {
    await handle.close();
  }
}

/** Whether a file is one JSON document by its ending; every other ending is read as JSON Lines. */
export function isDocument(path: string): boolean {
  return extname(path).toLowerCase() === '.json';
}

/** How a record is named in messages. */
export function placeName(path: string, record: { readonly row: number; readonly line: number }): string {
  return isDocument(path) ? `${path}, row ${record.row} (line ${record.line})` : `${path}, line ${record.line}`;
}
