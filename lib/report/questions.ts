/**
 * Questions that were asked before and after training, with their pictures: `questions.json` in the run folder, a list of
 *
 *   { "question": "What colour is the circle?", "image": "pictures/7.png", "alt": "a red circle and a blue star", "group": "colour",
 *     "expected": "red", "before": "blue", "after": "red", "rightBefore": false, "rightAfter": true }
 *
 * PNG, JPEG, WebP, GIF and AVIF are taken. Pictures become data: URLs, large ones made smaller first.
 */
import { readFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { VltuneError } from '../errors.js';
import { ioError } from '../files.js';
import { nearestName } from '../options.js';
import { decodeUtf8, describe, isJsonObject, type JsonObject, printable } from '../weights/json.js';

export const QUESTIONS_FILE = 'questions.json';

/** An entry of the file. */
export interface QuestionEntry {
  readonly question: string;
  /** A path, from the file's folder or absolute, or a data: URL. */
  readonly image?: string;
  /** What the picture shows, for who does not see it. */
  readonly alt?: string;
  /** Accuracy is told by group, too. */
  readonly group?: string;
  readonly expected?: string;
  readonly before: string;
  readonly after: string;
  /** Both or neither. */
  readonly rightBefore?: boolean;
  readonly rightAfter?: boolean;
}

export interface Picture {
  readonly dataUrl: string;
  readonly width: number;
  readonly height: number;
}

export interface QuestionRecord {
  readonly question: string;
  readonly picture: Picture | undefined;
  readonly alt: string | undefined;
  readonly group: string | undefined;
  readonly expected: string | undefined;
  readonly before: string;
  readonly after: string;
  /** Undefined where nobody judged. */
  readonly right: { readonly before: boolean; readonly after: boolean } | undefined;
}

/** Right answers of those that were judged. */
export interface Accuracy {
  /** Undefined: of all groups together. */
  readonly group: string | undefined;
  readonly asked: number;
  readonly before: number;
  readonly after: number;
}

type Field = keyof QuestionEntry;
const FIELDS: readonly Field[] = [
  'question',
  'image',
  'alt',
  'group',
  'expected',
  'before',
  'after',
  'rightBefore',
  'rightAfter',
];

/** Reads the file and its pictures. ERR_NOT_FOUND; ERR_BAD_DATA names the file, the question (from 1) and the field. */
export async function readQuestions(path: string): Promise<QuestionRecord[]> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') throw new VltuneError('ERR_NOT_FOUND', `${path}: no such file`, { cause: error });
    throw ioError(error, 'read', path);
  });
  let list: unknown;
  try {
    list = JSON.parse(decodeUtf8(bytes, path, 'ERR_BAD_DATA'));
  } catch (error) {
    if (error instanceof VltuneError) throw error;
    throw new VltuneError('ERR_BAD_DATA', `${path}: not valid JSON: ${printable((error as Error).message)}`, { cause: error });
  }
  if (!Array.isArray(list)) throw new VltuneError('ERR_BAD_DATA', `${path}: expected a list of questions, got ${describe(list)}`);
  const questions: QuestionRecord[] = [];
  for (const [i, entry] of list.entries()) questions.push(await readQuestion(entry, `${path}: question ${i + 1}`, dirname(path)));
  return questions;
}

async function readQuestion(entry: unknown, where: string, folder: string): Promise<QuestionRecord> {
  const fail = (reason: string): never => {
    throw new VltuneError('ERR_BAD_DATA', `${where}: ${reason}`);
  };
  if (!isJsonObject(entry)) return fail(`expected an object, got ${describe(entry)}`);
  for (const key of Object.keys(entry)) {
    if (FIELDS.includes(key as Field)) continue;
    const near = nearestName(key, FIELDS);
    fail(`${printable(key, 40)}: unknown field${near === undefined ? '' : `; did you mean ${near}?`}`);
  }
  const optional = <T>(key: Field, type: 'string' | 'boolean', expected: string): T | undefined => {
    const value = (entry as JsonObject)[key] ?? undefined;
    return value === undefined || typeof value === type
      ? (value as T)
      : fail(`${key}: expected ${expected}, got ${describe(value)}`);
  };
  const text = (key: Field): string | undefined => optional<string>(key, 'string', 'a text');
  const needed = (key: Field): string => text(key) ?? fail(`${key}: expected a text, got nothing`);
  const before = optional<boolean>('rightBefore', 'boolean', 'true or false');
  const after = optional<boolean>('rightAfter', 'boolean', 'true or false');
  if ((before === undefined) !== (after === undefined)) fail('expected both rightBefore and rightAfter, or neither');
  const image = text('image');
  return {
    question: needed('question'),
    picture: image === undefined ? undefined : await readPicture(image, folder, `${where}: image`),
    alt: text('alt'),
    group: text('group'),
    expected: text('expected'),
    before: needed('before'),
    after: needed('after'),
    right: before === undefined || after === undefined ? undefined : { before, after },
  };
}

