import test from 'ava';
import fc from 'fast-check';
import { packFirstFit, placeRows } from '../../lib/data/pack.js';

const lengthsAndCapacity: fc.Arbitrary<[Int32Array, number]> = fc
  .integer({ min: 1, max: 300 })
  .chain((capacity) => fc.tuple(fc.array(fc.integer({ min: 1, max: capacity }), { maxLength: 200 }), fc.constant(capacity)))
  .map(([lengths, capacity]) => [Int32Array.from(lengths), capacity]);

/** First fit decreasing as the textbook has it, in O(n²). */
function textbook(lengths: Int32Array, capacity: number): number[][] {
  const bins: { free: number; places: number[] }[] = [];
  for (const [place, length] of [...lengths].sort((a, b) => b - a).entries()) {
    let bin = bins.find(({ free }) => free >= length);
    if (bin === undefined) {
      bin = { free: capacity, places: [] };
      bins.push(bin);
    }
    bin.free -= length;
    bin.places.push(place);
  }
  return bins.map(({ places }) => places);
}

test('rows that fill much of a bin are put where first fit decreasing puts them', (t) => {
  const long = lengthsAndCapacity.map(([lengths, capacity]): [Int32Array, number] => [
    lengths.filter((length) => length * 8 > capacity),
    capacity,
  ]);
  fc.assert(
    fc.property(long, ([lengths, capacity]) => {
      const { starts, places } = packFirstFit(lengths, capacity);
      const bins = Array.from({ length: starts.length - 1 }, (_, b) => [...places.subarray(starts[b]!, starts[b + 1]!)]);
      t.deepEqual(bins, textbook(lengths, capacity));
    }),
  );
});

test('no bin overflows, and no row is lost or doubled', (t) => {
  fc.assert(
    fc.property(lengthsAndCapacity, fc.infiniteStream(fc.nat()), ([lengths, capacity], keys) => {
      const { starts, places, fills } = packFirstFit(lengths, capacity);
      const order = Int32Array.from(
        [...lengths.keys()].map((row) => ({ row, key: keys.next().value as number })).sort((a, b) => a.key - b.key),
        ({ row }) => row,
      );
      const rows = placeRows(lengths, order);
      const packed = Array.from(places, (place) => rows[place]!);
      t.deepEqual(
        packed.toSorted((a, b) => a - b),
        [...lengths.keys()],
      );
      for (const [bin, fill] of fills.entries()) {
        const inBin = packed.slice(starts[bin]!, starts[bin + 1]!);
        t.is(
          inBin.reduce((sum, row) => sum + lengths[row]!, 0),
          fill,
        );
        t.true(inBin.length > 0 && fill <= capacity);
      }
    }),
  );
});

test('bins of short rows are full, and hold rows of many lengths', (t) => {
  const lengths = Int32Array.from({ length: 4000 }, (_, row) => 10 + ((row * 37) % 50));
  const { starts, places, fills } = packFirstFit(lengths, 2048);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  t.is(fills.length, Math.ceil(total / 2048));
  const rows = placeRows(lengths, Int32Array.from(lengths.keys()));
  for (let bin = 0; bin < fills.length - 1; bin++) {
    const different = new Set(Array.from(places.subarray(starts[bin]!, starts[bin + 1]!), (place) => lengths[rows[place]!]!));
    t.true(fills[bin]! > 0.97 * 2048 && different.size > 20, `bin ${bin}: ${fills[bin]} tokens, ${different.size} lengths`);
  }
});

test('the bins depend on the lengths alone', (t) => {
  const lengths = Int32Array.from({ length: 300 }, (_, row) => 1 + ((row * 7) % 40));
  t.deepEqual(packFirstFit(lengths, 512), packFirstFit(lengths.toReversed(), 512));
});

test('rows of one length take their places in the given order', (t) => {
  t.deepEqual([...placeRows(Int32Array.of(2, 5, 2, 5, 2), Int32Array.of(4, 3, 2, 1, 0))], [3, 1, 4, 2, 0]);
});

test('rows that fit no bin are refused', (t) => {
  t.throws(() => packFirstFit(Int32Array.of(5), 4), { message: /got one of 5/ });
  t.throws(() => packFirstFit(Int32Array.of(0), 4), { message: /got one of 0/ });
});

test('nothing packs into nothing', (t) => {
  t.deepEqual(packFirstFit(new Int32Array(0), 4).fills, new Int32Array(0));
});
