/** A conversation as the tokens of a prompt, with the pictures and videos in it. */
import { mapBounded } from '../async.js';
import type { MediaRun } from '../models/rope_positions.js';
import { expand } from './expand.js';
import { joinRow } from './join_row.js';
import type { MediaReader, SeenMedia } from './media/media_reader.js';
import { type Message, mediaOf, textsOf, withTexts } from './message.js';
import { cutAtPlaceholders, nameOf, TextGuard } from './placeholders.js';
import type { ChatTemplate } from './template.js';
import type { Tokenizer } from './tokenizer.js';

/** A picture or video of a prompt, and how errors name it. */
export interface PromptMediaItem extends SeenMedia {
  readonly place: string;
}

export interface Prompt {
  readonly ids: Int32Array;
  /** In order. */
  readonly media: readonly PromptMediaItem[];
  /** The tokens that stand for their features. */
  readonly runs: readonly MediaRun[];
}

export interface PromptOptions {
  readonly template: ChatTemplate;
  readonly tokenizer: Tokenizer;
  /** Opens what reads pictures and videos, if there is any. */
  readonly media: () => Promise<MediaReader>;
  /** Where their relative paths start. */
  readonly folder: string;
  readonly signal?: AbortSignal | undefined;
}

const HEADERS_AT_ONCE = 8;

/** Renders a conversation up to the assistant's next turn. ERR_BAD_DATA, and the errors of opening pictures and videos. */
export async function encodePrompt(messages: readonly Message[], options: PromptOptions): Promise<Prompt> {
  const { template, tokenizer, folder, signal } = options;
  const items = mediaOf(messages);
  if (items.length === 0) {
    const ids = await tokenizer.encode(template.render(messages, { addGenerationPrompt: true }));
    return { ids, media: [], runs: [] };
  }
  const reader = await options.media();
  const { tokens, mergeSize } = reader;
  const guard = new TextGuard(textsOf(messages), [tokens.image, tokens.video]);
  const text = template.render(
    withTexts(messages, (slot) => guard.texts[slot]!),
    { addGenerationPrompt: true },
  );
  const segments = cutAtPlaceholders([{ text, learn: false }], items, tokens, guard);
  const media = await mapBounded(items, HEADERS_AT_ONCE, async (item): Promise<PromptMediaItem> => {
    const place = nameOf(item);
    return { ...(await reader.see(item, folder, place, signal)), place };
  });
  const pieces = expand(segments, media, tokens, mergeSize);
  const flat = await tokenizer.encodeFlat(pieces.flatMap((piece) => ('id' in piece ? [] : [piece.text])));
  const length = pieces.reduce((sum, piece) => sum + ('id' in piece ? piece.count : 0), flat.ids.length);
  const ids = new Int32Array(length);
  const { starts } = joinRow(pieces, flat, 0, ids);
  for (let i = 0; i < length; i++) if (ids[i]! < 0) ids[i] = ~ids[i]!; // nothing of a prompt is learnt
  const runs = starts.flatMap((own, i) => {
    const [, height, width] = media[i]!.grid;
    return own.map((start) => ({ start, height: height / mergeSize, width: width / mergeSize }));
  });
  return { ids, media, runs };
}
