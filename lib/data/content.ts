/**
 * The content of turns: texts, pictures and videos, in the spellings that datasets have.
 *
 * An item is `{"type":"text","text":…}`, `{"type":"image","image":…}` (also `url`, `path`, `base64`), `{"type":"image_url","image_url":…}`,
 * or `{"type":"video","video":…}` (with `fps` for a list or folder of frames). A source is a path, a URL, base64, or what `datasets`
 * stores (`{"bytes":…,"path":…}`). An item without a source is a gap, which the row's column `images` (or `videos`) fills in order, as
 * in TRL. Where there is no gap, `<image>` in the text of a turn is one (LLaVA, LLaMA-Factory, ms-swift), and where there is none either,
 * the column's media stand before the first user's text. `{"image":null}` in a row without such a column is no picture: the seed's
 * converter writes it.
 */
import type { MediaSource } from './media/locate.js';
import type { VideoSource } from './media/video_source.js';
import type { ContentItem, ImageItem, MediaItem, Message, Role, VideoItem } from './message.js';
import { checkText, describe, type Fields, isFields, RowError } from './row_error.js';

type Kind = MediaItem['type'];

/** Signals a row that holds media in the named field, to a reader that leaves such rows out. */
export class MediaFound extends Error {}

/** The place of a picture or video whose source is elsewhere in the row. */
interface Gap {
  readonly type: 'gap';
  readonly kind: Kind;
  readonly field: string;
  /** Its source was given, as null: no gap if the row has no column of sources. */
  readonly empty: boolean;
}

/** A turn whose gaps are not filled yet. */
export interface Draft {
  readonly role: Role;
  readonly content: string | readonly (ContentItem | Gap)[];
}

const KINDS: ReadonlyMap<string, Kind | 'sound'> = new Map<string, Kind | 'sound'>([
  ['image', 'image'],
  ['image_url', 'image'],
  ['input_image', 'image'],
  ['video', 'video'],
  ['video_url', 'video'],
  ['audio', 'sound'],
  ['audio_url', 'sound'],
  ['input_audio', 'sound'],
]);
/** Where an item of a kind has its source, in the order in which transformers looks. */
const SOURCE_KEYS: Readonly<Record<Kind, readonly string[]>> = {
  image: ['image', 'url', 'path', 'base64', 'image_url'],
  video: ['video', 'url', 'path', 'video_url'],
};
const COLUMNS: Readonly<Record<Kind, readonly string[]>> = { image: ['images', 'image'], video: ['videos', 'video'] };
const MEDIA_COLUMNS: readonly string[] = [...COLUMNS.image, ...COLUMNS.video];
const SOUND_COLUMNS: readonly string[] = ['audios', 'audio'];
const TAGS: Readonly<Record<Kind, string>> = { image: '<image>', video: '<video>' };
const NAMES: Readonly<Record<Kind, string>> = { image: 'picture', video: 'video' };

const MOST_FPS = 1e6;

/** Whether a media item or column holds anything: the converter's `{"type":"image","image":null}` does not. */
export function holdsSomething(value: unknown): boolean {
  if (value === null || value === undefined || value === '') return false;
  if (value instanceof Uint8Array) return value.length > 0;
  if (Array.isArray(value)) return value.some(holdsSomething);
  if (isFields(value)) return Object.values(value).some(holdsSomething);
  return true;
}

function soundError(field: string): RowError {
  return new RowError(`${field}: sound is not supported (leave such rows out with --skip-images)`, true);
}

/** One file's source, or undefined where there is none in the value. `keys`: where an object has it, best first. */
function fileSource(value: unknown, field: string, keys: readonly string[]): MediaSource | undefined {
  if (typeof value === 'string' && value !== '') return checkText(value, field);
  if (value instanceof Uint8Array && value.length > 0) return value;
  if (!isFields(value)) return undefined;
  const { bytes, path } = value;
  if (bytes instanceof Uint8Array && bytes.length > 0) return { bytes, path: typeof path === 'string' ? path : null };
  const key = ['bytes', ...keys].find((name) => holdsSomething(value[name]));
  return key === undefined ? undefined : fileSource(value[key], `${field}.${key}`, keys);
}

