/** The pieces of a row, tokenised, as one sequence that is no longer than a maximum. */
import type { Piece } from './expand.js';

/** Ids of all texts of many rows; text i has `ids[bounds[i]]` to `ids[bounds[i + 1] - 1]`. */
export interface FlatIds {
  readonly ids: Int32Array;
  readonly bounds: Int32Array;
}

export interface JoinedRow {
  /** Tokens kept, of which `targets` are predicted and learnt (nothing predicts the first). */
  readonly length: number;
  readonly targets: number;
  /** Tokens before anything was cut off. */
  readonly total: number;
  /** Of each of the row's media that was kept, in order: the first token of each of its runs. */
  readonly starts: readonly (readonly number[])[];
  /** Whether a picture or video was among what was cut off. */
  readonly lostMedia: boolean;
}

/**
 * Joins the pieces of a row. Tokens go to `codes`, whose length is the maximum: the id where it is to be learnt, its complement where not.
 * `first` is the row's first text in `flat`. A row that is too long loses its end; a picture or video that does not fit whole is cut off
 * whole, with all that follows, since a part of it stands for nothing.
 */
export function joinRow(pieces: readonly Piece[], { ids, bounds }: FlatIds, first: number, codes: Int32Array): JoinedRow {
  const lengths: number[] = [];
  const mediaLengths: number[] = [];
  let text = first;
  let total = 0;
  for (const piece of pieces) {
    const length = 'id' in piece ? piece.count : bounds[text + 1]! - bounds[text++]!;
    lengths.push(length);
    total += length;
    if (piece.media !== undefined) mediaLengths[piece.media] = (mediaLengths[piece.media] ?? 0) + length;
  }

  const starts: number[][] = [];
  let length = 0;
  let targets = 0;
  text = first;
  for (const [i, piece] of pieces.entries()) {
    const { media } = piece;
    if (media !== undefined && starts[media] === undefined) {
      if (length + mediaLengths[media]! > codes.length) break;
      starts[media] = [];
    }
    const kept = Math.min(lengths[i]!, codes.length - length);
    if ('id' in piece) {
      starts[piece.media]!.push(length);
      codes.fill(~piece.id, length, length + kept);
    } else {
      const start = bounds[text++]!;
      const { learn } = piece;
      for (let k = 0; k < kept; k++) codes[length + k] = learn ? ids[start + k]! : ~ids[start + k]!;
      if (learn) targets += length === 0 ? Math.max(0, kept - 1) : kept;
    }
    length += kept;
    if (kept < lengths[i]!) break;
  }
  return { length, targets, total, starts, lostMedia: starts.length < mediaLengths.length };
}
