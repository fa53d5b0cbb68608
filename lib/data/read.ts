/**
 * Datasets as rows of messages: JSON, JSON Lines and Parquet, messages and Alpaca rows alike, told apart row by row.
 *
 * Every row is checked here, before any training: an error names the file, the line or row, and the field.
 */
import { extname } from 'node:path';
import { VltuneError } from '../errors.js';
import { alpacaTexts, INPUT_FIELDS, INSTRUCTION_FIELDS, LABEL_FIELDS, OUTPUT_FIELDS } from './alpaca.js';
import { parquetRecords } from './parquet.js';
import { placeName, type RawRecord, readRecords } from './records.js';
import { isBlank, isWellFormed } from './text.js';

export type Role = 'system' | 'user' | 'assistant';

export interface TextItem {
  readonly type: 'text';
  readonly text: string;
}

/** One turn. Content keeps the form it has in the row, since chat templates treat the two forms apart. */
export interface Message {
  readonly role: Role;
  readonly content: string | readonly TextItem[];
}

export interface Row {
  /** At least one user and one assistant turn, alternating, after at most one system turn. */
  readonly messages: readonly Message[];
  readonly file: string;
  /** 1-based line where the row starts; for Parquet the 1-based row. */
  readonly line: number;
  /** 1-based count of rows in the file. */
  readonly row: number;
}

export interface ReadOptions {
  /** Leave out rows that hold an image or a video; without it they are refused by name. Default false. */
  readonly skipImages?: boolean | undefined;
  /** Called for each row left out. */
  readonly onSkip?: ((place: string) => void) | undefined;
  /** Called now and then with bytes read and bytes in all, over all files so far opened. */
  readonly onBytes?: ((file: string, read: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A mistake in a row, before it is known where the row stands. */
class RowError extends Error {
  readonly unsupported: boolean;

  constructor(message: string, unsupported = false) {
    super(message);
    this.unsupported = unsupported;
  }
}

/** Signals a row with an image or a video in the named field. */
class MediaError extends Error {}

type Fields = Readonly<Record<string, unknown>>;

const ROLE_NAMES: Readonly<Record<string, Role>> = {
  system: 'system',
  user: 'user',
  assistant: 'assistant',
  human: 'user',
  gpt: 'assistant',
};
const MEDIA_TYPES: ReadonlySet<string> = new Set([
  'image',
  'image_url',
  'input_image',
  'video',
  'video_url',
  'audio',
  'audio_url',
  'input_audio',
]);
const MEDIA_COLUMNS: readonly string[] = ['images', 'image', 'videos', 'video', 'audios', 'audio'];

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** How a value is named in an error message: its kind and, if short, itself. */
function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'string') return value.length > 40 ? `${JSON.stringify(value.slice(0, 40))}…` : JSON.stringify(value);
  if (typeof value === 'object') return 'an object';
  return `the ${typeof value} ${String(value)}`;
}

/** Whether a media item or column holds anything: the converter's `{"type":"image","image":null}` does not. */
function holdsSomething(value: unknown): boolean {
  if (value === null || value === undefined || value === '') return false;
  if (Array.isArray(value)) return value.some(holdsSomething);
  if (isFields(value) && !(value instanceof Uint8Array)) return Object.values(value).some(holdsSomething);
  return true;
}

function checkText(text: string, field: string): string {
  if (!isWellFormed(text)) throw new RowError(`${field}: the text holds half of a surrogate pair, which no UTF-8 text can hold`);
  return text;
}

function contentOf(value: unknown, field: string): string | TextItem[] {
  if (typeof value === 'string') return checkText(value, field);
  if (!Array.isArray(value)) throw new RowError(`${field}: expected a string or a list of items, got ${describe(value)}`);
  const items: TextItem[] = [];
  for (const [i, item] of value.entries()) {
    const name = `${field}[${i}]`;
    if (typeof item === 'string') {
      items.push({ type: 'text', text: checkText(item, name) });
      continue;
    }
    if (!isFields(item)) throw new RowError(`${name}: expected an item such as {"type":"text","text":…}, got ${describe(item)}`);
    const { type } = item;
    if (type === 'text') {
      if (typeof item.text !== 'string') throw new RowError(`${name}.text: expected a string, got ${describe(item.text)}`);
      items.push({ type: 'text', text: checkText(item.text, `${name}.text`) });
    } else if (typeof type === 'string' && MEDIA_TYPES.has(type)) {
      const { type: _, text: __, ...payload } = item;
      if (holdsSomething(payload)) throw new MediaError(name);
    } else {
      throw new RowError(`${name}.type: expected "text" or "image", got ${describe(type)}`);
    }
  }
  return items;
}

function hasText(content: string | readonly TextItem[]): boolean {
  return typeof content === 'string' ? !isBlank(content) : content.some((item) => !isBlank(item.text));
}

function messageList(list: readonly unknown[], column: string): Message[] {
  if (list.length === 0) throw new RowError(`${column}: the list is empty; expected a user and an assistant turn`);
  const messages: Message[] = [];
  for (const [i, turn] of list.entries()) {
    const field = `${column}[${i}]`;
    if (!isFields(turn)) throw new RowError(`${field}: expected an object with role and content, got ${describe(turn)}`);
    const [roleKey, contentKey] = 'role' in turn || !('from' in turn) ? ['role', 'content'] : ['from', 'value'];
    const given = turn[roleKey];
    const role = typeof given === 'string' && Object.hasOwn(ROLE_NAMES, given) ? ROLE_NAMES[given] : undefined;
    if (role === undefined) {
      throw new RowError(`${field}.${roleKey}: expected "system", "user" or "assistant", got ${describe(given)}`);
    }
    if (holdsSomething(turn.tool_calls)) throw new RowError(`${field}.tool_calls: tool calls are not supported`, true);
    const previous = messages.at(-1)?.role;
    if (role === 'system' ? i > 0 : role === 'user' ? previous === 'user' : previous !== 'user') {
      const expected =
        previous === undefined
          ? '"system" or "user" first'
          : `"${previous === 'user' ? 'assistant' : 'user'}" after "${previous}"`;
      throw new RowError(`${field}.${roleKey}: roles out of order: expected ${expected}, got "${role}"`);
    }
    const content = contentOf(turn[contentKey], `${field}.${contentKey}`);
    if (role !== 'system' && !hasText(content))
      throw new RowError(`${field}.${contentKey}: the ${role}'s text is missing or blank`);
    messages.push({ role, content });
  }
  if (messages.at(-1)!.role !== 'assistant' && !messages.some((message) => message.role === 'assistant')) {
    throw new RowError(`${column}: no assistant turn; expected a user and an assistant turn`);
  }
  return messages;
}

function alpacaMessages(row: Fields): Message[] {
  const { user, assistant, imageField } = alpacaTexts(row);
  if (imageField !== undefined && holdsSomething(row[imageField])) throw new MediaError(imageField);
  if (user === '') {
    const fields = [...INSTRUCTION_FIELDS, ...INPUT_FIELDS].join(', ');
    throw new RowError(`no messages and no user text: expected "messages", or a non-blank string in one of ${fields}`);
  }
  if (assistant === '') {
    throw new RowError(
      `no assistant text: expected a non-blank string in one of ${[...OUTPUT_FIELDS, ...LABEL_FIELDS].join(', ')}`,
    );
  }
  // The converter's own form, so that a raw file trains as its converted one does.
  return [
    { role: 'user', content: [{ type: 'text', text: checkText(user, 'the user text') }] },
    { role: 'assistant', content: [{ type: 'text', text: checkText(assistant, 'the assistant text') }] },
  ];
}

function rowMessages(value: unknown): Message[] {
  if (!isFields(value)) throw new RowError(`expected an object, got ${describe(value)}`);
  for (const column of ['messages', 'conversations']) {
    const list = value[column];
    if (list === undefined || list === null) continue;
    if (!Array.isArray(list)) throw new RowError(`${column}: expected a list of messages, got ${describe(list)}`);
    for (const media of MEDIA_COLUMNS) if (holdsSomething(value[media])) throw new MediaError(media);
    if (holdsSomething(value.tools)) throw new RowError('tools: tool definitions are not supported', true);
    return messageList(list, column);
  }
  return alpacaMessages(value);
}

function toRow(
  file: string,
  record: Pick<RawRecord, 'value' | 'row' | 'line'>,
  place: () => string,
  options: ReadOptions,
): Row | undefined {
  try {
    return { messages: rowMessages(record.value), file, line: record.line, row: record.row };
  } catch (error) {
    if (error instanceof MediaError) {
      if (options.skipImages) {
        options.onSkip?.(place());
        return undefined;
      }
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `${place()}: ${error.message}: training on images, video and sound is not built yet (leave such rows out with --skip-images)`,
      );
    }
    if (error instanceof RowError)
      throw new VltuneError(error.unsupported ? 'ERR_UNSUPPORTED' : 'ERR_BAD_DATA', `${place()}: ${error.message}`);
    throw error;
  }
}

