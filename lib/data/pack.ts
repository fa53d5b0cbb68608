/**
 * First-fit packing of rows into bins of a token capacity, in O(n log n): rows that fill much of a bin come first, by falling length, then the short
 * ones in an order that mixes their lengths. Falling length throughout would fill bins no better, and would make each a set of rows of nearly
 * one length: a micro-batch, and with no accumulation an update, would see one kind of row only, which costs training a tenth of its progress.
 *
 * The bins depend on the lengths alone: rows sorted by falling length take places 0, 1, 2, …, and a bin is a set of places. Which of
 * several rows of one length takes which of their places is the caller's to choose (`placeRows`), so each epoch mixes them anew while
 * the number of bins and their fill stay what they were when memory was planned.
 */
import { randperm } from './order.js';

/** A row is short where so many of it fit a bin: the last free tokens of a bin are then few, in whatever order short rows come. */
const SHORT_ROWS_PER_BIN = 8;

/** Bins in the order in which they were opened; bin b holds places `places[starts[b]]` to `places[starts[b + 1] - 1]`. */
export interface Packing {
  readonly starts: Int32Array;
  readonly places: Int32Array;
  /** Tokens in each bin. */
  readonly fills: Int32Array;
}

/** How many rows there are of each length, 0 to the longest. */
function countLengths(lengths: Int32Array): Int32Array {
  let longest = 0;
  for (const length of lengths) if (length > longest) longest = length;
  const counts = new Int32Array(longest + 1);
  for (const length of lengths) counts[length]!++;
  return counts;
}

/** Packs rows of these lengths. Each length must be 1 to `capacity`. */
export function packFirstFit(lengths: Int32Array, capacity: number): Packing {
  const n = lengths.length;
  const counts = countLengths(lengths);
  if (n > 0 && (counts[0]! > 0 || counts.length - 1 > capacity)) {
    throw new RangeError(`rows must have 1 to ${capacity} tokens, got one of ${counts[0]! > 0 ? 0 : counts.length - 1}`);
  }
  // A tournament tree over bins holds the largest free space below each node: the leftmost bin that fits is found by going down once.
  let leaves = 1;
  while (leaves < n) leaves *= 2;
  const free = new Int32Array(2 * leaves).fill(capacity);
  const binOfPlace = new Int32Array(n);
  let bins = 0;
  const order = packingOrder(counts, n, capacity);
  for (let k = 0; k < n; k++) {
    const length = order.lengths[k]!;
    let node = 1;
    while (node < leaves) node = free[2 * node]! >= length ? 2 * node : 2 * node + 1;
    const bin = node - leaves;
    binOfPlace[order.places[k]!] = bin;
    if (bin >= bins) bins = bin + 1;
    free[node]! -= length;
    for (node >>= 1; node >= 1; node >>= 1) free[node] = Math.max(free[2 * node]!, free[2 * node + 1]!);
  }
  const starts = new Int32Array(bins + 1);
  for (const bin of binOfPlace) starts[bin + 1]!++;
  for (let bin = 0; bin < bins; bin++) starts[bin + 1]! += starts[bin]!;
  const next = starts.slice(0, bins);
  const places = new Int32Array(n);
  for (let i = 0; i < n; i++) places[next[binOfPlace[i]!]!++] = i;
  const fills = new Int32Array(bins);
  for (let bin = 0; bin < bins; bin++) fills[bin] = capacity - free[leaves + bin]!;
  return { starts, places, fills };
}

/** The order in which places are put into bins, with the length of each. */
function packingOrder(counts: Int32Array, n: number, capacity: number): { places: Int32Array; lengths: Int32Array } {
  const lengthOf = new Int32Array(n);
  for (let length = counts.length - 1, at = 0; length > 0; length--) {
    lengthOf.fill(length, at, at + counts[length]!);
    at += counts[length]!;
  }
  let long = 0;
  while (long < n && lengthOf[long]! * SHORT_ROWS_PER_BIN > capacity) long++;
  // The seed is a constant: the bins are to depend on the lengths alone.
  const mixed = randperm(n - long, 0);
  const places = Int32Array.from({ length: n }, (_, k) => (k < long ? k : long + mixed[k - long]!));
  return { places, lengths: places.map((place) => lengthOf[place]!) };
}

/** Which row takes each place: rows by falling length, those of one length in the order that `order` gives them. */
export function placeRows(lengths: Int32Array, order: Int32Array): Int32Array {
  const counts = countLengths(lengths);
  const next = new Int32Array(counts.length);
  for (let length = counts.length - 1, at = 0; length >= 0; length--) {
    next[length] = at;
    at += counts[length]!;
  }
  const rows = new Int32Array(lengths.length);
  for (const row of order) rows[next[lengths[row]!]!++] = row;
  return rows;
}
