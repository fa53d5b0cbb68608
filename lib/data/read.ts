/**
 * Datasets as rows of messages: JSON, JSON Lines and Parquet, messages and Alpaca rows alike, told apart row by row.
 *
 * Every row is checked here, before any training: an error names the file, the line or row, and the field.
 */
import { extname } from 'node:path';
import { VltuneError } from '../errors.js';
import { alpacaTexts, INPUT_FIELDS, INSTRUCTION_FIELDS, LABEL_FIELDS, OUTPUT_FIELDS } from './alpaca.js';
import { checkColumns, type Draft, draftContent, fillGaps, holdsSomething, imageItem, MediaFound } from './content.js';
import type { Message, Role } from './message.js';
import { parquetRecords } from './parquet.js';
import { placeName, type RawRecord, readRecords } from './records.js';
import { checkText, describe, type Fields, isFields, RowError } from './row_error.js';
import { isBlank } from './text.js';

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
  /** Leave out rows that hold a picture, a video or sound. Default false: pictures and videos come with the rows, sound is refused. */
  readonly skipImages?: boolean | undefined;
  /** Called for each row left out. */
  readonly onSkip?: ((place: string) => void) | undefined;
  /** Called now and then with bytes read and bytes in all, over all files so far opened. */
  readonly onBytes?: ((file: string, read: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

const ROLE_NAMES: Readonly<Record<string, Role>> = {
  system: 'system',
  user: 'user',
  assistant: 'assistant',
  human: 'user',
  gpt: 'assistant',
};

/** Whether a turn says anything: a picture does, but not in the assistant's place. */
function hasContent({ role, content }: Message): boolean {
  if (typeof content === 'string') return !isBlank(content);
  return content.some((item) => (item.type === 'text' ? !isBlank(item.text) : role !== 'assistant'));
}

function messageList(row: Fields, list: readonly unknown[], column: string, skipMedia: boolean): readonly Message[] {
  if (list.length === 0) throw new RowError(`${column}: the list is empty; expected a user and an assistant turn`);
  const drafts: Draft[] = [];
  const fields: string[] = [];
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
    const previous = drafts.at(-1)?.role;
    if (role === 'system' ? i > 0 : role === 'user' ? previous === 'user' : previous !== 'user') {
      const expected =
        previous === undefined
          ? '"system" or "user" first'
          : `"${previous === 'user' ? 'assistant' : 'user'}" after "${previous}"`;
      throw new RowError(`${field}.${roleKey}: roles out of order: expected ${expected}, got "${role}"`);
    }
    fields.push(`${field}.${contentKey}`);
    drafts.push({ role, content: draftContent(turn[contentKey], fields.at(-1)!, skipMedia) });
  }
  const messages = fillGaps(drafts, row);
  for (const [i, message] of messages.entries()) {
    if (message.role !== 'system' && !hasContent(message))
      throw new RowError(`${fields[i]}: the ${message.role}'s text is missing or blank`);
  }
  if (messages.at(-1)!.role !== 'assistant' && !messages.some((message) => message.role === 'assistant')) {
    throw new RowError(`${column}: no assistant turn; expected a user and an assistant turn`);
  }
  return messages;
}

function alpacaMessages(row: Fields, skipMedia: boolean): readonly Message[] {
  checkColumns(row, skipMedia);
  const { user, assistant, imageField } = alpacaTexts(row);
  const withImage = imageField !== undefined && holdsSomething(row[imageField]);
  if (withImage && skipMedia) throw new MediaFound(imageField);
  if (user === '') {
    const fields = [...INSTRUCTION_FIELDS, ...INPUT_FIELDS].join(', ');
    throw new RowError(`no messages and no user text: expected "messages", or a non-blank string in one of ${fields}`);
  }
  if (assistant === '') {
    throw new RowError(
      `no assistant text: expected a non-blank string in one of ${[...OUTPUT_FIELDS, ...LABEL_FIELDS].join(', ')}`,
    );
  }
  // The converter's own form, so that a raw file trains as its converted one does: the picture after the text.
  const image = withImage ? [imageItem(row[imageField], imageField)] : [];
  const turns: Message[] = [
    { role: 'user', content: [{ type: 'text', text: checkText(user, 'the user text') }, ...image] },
    { role: 'assistant', content: [{ type: 'text', text: checkText(assistant, 'the assistant text') }] },
  ];
  return fillGaps(turns, { ...row, image: undefined });
}

function rowMessages(value: unknown, skipMedia: boolean): readonly Message[] {
  if (!isFields(value)) throw new RowError(`expected an object, got ${describe(value)}`);
  for (const column of ['messages', 'conversations']) {
    const list = value[column];
    if (list === undefined || list === null) continue;
    if (!Array.isArray(list)) throw new RowError(`${column}: expected a list of messages, got ${describe(list)}`);
    checkColumns(value, skipMedia);
    if (holdsSomething(value.tools)) throw new RowError('tools: tool definitions are not supported', true);
    return messageList(value, list, column, skipMedia);
  }
  return alpacaMessages(value, skipMedia);
}

function toRow(file: string, record: Pick<RawRecord, 'value' | 'row' | 'line'>, options: ReadOptions): Row | undefined {
  try {
    const messages = rowMessages(record.value, options.skipImages ?? false);
    return { messages, file, line: record.line, row: record.row };
  } catch (error) {
    if (error instanceof MediaFound) {
      options.onSkip?.(rowPlace({ file, ...record }));
      return undefined;
    }
    if (error instanceof RowError)
      throw new VltuneError(
        error.unsupported ? 'ERR_UNSUPPORTED' : 'ERR_BAD_DATA',
        `${rowPlace({ file, ...record })}: ${error.message}`,
      );
    throw error;
  }
}

function isParquet(file: string): boolean {
  return extname(file).toLowerCase() === '.parquet';
}

/** How a row is named in messages. */
export function rowPlace({ file, row, line }: Pick<Row, 'file' | 'row' | 'line'>): string {
  return isParquet(file) ? `${file}, row ${row}` : placeName(file, { row, line });
}

async function* fileBatches(file: string, options: ReadOptions): AsyncGenerator<Row[]> {
  const onBytes =
    options.onBytes === undefined ? undefined : (read: number, total: number) => options.onBytes?.(file, read, total);
  const batches = isParquet(file)
    ? parquetRecords(file, { onBytes, signal: options.signal })
    : readRecords(file, { onBytes, signal: options.signal });
  let records = 0;
  for await (const batch of batches) {
    records += batch.length;
    const rows: Row[] = [];
    for (const record of batch) {
      const row = toRow(file, record, options);
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
 * Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_DATA (file, line or row, field), ERR_UNSUPPORTED (a row with sound or tools), ERR_CANCELLED.
 */
export async function* readRows(files: readonly string[], options: ReadOptions = {}): AsyncGenerator<Row> {
  for await (const batch of readRowBatches(files, options)) yield* batch;
}
