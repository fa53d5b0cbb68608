import test from 'ava';
import { addon, type PatchLayout, type Resampling } from '../../lib/native.js';
import { MersenneTwister } from '../../lib/random.js';

const random = new MersenneTwister(5);
const below = (count: number) => Math.floor(random.uniform() * count);

/** Weights of no library: any starts that do not fall, any weights. */
function resampling(inputs: number, outputs: number, taps: number): Resampling {
  const starts = Int32Array.from({ length: outputs }, () => below(inputs - taps + 1)).sort();
  return { starts, weights: Int32Array.from({ length: outputs * taps }, () => below(801) - 300), shift: 9 };
}

/** One direction of the contract in `native/ops/image_patches.h`, in plain words: `at(i, k)` gives sample k of line i. */
function resize(data: Uint8Array, width: number, height: number, way: Resampling, along: 'row' | 'column'): Uint8Array {
  const outputs = way.starts.length;
  const taps = way.weights.length / outputs;
  const [toWidth, toHeight] = along === 'row' ? [outputs, height] : [width, outputs];
  const to = new Uint8Array(toWidth * toHeight * 3);
  for (let y = 0; y < toHeight; y++)
    for (let x = 0; x < toWidth; x++)
      for (let c = 0; c < 3; c++) {
        const i = along === 'row' ? x : y;
        let sum = 2 ** (way.shift - 1);
        for (let k = 0; k < taps; k++) {
          const [fx, fy] = along === 'row' ? [way.starts[i]! + k, y] : [x, way.starts[i]! + k];
          sum += way.weights[i * taps + k]! * data[(fy * width + fx) * 3 + c]!;
        }
        to[(y * toWidth + x) * 3 + c] = Math.min(255, Math.max(0, sum >> way.shift));
      }
  return to;
}

function reference(frames: readonly Uint8Array[], layout: PatchLayout): Float32Array {
  const { columns, rows, rowsFirst, patchSize: p, mergeSize: m, temporalPatchSize: t, table } = layout;
  let { width, height } = layout;
  const resized = frames.map((frame) => {
    ({ width, height } = layout);
    let data = frame;
    const alongRow = () => {
      if (!columns) return;
      data = resize(data, width, height, columns, 'row');
      width = columns.starts.length;
    };
    if (!rowsFirst) alongRow();
    if (rows) {
      data = resize(data, width, height, rows, 'column');
      height = rows.starts.length;
    }
    if (rowsFirst) alongRow();
    return data;
  });
  const out: number[] = [];
  for (let time = 0; time < Math.ceil(frames.length / t); time++)
    for (let gy = 0; gy < height / (p * m); gy++)
      for (let gx = 0; gx < width / (p * m); gx++)
        for (let my = 0; my < m; my++)
          for (let mx = 0; mx < m; mx++)
            for (let c = 0; c < 3; c++)
              for (let k = 0; k < t; k++)
                for (let y = 0; y < p; y++)
                  for (let x = 0; x < p; x++) {
                    const frame = resized[Math.min(time * t + k, frames.length - 1)]!;
                    const [fx, fy] = [(gx * m + mx) * p + x, (gy * m + my) * p + y];
                    out.push(table[c * 256 + frame[(fy * width + fx) * 3 + c]!]!);
                  }
  return Float32Array.from(out);
}

interface Shape {
  readonly size: readonly [width: number, height: number];
  readonly resized: readonly [width: number, height: number];
  readonly taps?: readonly [columns: number, rows: number];
  readonly patch?: readonly [size: number, merge: number, temporal: number];
  readonly frames?: number;
}

const SHAPES: readonly Shape[] = [
  { size: [1, 1], resized: [4, 4], taps: [1, 1] },
  { size: [19, 70], resized: [12, 68], frames: 3 },
  { size: [400, 130], resized: [36, 66], taps: [23, 5], patch: [3, 2, 2], frames: 2 },
  { size: [65, 67], resized: [300, 12], taps: [2, 33], patch: [2, 3, 3], frames: 4 },
  { size: [700, 9], resized: [520, 8], taps: [5, 4], patch: [4, 1, 1], frames: 2 },
  { size: [24, 16], resized: [24, 16], patch: [4, 2, 5], frames: 7 },
  { size: [24, 17], resized: [24, 8] },
  { size: [23, 16], resized: [8, 16] },
];