/** Formats that browsers show; by sharp's names. */
const FORMATS: ReadonlySet<string> = new Set(['png', 'jpeg', 'webp', 'gif', 'avif']);
/** A picture with longer sides or more bytes is made smaller: nobody sees more of it in a report. */
const MAX_SIDE = 480;
const MAX_BYTES = 96 * 1024;

async function readPicture(image: string, folder: string, where: string): Promise<Picture> {
  const isData = image.startsWith('data:');
  const shown = isData ? 'a data: URL' : printable(image, 80);
  const bytes = isData ? dataBytes(image, where) : await fileBytes(image, folder, where);
  const { default: sharp } = await import('sharp');
  try {
    const picture = sharp(bytes, { failOn: 'error' });
    const { format, width, height } = await picture.metadata();
    const name = format === 'heif' ? 'avif' : format;
    if (!FORMATS.has(name)) throw new Error(`it is ${name}`);
    if (width <= MAX_SIDE && height <= MAX_SIDE && bytes.byteLength <= MAX_BYTES) {
      await picture.stats(); // decodes it: a broken picture is told here, not left blank in the report
      return { dataUrl: `data:image/${name};base64,${bytes.toString('base64')}`, width, height };
    }
    const { data, info } = await picture
      .autoOrient()
      .resize(MAX_SIDE, MAX_SIDE, { fit: 'inside', withoutEnlargement: true })
      .webp({ quality: 85 })
      .toBuffer({ resolveWithObject: true });
    return { dataUrl: `data:image/webp;base64,${data.toString('base64')}`, width: info.width, height: info.height };
  } catch (error) {
    throw new VltuneError(
      'ERR_BAD_DATA',
      `${where}: expected a PNG, JPEG, WebP, GIF or AVIF picture, got ${shown} (${printable((error as Error).message)})`,
      { cause: error },
    );
  }
}

function dataBytes(url: string, where: string): Buffer {
  const base64 = /^data:image\/[a-z0-9.+-]+;base64,([A-Za-z0-9+/=\s]+)$/i.exec(url)?.[1];
  if (base64 === undefined) {
    throw new VltuneError('ERR_BAD_DATA', `${where}: expected data:image/…;base64,…, got "${printable(url, 40)}"`);
  }
  return Buffer.from(base64, 'base64');
}

async function fileBytes(path: string, folder: string, where: string): Promise<Buffer> {
  try {
    return await readFile(resolve(folder, path));
  } catch (error) {
    const reason = ioError(error, 'read', printable(path, 120)).message;
    throw new VltuneError('ERR_BAD_DATA', `${where}: ${reason} (from ${basename(folder) || folder})`, { cause: error });
  }
}

/** Accuracy by group in the order of their appearance (none if there are fewer than two), then of all; empty if nobody judged. */
export function accuracies(questions: readonly QuestionRecord[]): Accuracy[] {
  const judged = questions.filter(({ right }) => right !== undefined);
  if (judged.length === 0) return [];
  const count = (group: string | undefined, list: readonly QuestionRecord[]): Accuracy => ({
    group,
    asked: list.length,
    before: list.filter(({ right }) => right!.before).length,
    after: list.filter(({ right }) => right!.after).length,
  });
  const groups = [...new Set(judged.map(({ group }) => group ?? 'other'))];
  const byGroup = groups.map((name) =>
    count(
      name,
      judged.filter(({ group }) => (group ?? 'other') === name),
    ),
  );
  return [...(groups.length > 1 ? byGroup : []), count(undefined, judged)];
}
