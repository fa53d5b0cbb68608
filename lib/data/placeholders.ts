/** Where the pictures and videos of a row stand in its rendered text. */
import { VltuneError } from '../errors.js';
import { ConfigReader } from '../models/config_reader.js';
import type { MediaItem } from './message.js';
import type { Segment } from './render.js';
import { escapeRegExp } from './text.js';
import type { Tokenizer } from './tokenizer.js';

/** The texts that stand for media in a prompt: what `<|image_pad|>` and its like are called in this model. */
export interface MediaPlaceholders {
  readonly image: string;
  readonly video: string;
  /** Around each of them. */
  readonly start: string;
  readonly end: string;
}

/** Placeholders with the ids that are repeated, one for each feature that the language model reads. */
export interface MediaTokens extends MediaPlaceholders {
  readonly imageId: number;
  readonly videoId: number;
}

const LARGEST_ID = 1 << 24;

/** The tokens that config.json (`file`) names; its defaults are transformers' for Qwen3-VL. ERR_BAD_CHECKPOINT for an id that is no token. */
export function readMediaTokens(config: Readonly<Record<string, unknown>>, file: string, tokenizer: Tokenizer): MediaTokens {
  const reader = new ConfigReader(config, file);
  const token = (key: string, fallback: number): { id: number; text: string } => {
    const id = reader.integer(key, 0, LARGEST_ID, fallback);
    const text = tokenizer.idToToken(id);
    if (text === null)
      throw new VltuneError('ERR_BAD_CHECKPOINT', `${file}: ${key} is ${id}, which is no token of tokenizer.json`);
    return { id, text };
  };
  const image = token('image_token_id', 151655);
  const video = token('video_token_id', 151656);
  const start = token('vision_start_token_id', 151652).text;
  const end = token('vision_end_token_id', 151653).text;
  return { image: image.text, video: video.text, start, end, imageId: image.id, videoId: video.id };
}

/** Texts of a row in which nothing looks like a placeholder: what looks like one in a text is text. */
export class TextGuard {
  readonly texts: readonly string[];
  private readonly standIns: readonly (readonly [placeholder: string, standIn: string])[];

  constructor(texts: readonly string[], placeholders: readonly string[]) {
    const found = placeholders.filter((placeholder) => texts.some((text) => text.includes(placeholder)));
    let key = '\ue002';
    while (found.length > 0 && texts.some((text) => text.includes(key))) key += '\ue002';
    this.standIns = found.map((placeholder, i) => [placeholder, `${key}${i}\ue003`]);
    this.texts =
      found.length === 0
        ? texts
        : texts.map((text) =>
            this.standIns.reduce((done, [placeholder, standIn]) => done.replaceAll(placeholder, standIn), text),
          );
  }

  /** Rendered text as it was meant. */
  restored(text: string): string {
    return this.standIns.reduce((done, [placeholder, standIn]) => done.replaceAll(standIn, () => placeholder), text);
  }
}

/** What a picture or video is called in messages. */
export function nameOf(item: MediaItem): string {
  return item.field ?? (item.type === 'image' ? 'a picture' : 'a video');
}

/**
 * Segments cut at the placeholders of media, each of which becomes a segment with the tokens around it that is never learnt. ERR_BAD_DATA
 * where there are not as many as media, of their kinds, in their order.
 */
export function cutAtPlaceholders(
  segments: readonly Segment[],
  media: readonly MediaItem[],
  { image, video, start, end }: MediaPlaceholders,
  guard: TextGuard,
): Segment[] {
  const [wrapStart, wrapEnd, either] = [escapeRegExp(start), escapeRegExp(end), `${escapeRegExp(image)}|${escapeRegExp(video)}`];
  const place = new RegExp(`(?:${wrapStart})?(?:${either})(?:${wrapEnd})?`, 'gu');
  const cut: Segment[] = [];
  let next = 0;
  for (const { text, learn } of segments) {
    let at = 0;
    for (const match of text.matchAll(place)) {
      const kind = match[0].includes(image) ? 'image' : 'video';
      if (media[next]?.type !== kind) throw misplaced(media[next], kind);
      if (match.index > at) cut.push({ text: guard.restored(text.slice(at, match.index)), learn });
      cut.push({ text: match[0], learn: false, media: next++ });
      at = match.index + match[0].length;
    }
    if (at < text.length) cut.push({ text: guard.restored(text.slice(at)), learn });
  }
  if (next < media.length) throw misplaced(media[next], undefined);
  return cut;
}

/** `kind`: of the placeholder that is there; undefined where there is none. */
function misplaced(item: MediaItem | undefined, kind: MediaItem['type'] | undefined): VltuneError {
  const problem =
    item === undefined
      ? `the chat template has a place for one more ${kind} than the messages hold`
      : `${nameOf(item)}: the chat template has no place for it (Qwen's takes pictures and videos in a user's turn)`;
  return new VltuneError('ERR_BAD_DATA', problem);
}