async function* fileBatches(file: string, options: ReadOptions): AsyncGenerator<Row[]> {
  const onBytes =
    options.onBytes === undefined ? undefined : (read: number, total: number) => options.onBytes?.(file, read, total);
  const parquet = extname(file).toLowerCase() === '.parquet';
  const batches = parquet
    ? parquetRecords(file, { onBytes, signal: options.signal })
    : readRecords(file, { onBytes, signal: options.signal });
  let records = 0;
  for await (const batch of batches) {
    records += batch.length;
    const rows: Row[] = [];
    for (const record of batch) {
      const place = () => (parquet ? `${file}, row ${record.row}` : placeName(file, record));
      const row = toRow(file, record, place, options);
      if (row !== undefined) rows.push(row);
    }
    if (rows.length > 0) yield rows;
  }
  if (records === 0) throw new VltuneError('ERR_BAD_DATA', `${file}: the file holds no rows`);
}

/** As `readRows`, in batches of up to about a thousand rows: for those who read millions. */
export async function* readRowBatches(files: readonly string[], options: ReadOptions = {}): AsyncGenerator<Row[]> {
  if (files.length === 0) throw new VltuneError('ERR_USAGE', 'no dataset file was given');
  for (const file of files) yield* fileBatches(file, options);
}

/**
 * Streams the rows of dataset files in their order: messages (`messages` or `conversations`, with role and content or from and value)
 * or Alpaca fields, from JSON, JSON Lines or Parquet. Memory does not grow with the files.
 *
 * Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_DATA (file, line or row, field), ERR_UNSUPPORTED (a row with an image or tools), ERR_CANCELLED.
 */
export async function* readRows(files: readonly string[], options: ReadOptions = {}): AsyncGenerator<Row> {
  for await (const batch of readRowBatches(files, options)) yield* batch;
}