for (const { size, resized, taps = [3, 4], patch = [2, 2, 2], frames: count = 1 } of SHAPES) {
  for (const rowsFirst of [false, true]) {
    const order = rowsFirst ? 'rows first' : 'columns first';
    test(`${count} of ${size.join('×')} to ${resized.join('×')}, ${order}, is what the contract says`, async (t) => {
      const [width, height] = size;
      const layout: PatchLayout = {
        width,
        height,
        columns: width === resized[0] ? null : resampling(width, resized[0], Math.min(taps[0], width)),
        rows: height === resized[1] ? null : resampling(height, resized[1], Math.min(taps[1], height)),
        rowsFirst,
        table: Float32Array.from({ length: 768 }, () => random.uniform()),
        patchSize: patch[0],
        mergeSize: patch[1],
        temporalPatchSize: patch[2],
      };
      const frames = Array.from({ length: count }, () => Uint8Array.from({ length: width * height * 3 }, () => below(256)));
      const expected = reference(frames, layout);
      const out = new Float32Array(expected.length + 2).fill(-1);
      await addon().imagePatches(frames, layout, out.subarray(1, -1));
      t.deepEqual(out.subarray(1, -1), expected);
      t.deepEqual([out[0], out.at(-1)], [-1, -1], 'nothing is written beside it');
    });
  }
}

test('what would read outside a frame, or overflow, is refused', (t) => {
  const layout: PatchLayout = {
    ...{ width: 8, height: 8, columns: null, rows: null, rowsFirst: false, table: new Float32Array(768) },
    ...{ patchSize: 2, mergeSize: 2, temporalPatchSize: 2 },
  };
  const frame = new Uint8Array(8 * 8 * 3);
  const way = (starts: number[], weights: number[], shift = 8) => ({
    ...{ starts: Int32Array.from(starts), weights: Int32Array.from(weights), shift },
  });
  const refuses = (
    frames: unknown,
    change: object,
    code: string,
    message: RegExp,
    out: unknown = new Float32Array(2 * 8 * 8 * 3),
  ) =>
    t.throws(() => addon().imagePatches(frames as Uint8Array[], { ...layout, ...change }, out as Float32Array), {
      code,
      message,
    });
  refuses([], {}, 'ERR_ARGUMENT', /frames: expected a list of at least one/);
  refuses([frame, frame.subarray(1)], {}, 'ERR_SHAPE', /frame 1 has 191 bytes, expected 192/);
  refuses([7], {}, 'ERR_ARGUMENT', /frames: expected a typed array/);
  refuses([frame], {}, 'ERR_SHAPE', /out: 383 numbers, expected 384/, new Float32Array(383));
  refuses([frame], {}, 'ERR_ARGUMENT', /out: expected a Float32Array/, new Uint8Array(4 * 384));
  refuses([frame], { width: 0 }, 'ERR_ARGUMENT', /width: expected 1 to/);
  refuses([frame], { patchSize: 3 }, 'ERR_SHAPE', /8x8 is not made of groups of 6/);
  refuses([frame], { table: new Float32Array(7) }, 'ERR_SHAPE', /table: expected 768 numbers, got 7/);
  refuses([frame], { table: new Float64Array(768) }, 'ERR_ARGUMENT', /table: expected another kind of typed array/);
  refuses([frame], { columns: way([0, 2, 4, 5], Array(16).fill(1)) }, 'ERR_ARGUMENT', /columns: output 3 reads outside/);
  refuses([frame], { rows: way([-1, 0, 0, 0], Array(4).fill(1)) }, 'ERR_ARGUMENT', /rows: output 0 reads outside/);
  refuses([frame], { rows: way([1, 0, 2, 3], Array(4).fill(1)) }, 'ERR_ARGUMENT', /rows: the starts fall at output 1/);
  refuses([frame], { rows: way([0, 0, 0, 0], [1, 1, 1]) }, 'ERR_ARGUMENT', /rows: 3 weights for 4 outputs/);
  refuses([frame], { rows: way([0, 0, 0, 0], Array(4).fill(2 ** 24)) }, 'ERR_ARGUMENT', /weights of output 0 are too large/);
  refuses([frame], { rows: way([0, 0, 0, 0], Array(4).fill(1), 31) }, 'ERR_ARGUMENT', /rows: expected 1 to 30, got 31/);
});

test('a large array is zeroed, can be written and counts as memory', (t) => {
  const before = addon().memory().current;
  const array = addon().largeArray(5_000_000);
  t.is(array.length, 5_000_000);
  t.true(array.every((value) => value === 0));
  array[4_999_999] = 1;
  t.is(addon().memory().current - before, 20_000_000);
  t.throws(() => addon().largeArray(0), { code: 'ERR_ARGUMENT', message: /length: expected 1 to/ });
  t.throws(() => addon().largeArray(2 ** 40), { code: 'ERR_ARGUMENT' });
});
