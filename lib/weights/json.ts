/** JSON files of a model or adapter folder: read with errors that name the file and the place in it, and what a field should hold. */
import { readFile, stat } from 'node:fs/promises';
import { JsonSyntaxError, parseExact } from '../data/json.js';
import { type ErrorCode, VltuneError } from '../errors.js';
import { ioError } from '../files.js';

export type JsonObject = Readonly<Record<string, unknown>>;

/** Configs and indices are small; anything larger is not one of them. */
const LARGEST_JSON = 256 * 1024 * 1024;

/** Decodes UTF-8 strictly (a byte order mark is dropped); throws `code` naming `where`. */
export function decodeUtf8(bytes: Uint8Array, where: string, code: ErrorCode): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new VltuneError(code, `${where}: not valid UTF-8`, { cause });
  }
}

/** Parses a JSON text that must hold an object; throws `code` naming `where`, line and column. */
export function parseJsonObject(text: string, where: string, code: ErrorCode): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new VltuneError(code, `${where}: not valid JSON${mistakeIn(text) ?? `: ${printable((cause as Error).message)}`}`, {
      cause,
    });
  }
  if (!isJsonObject(value)) throw new VltuneError(code, `${where}: expected a JSON object, got ${describe(value)}`);
  return value;
}

/** Place and kind of the mistake in a text that JSON.parse refused (it does not always say where). */
function mistakeIn(text: string): string | undefined {
  try {
    parseExact(text);
  } catch (error) {
    if (error instanceof JsonSyntaxError) return ` at ${lineAndColumn(text, error.offset)}: ${printable(error.message)}`;
  }
  return undefined;
}

function lineAndColumn(text: string, offset: number): string {
  const before = text.slice(0, offset).split('\n');
  return `line ${before.length}, column ${before.at(-1)!.length + 1}`;
}

/** A text from outside, short and on one line, for an error message. */
export function printable(text: string, length = 200): string {
  const short = text.length > length ? `${text.slice(0, length)}…` : text;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
  return short.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Reads a JSON file that must hold an object. A missing file is `code` too: the folder is not what it should be. */
export async function readJsonObject(path: string, code: ErrorCode): Promise<JsonObject> {
  let bytes: Uint8Array;
  try {
    const found = await stat(path);
    if (!found.isFile())
      throw new VltuneError(code, `${path}: expected a file, found ${found.isDirectory() ? 'a folder' : 'something else'}`);
    if (found.size > LARGEST_JSON)
      throw new VltuneError(code, `${path}: ${found.size} bytes are too many for a JSON file of this kind`);
    bytes = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new VltuneError(code, `${path}: no such file`, { cause: error });
    throw ioError(error, 'read', path);
  }
  return parseJsonObject(decodeUtf8(bytes, path, code), path, code);
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value in a few words, for "expected …, got …". */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return 'an object';
  if (typeof value === 'string') return `"${printable(value, 80)}"`;
  return String(value);
}

/** A double as Python's `repr` writes it: always a point or an exponent, which has at least two digits. */
export function pythonFloat(value: number): string {
  if (Object.is(value, -0)) return '-0.0';
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? 'Infinity' : '-Infinity';
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e16)) {
    return value.toExponential().replace(/e([+-])(\d)$/, 'e$10$2');
  }
  return Number.isInteger(value) ? `${BigInt(value)}.0` : String(value);
}
