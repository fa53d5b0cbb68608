/** A conversation as rows and callers give it. */
import type { MediaSource } from './media/locate.js';
import type { VideoSource } from './media/video_source.js';

export type Role = 'system' | 'user' | 'assistant';

export interface TextItem {
  readonly type: 'text';
  readonly text: string;
}

export interface ImageItem {
  readonly type: 'image';
  readonly image: MediaSource;
  /** The field of the row that it came from, for messages about it. */
  readonly field?: string | undefined;
}

export interface VideoItem {
  readonly type: 'video';
  readonly video: VideoSource;
  /** How many frames of a list or folder make a second. Default 24. */
  readonly fps?: number | undefined;
  readonly field?: string | undefined;
}

export type MediaItem = ImageItem | VideoItem;
export type ContentItem = TextItem | MediaItem;

/** One turn. Content keeps the form it has in the row, since chat templates treat the two forms apart. */
export interface Message {
  readonly role: Role;
  readonly content: string | readonly ContentItem[];
}

/** The pictures and videos of a conversation, in order. */
export function mediaOf(messages: readonly Message[]): MediaItem[] {
  const media: MediaItem[] = [];
  for (const { content } of messages) {
    if (typeof content === 'string') continue;
    for (const item of content) if (item.type !== 'text') media.push(item);
  }
  return media;
}

/** The texts of a conversation, in order. */
export function textsOf(messages: readonly Message[]): string[] {
  const texts: string[] = [];
  for (const { content } of messages) {
    if (typeof content === 'string') texts.push(content);
    else for (const item of content) if (item.type === 'text') texts.push(item.text);
  }
  return texts;
}

/** The same conversation with other texts: those of these numbers. */
export function withTexts(messages: readonly Message[], text: (slot: number) => string): Message[] {
  let slot = 0;
  return messages.map(({ role, content }) => ({
    role,
    content:
      typeof content === 'string'
        ? text(slot++)
        : content.map((item) => (item.type === 'text' ? { type: 'text' as const, text: text(slot++) } : item)),
  }));
}
