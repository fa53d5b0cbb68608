/** Rows joined and cut, over rows of any make. */
import test from 'ava';
import fc from 'fast-check';
import type { Piece } from '../../lib/data/expand.js';
import { joinRow } from '../../lib/data/join_row.js';

const PAD = 7;

/** Text, or a picture with its runs and the texts between them. */
const part = fc.oneof(
  fc.record({ text: fc.nat(6), learn: fc.boolean() }),
  fc.array(fc.record({ before: fc.nat(3), run: fc.integer({ min: 1, max: 9 }) }), { minLength: 1, maxLength: 3 }),
);

/** The pieces of a row, and the ids of its texts: a token's id is its number in the row, 100 and up. */
function rowOf(parts: readonly ({ text: number; learn: boolean } | readonly { before: number; run: number }[])[]) {
  const pieces: Piece[] = [];
  const ids: number[] = [];
  const bounds = [0];
  const whole: { id: number; learn: boolean; media: number | undefined }[] = [];
  const text = (length: number, learn: boolean, media?: number): void => {
    for (let i = 0; i < length; i++) {
      const id = 100 + whole.length;
      ids.push(id);
      whole.push({ id, learn, media });
    }
    bounds.push(ids.length);
    pieces.push({ text: 'x'.repeat(length), learn, media });
  };
  let media = 0;
  for (const one of parts) {
    if ('text' in one) {
      text(one.text, one.learn);
      continue;
    }
    for (const { before, run } of one) {
      text(before, false, media);
      pieces.push({ id: PAD, count: run, media });
      for (let i = 0; i < run; i++) whole.push({ id: PAD, learn: false, media });
    }
    media++;
  }
  return { pieces, flat: { ids: Int32Array.from(ids), bounds: Int32Array.from(bounds) }, whole, media };
}

test('a joined row is the beginning of the whole row, and holds each picture whole or not at all', (t) => {
  fc.assert(
    fc.property(fc.array(part, { maxLength: 8 }), fc.integer({ min: 1, max: 60 }), (parts, maxLength) => {
      const { pieces, flat, whole, media } = rowOf(parts);
      const codes = new Int32Array(maxLength);
      const { length, targets, total, starts, lostMedia } = joinRow(pieces, flat, 0, codes);
      t.is(total, whole.length);
      t.true(length <= maxLength);
      for (let i = 0; i < length; i++) t.is(codes[i], whole[i]!.learn ? whole[i]!.id : ~whole[i]!.id);
      t.is(targets, whole.slice(1, Math.max(1, length)).filter(({ learn }) => learn).length);
      const sizeOf = (index: number) => whole.filter((token) => token.media === index).length;
      const keptOf = (index: number) => whole.slice(0, length).filter((token) => token.media === index).length;
      for (let index = 0; index < media; index++) t.is(keptOf(index), index < starts.length ? sizeOf(index) : 0);
      t.is(lostMedia, starts.length < media);
      // Nothing is cut off that would have fitted.
      const next = whole[length];
      if (next) t.true(next.media === undefined ? length === maxLength : length + sizeOf(next.media) > maxLength);
      for (const own of starts) for (const start of own) t.is(codes[start], ~PAD);
    }),
    { numRuns: 500 },
  );
});