function imageSource(value: unknown, field: string): MediaSource {
  const source = fileSource(value, field, SOURCE_KEYS.image);
  if (source !== undefined) return source;
  throw new RowError(`${field}: expected a picture's path, URL, base64 or {"bytes":…,"path":…}, got ${describe(value)}`);
}

function videoSource(value: unknown, field: string): VideoSource {
  if (Array.isArray(value) && value.length > 0) return value.map((frame, i) => imageSource(frame, `${field}[${i}]`));
  const source = fileSource(value, field, SOURCE_KEYS.video);
  if (source !== undefined) return source;
  throw new RowError(`${field}: expected a video's path or URL, a folder of frames, or a list of them, got ${describe(value)}`);
}

/** `fps`: of an item with frames. */
function mediaItem(kind: Kind, value: unknown, field: string, fps?: unknown): MediaItem {
  if (kind === 'image') return { type: 'image', image: imageSource(value, field), field };
  const video: VideoItem = { type: 'video', video: videoSource(value, field), field };
  if (fps === undefined || fps === null) return video;
  if (typeof fps !== 'number' || !(fps > 0 && fps <= MOST_FPS))
    throw new RowError(`${field}.fps: expected a number above 0, at most ${MOST_FPS}, got ${describe(fps)}`);
  return { ...video, fps };
}

/** A picture, a video or its gap; undefined for an item of sound that holds nothing. */
function draftMedia(item: Fields, kind: Kind | 'sound', field: string, skipMedia: boolean): MediaItem | Gap | undefined {
  const { type: _, text: __, ...payload } = item;
  const holds = holdsSomething(payload);
  if (skipMedia && holds) throw new MediaFound(field);
  if (kind === 'sound') {
    if (holds) throw soundError(field);
    return undefined;
  }
  const keys = SOURCE_KEYS[kind];
  const key = keys.find((name) => holdsSomething(item[name]));
  if (key !== undefined) return mediaItem(kind, item[key], field, item.fps);
  return { type: 'gap', kind, field, empty: keys.some((name) => Object.hasOwn(item, name)) };
}

/** A turn's content. Throws RowError, or MediaFound for an item with media where they are not wanted. */
export function draftContent(value: unknown, field: string, skipMedia = false): string | (ContentItem | Gap)[] {
  if (typeof value === 'string') return checkText(value, field);
  if (!Array.isArray(value)) throw new RowError(`${field}: expected a string or a list of items, got ${describe(value)}`);
  const items: (ContentItem | Gap)[] = [];
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
      continue;
    }
    const kind = typeof type === 'string' ? KINDS.get(type) : undefined;
    if (kind === undefined) throw new RowError(`${name}.type: expected "text", "image" or "video", got ${describe(type)}`);
    const media = draftMedia(item, kind, name, skipMedia);
    if (media !== undefined) items.push(media);
  }
  return items;
}

/** A column of a row, and what is in it. */
interface MediaColumn {
  readonly name: string;
  readonly media: readonly MediaItem[];
}

/** The media in a row's own columns; undefined where they are absent or empty. */
function columnOf(row: Fields, kind: Kind): MediaColumn | undefined {
  const name = COLUMNS[kind].find((column) => holdsSomething(row[column]));
  if (name === undefined) return undefined;
  const value = row[name];
  // A list under `video` is the frames of one.
  const list = Array.isArray(value) && name !== 'video' ? value : undefined;
  const media = list?.map((source, i) => mediaItem(kind, source, `${name}[${i}]`)) ?? [mediaItem(kind, value, name)];
  return { name, media };
}

function isFilled(drafts: readonly Draft[]): drafts is readonly Message[] {
  return drafts.every(({ content }) => typeof content === 'string' || content.every((item) => item.type !== 'gap'));
}

function gapsOf(drafts: readonly Draft[], kind: Kind): Gap[] {
  return drafts.flatMap(({ content }) =>
    typeof content === 'string' ? [] : (content.filter((item) => item.type === 'gap' && item.kind === kind) as Gap[]),
  );
}

/** Puts media into gaps, in order. */
function filled(drafts: readonly Draft[], gaps: ReadonlySet<Gap>, media: readonly MediaItem[]): Draft[] {
  let next = 0;
  return drafts.map(({ role, content }) => ({
    role,
    content:
      typeof content === 'string'
        ? content
        : content.map((item) => (item.type === 'gap' && gaps.has(item) ? media[next++]! : item)),
  }));
}

