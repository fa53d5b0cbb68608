/** A conversation from a JSON file, for `vltune generate --messages`. */
import { readFile, stat } from 'node:fs/promises';
import { type Draft, draftContent, fillGaps } from '../data/content.js';
import { JsonSyntaxError, parseExact, plainValue } from '../data/json.js';
import type { Message } from '../data/message.js';
import { isFields, RowError } from '../data/row_error.js';
import { VltuneError } from '../errors.js';
import { ioError } from '../files.js';
import { showValue } from '../options.js';

const ROLES = ['system', 'user', 'assistant'] as const;
/** No model reads a conversation of this many bytes. */
const LARGEST = 64 << 20;

/**
 * Reads a list of messages, or an object whose `messages` is one; pictures and videos are named as in a dataset's rows. ERR_NOT_FOUND, or
 * ERR_BAD_DATA naming file, place and field.
 */
export async function readMessages(path: string): Promise<readonly Message[]> {
  const value = parse(path, await readText(path));
  try {
    return messagesOf(value);
  } catch (cause) {
    if (!(cause instanceof RowError)) throw cause;
    throw new VltuneError(cause.unsupported ? 'ERR_UNSUPPORTED' : 'ERR_BAD_DATA', `${path}: ${cause.message}`, { cause });
  }
}

function messagesOf(value: unknown): readonly Message[] {
  const list = isFields(value) ? value.messages : value;
  if (!Array.isArray(list)) throw bad('messages', 'a list', list);
  if (list.length === 0) throw bad('messages', "at least a user's turn", list);
  const drafts = list.map((turn: unknown, i): Draft => {
    const field = `messages[${i}]`;
    if (!isFields(turn)) throw bad(field, 'an object with role and content', turn);
    const role = ROLES.find((name) => name === turn.role);
    if (role === undefined) throw bad(`${field}.role`, '"system", "user" or "assistant"', turn.role);
    if (role === 'system' && i > 0) throw bad(`${field}.role`, 'a system turn only at the start', turn.role);
    return { role, content: draftContent(turn.content, `${field}.content`) };
  });
  return fillGaps(drafts, isFields(value) ? value : {});
}

function bad(field: string, expected: string, got: unknown): RowError {
  return new RowError(`${field}: expected ${expected}, got ${showValue(got)}`);
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
