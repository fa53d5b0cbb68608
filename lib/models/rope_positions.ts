/**
 * M-RoPE positions of text with pictures and video among it, as transformers' `get_rope_index` of Qwen3-VL gives them. Text counts on
 * all three axes alike. A picture stands at one time, its rows and columns count on from where the text was, and text goes on
 * after the larger of the two. A video is as many pictures as it has temporal patches: timestamps stand between them.
 */
import { VltuneError } from '../errors.js';

/** Tokens that stand for one picture, or for one temporal patch of a video: `height * width` of them, row by row. */
export interface MediaRun {
  /** Number of its first token in the sequence. */
  readonly start: number;
  /** Features along height and width: patches over the merge size. */
  readonly height: number;
  readonly width: number;
}

/** Positions [3, total] (temporal, height, width) that several sequences share. */
export interface PositionTable {
  readonly positions: Int32Array;
  readonly total: number;
}

/**
 * Writes the positions of a sequence of `tokens` tokens, the first of which is column `at` of the table. `runs` ascend and do not
 * overlap. Returns the position of a token that would follow: in generation the next token's, on all axes.
 */
export function writeRopePositions(table: PositionTable, at: number, tokens: number, runs: readonly MediaRun[]): number {
  const { positions, total } = table;
  const rows = [0, total, 2 * total] as const;
  let token = 0;
  let position = 0;
  const text = (end: number): void => {
    for (; token < end; token++, position++) for (const row of rows) positions[row + at + token] = position;
  };
  for (const { start, height, width } of runs) {
    if (start < token || start + height * width > tokens) {
      throw new VltuneError(
        'ERR_INTERNAL',
        `a run of ${height} x ${width} media tokens begins at token ${start}, expected ${token} to ${tokens - height * width}`,
      );
    }
    text(start);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, token++) {
        positions[at + token] = position;
        positions[total + at + token] = position + y;
        positions[2 * total + at + token] = position + x;
      }
    }
    position += Math.max(height, width);
  }
  text(tokens);
  return position;
}

/** The positions [3, tokens] of one sequence, and that of a token that would follow. */
export function ropePositions(tokens: number, runs: readonly MediaRun[]): { positions: Int32Array; next: number } {
  const positions = new Int32Array(3 * tokens);
  return { positions, next: writeRopePositions({ positions, total: tokens }, 0, tokens, runs) };
}
