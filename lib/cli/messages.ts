/** A conversation from a JSON file, for `vltune generate --messages`. */
import { readFile, stat } from 'node:fs/promises';
import { JsonSyntaxError, parseExact, plainValue } from '../data/json.js';
import type { Message, TextItem } from '../data/read.js';
import { VltuneError } from '../errors.js';
import { ioError } from '../files.js';
import { showValue } from '../options.js';

const ROLES = ['system', 'user', 'assistant'] as const;
/** No model reads a conversation of this many bytes. */
const LARGEST = 64 << 20;

/** Reads a list of messages, or an object whose `messages` is one. ERR_NOT_FOUND, or ERR_BAD_DATA naming file, place and field. */
export async function readMessages(path: string): Promise<Message[]> {
  const value = parse(path, await readText(path));
  const list = isObject(value) ? value.messages : value;
  const bad = (field: string, expected: string, got: unknown): VltuneError =>
    new VltuneError('ERR_BAD_DATA', `${path}: ${field}: expected ${expected}, got ${showValue(got)}`);
  if (!Array.isArray(list)) throw bad('messages', 'a list', list);
  if (list.length === 0) throw bad('messages', "at least a user's turn", list);
  return list.map((turn: unknown, i): Message => {
    const field = `messages[${i}]`;
    if (!isObject(turn)) throw bad(field, 'an object with role and content', turn);
    const role = ROLES.find((name) => name === turn.role);
    if (role === undefined) throw bad(`${field}.role`, '"system", "user" or "assistant"', turn.role);
    if (role === 'system' && i > 0) throw bad(`${field}.role`, 'a system turn only at the start', turn.role);
    if (typeof turn.content === 'string') return { role, content: turn.content };
    if (!Array.isArray(turn.content)) throw bad(`${field}.content`, 'a text or a list of texts', turn.content);
    return {
      role,
      content: turn.content.map(
        (item: unknown, j): TextItem =>
          textItem(item, (got) => bad(`${field}.content[${j}]`, '{"type": "text", "text": "…"}', got)),
      ),
    };
  });
}

function textItem(item: unknown, bad: (got: unknown) => VltuneError): TextItem {
  if (!isObject(item) || item.type !== 'text' || typeof item.text !== 'string') throw bad(item);
  return { type: 'text', text: item.text };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function readText(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    const found = await stat(path);
    if (found.isDirectory()) throw new VltuneError('ERR_BAD_DATA', `${path}: expected a file, found a folder`);
    if (found.size > LARGEST)
      throw new VltuneError('ERR_BAD_DATA', `${path}: ${found.size} bytes are too many for a conversation`);
    bytes = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new VltuneError('ERR_NOT_FOUND', `${path}: no such file`, { cause: error });
    throw ioError(error, 'read', path);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new VltuneError('ERR_BAD_DATA', `${path}: not valid UTF-8`, { cause });
  }
}

function parse(path: string, text: string): unknown {
  try {
    return plainValue(parseExact(text));
  } catch (cause) {
    if (!(cause instanceof JsonSyntaxError)) throw cause;
    const before = text.slice(0, cause.offset).split('\n');
    throw new VltuneError(
      'ERR_BAD_DATA',
      `${path}:${before.length}:${before.at(-1)!.length + 1}: not valid JSON: ${cause.message}`,
      { cause },
    );
  }
}
