/**
 * A rendered row as what is tokenised and what is repeated: each placeholder of media becomes as many of its token as the language model
 * reads features in its place, exactly as transformers' Qwen3VLProcessor writes them. A picture is one run of tokens. A video is one
 * run for each temporal patch, each with its time before it and the tokens of a picture around it, all within the video's own.
 */
import type { SeenMedia } from './media/media_reader.js';
import type { MediaTokens } from './placeholders.js';
import type { Segment } from './render.js';

export interface TextPiece {
  readonly text: string;
  readonly learn: boolean;
  /** Which of the row's media it belongs to. */
  readonly media?: number | undefined;
}

/** A run of one token. */
export interface RunPiece {
  readonly id: number;
  readonly count: number;
  readonly media: number;
}

export type Piece = TextPiece | RunPiece;

/** Tokens of one run: a temporal patch's features after merging. */
export function runTokens({ grid: [, height, width] }: Pick<SeenMedia, 'grid'>, mergeSize: number): number {
  return (height * width) / (mergeSize * mergeSize);
}

/** The pieces of a row; their texts in order are what is tokenised. */
export function expand(
  segments: readonly Segment[],
  media: readonly SeenMedia[],
  tokens: MediaTokens,
  mergeSize: number,
): Piece[] {
  return segments.flatMap((segment): Piece[] => {
    if (segment.media === undefined) return [segment];
    const index = segment.media;
    const seen = media[index]!;
    const [placeholder, id] = seen.kind === 'image' ? [tokens.image, tokens.imageId] : [tokens.video, tokens.videoId];
    const [before, after] = segment.text.split(placeholder) as [string, string];
    const text = (part: string): Piece[] => (part === '' ? [] : [{ text: part, learn: false, media: index }]);
    const run: Piece = { id, count: runTokens(seen, mergeSize), media: index };
    const runs =
      seen.kind === 'image'
        ? [run]
        : seen.timestamps.flatMap((time) => [...text(`${time}${tokens.start}`), run, ...text(tokens.end)]);
    return [...text(before), ...runs, ...text(after)];
  });
}