/** How often a tag stands in the texts of a turn. */
function tagsIn({ content }: Draft, tag: string): number {
  const count = (text: string): number => text.split(tag).length - 1;
  if (typeof content === 'string') return count(content);
  return content.reduce((sum, item) => sum + (item.type === 'text' ? count(item.text) : 0), 0);
}

/** Puts media where their tag stands in texts, in order. */
function atTags(drafts: readonly Draft[], tag: string, media: readonly MediaItem[]): Draft[] {
  let next = 0;
  const split = (text: string): ContentItem[] =>
    text
      .split(tag)
      .flatMap((part, i) => [
        ...(i > 0 ? [media[next++]!] : []),
        ...(part !== '' ? [{ type: 'text' as const, text: part }] : []),
      ]);
  return drafts.map((draft): Draft => {
    const { role, content } = draft;
    if (tagsIn(draft, tag) === 0) return draft;
    if (typeof content === 'string') return { role, content: split(content) };
    return {
      role,
      content: content.flatMap((item): (ContentItem | Gap)[] => (item.type === 'text' ? split(item.text) : [item])),
    };
  });
}

function beforeFirstUser(drafts: readonly Draft[], { name, media }: MediaColumn, kind: Kind): Draft[] {
  const first = drafts.findIndex(({ role }) => role === 'user');
  if (first < 0) throw new RowError(`${name}: there is no turn of the user that its ${NAMES[kind]}s could stand in`);
  return drafts.map(({ role, content }, i) => {
    if (i !== first) return { role, content };
    return { role, content: [...media, ...(typeof content === 'string' ? [{ type: 'text' as const, text: content }] : content)] };
  });
}

function fillKind(drafts: readonly Draft[], row: Fields, kind: Kind): readonly Draft[] {
  const column = columnOf(row, kind);
  const gaps = gapsOf(drafts, kind);
  const open = gaps.filter((gap) => !gap.empty);
  if (column === undefined) {
    if (open.length === 0) return drafts;
    throw new RowError(`${open[0]!.field}: a ${NAMES[kind]} without a source, and the row has none in "${COLUMNS[kind][0]}"`);
  }
  const { name, media } = column;
  const places = open.length > 0 ? open : gaps;
  const tag = TAGS[kind];
  const tags = drafts.reduce((sum, draft) => sum + tagsIn(draft, tag), 0);
  const found = places.length > 0 ? places.length : tags;
  if (found === 0) return beforeFirstUser(drafts, column, kind);
  if (found !== media.length) {
    const where = places.length > 0 ? `items {"type":"${kind}"} without a source` : `times ${tag} in their texts`;
    throw new RowError(
      `${name}: holds ${media.length} ${NAMES[kind]}${media.length === 1 ? '' : 's'}, but the messages have ${found} ${where}`,
    );
  }
  return places.length > 0 ? filled(drafts, new Set(places), media) : atTags(drafts, tag, media);
}

/** Whether a row brings media in columns of its own. Throws MediaFound where they are not wanted, RowError for sound. */
export function checkColumns(row: Fields, skipMedia: boolean): void {
  const media = skipMedia ? [...MEDIA_COLUMNS, ...SOUND_COLUMNS].find((name) => holdsSomething(row[name])) : undefined;
  if (media !== undefined) throw new MediaFound(media);
  const sound = SOUND_COLUMNS.find((name) => holdsSomething(row[name]));
  if (sound !== undefined) throw soundError(sound);
}

/** Turns with every gap filled from the row's columns. */
export function fillGaps(drafts: readonly Draft[], row: Fields = {}): readonly Message[] {
  if (isFilled(drafts) && !MEDIA_COLUMNS.some((name) => holdsSomething(row[name]))) return drafts;
  // Those put before the first user's text: pictures, then videos.
  const withMedia = fillKind(fillKind(drafts, row, 'video'), row, 'image');
  return withMedia.map(({ role, content }) => ({
    role,
    content: typeof content === 'string' ? content : content.filter((item): item is ContentItem => item.type !== 'gap'),
  }));
}

/** The picture of an Alpaca row. */
export function imageItem(value: unknown, field: string): ImageItem {
  return { type: 'image', image: imageSource(value, field), field };
}
