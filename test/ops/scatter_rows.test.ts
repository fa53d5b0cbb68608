import test from 'ava';
import { ACTIVATIONS, integers, LENGTHS, Numbers, random, run, sameBytes, Tensor, throwsCode } from './support.js';

const N = 9;

for (const dtype of ACTIVATIONS) {
  for (const [name, rows] of [
    ['some', [0, 3, 4, 8]],
    ['all', [0, 1, 2, 3, 4, 5, 6, 7, 8]],
    ['no', []],
  ] as const) {
    test(`scatter_rows in ${dtype} replaces, adds to and clears ${name} rows and leaves the others`, (t) => {
      const numbers = new Numbers(1);
      for (const d of LENGTHS) {
        const [x, values] = [random(numbers, dtype, [N, d]), random(numbers, dtype, [rows.length, d])];
        const [from, value] = [x.toFloat32(), values.toFloat32()];
        const expected = (put: (old: number, i: number) => number): Tensor => {
          const all = from.slice();
          for (const [i, row] of rows.entries()) for (let j = 0; j < d; j++) all[row * d + j] = put(all[row * d + j]!, i * d + j);
          return Tensor.from(all, [N, d], dtype);
        };
        const y = Tensor.zeros([N, d], dtype);
        run('scatter_rows', [x, integers(rows), values], [y]);
        sameBytes(
          t,
          y,
          expected((_, i) => value[i]!),
          `replaced, d ${d}`,
        );
        run('scatter_rows', [x, integers(rows), null], [y]);
        sameBytes(
          t,
          y,
          expected(() => 0),
          `cleared, d ${d}`,
        );
        run('scatter_rows', [x, integers(rows), values], [x], { accumulate: 1 });
        sameBytes(
          t,
          x,
          expected((old, i) => old + value[i]!),
          `added in the memory of x, d ${d}`,
        );
      }
    });
  }
}

test('scatter_rows refuses rows that are outside, out of order or twice, and adding nothing', (t) => {
  const [x, y, values] = [Tensor.zeros([3, 4]), Tensor.zeros([3, 4]), Tensor.zeros([2, 4])];
  const scatter = (rows: number[], attrs = {}) => run('scatter_rows', [x, integers(rows), values], [y], attrs);
  throwsCode(t, 'ERR_ARGUMENT', /scatter_rows: rows\[1\] is 3, expected 0\.\.2/, () => scatter([0, 3]));
  throwsCode(t, 'ERR_ARGUMENT', /scatter_rows: rows\[1\] is 0, expected more than rows\[0\], 1/, () => scatter([1, 0]));
  throwsCode(t, 'ERR_ARGUMENT', /scatter_rows: rows\[1\] is 1, expected more than rows\[0\], 1/, () => scatter([1, 1]));
  throwsCode(t, 'ERR_ARGUMENT', /scatter_rows: values is missing/, () =>
    run('scatter_rows', [x, integers([0]), null], [y], { accumulate: 1 }),
  );
});
