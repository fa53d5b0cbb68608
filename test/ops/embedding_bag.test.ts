import test from 'ava';
import {
  ACTIVATIONS,
  integers,
  isClose,
  LENGTHS,
  Numbers,
  random,
  run,
  sameForAnyThreads,
  Tensor,
  throwsCode,
} from './support.js';

const [WORDS, TAPS] = [11, 4];

function bags(numbers: Numbers, n: number): { ids: Tensor; weights: Tensor } {
  const ids = Array.from({ length: n * TAPS }, () => Math.floor(numbers.uniform() * WORDS));
  return { ids: integers(ids, [n, TAPS]), weights: random(numbers, 'f32', [n, TAPS]) };
}

for (const dtype of ACTIVATIONS) {
  for (const tableType of ['f32', 'bf16', 'f16'] as const) {
    test(`embedding_bag in ${dtype} sums rows of an ${tableType} table by their weights, on top of x or of nothing`, (t) => {
      const numbers = new Numbers(1);
      for (const d of LENGTHS) {
        const n = 7;
        const { ids, weights } = bags(numbers, n);
        const [table, x] = [random(numbers, tableType, [WORDS, d]), random(numbers, dtype, [n, d])];
        const [id, weight, row, base] = [ids.toInt32(), weights.toFloat32(), table.toFloat32(), x.toFloat32()];
        const sum = (t: number, j: number) =>
          [...id.subarray(t * TAPS, (t + 1) * TAPS)].reduce((s, word, k) => s + weight[t * TAPS + k]! * row[word * d + j]!, 0);
        const sums = Float64Array.from({ length: n * d }, (_, i) => sum(Math.floor(i / d), i % d));
        const y = Tensor.zeros([n, d], dtype);
        run('embedding_bag', [ids, weights, table, null], [y]);
        isClose(t, y, sums, `d ${d}`);
        run('embedding_bag', [ids, weights, table, x], [x]);
        isClose(
          t,
          x,
          sums.map((value, i) => value + base[i]!),
          `in the memory of x, d ${d}`,
        );
      }
    });
  }

  test(`embedding_bag_backward in ${dtype} accumulates the table's gradient, the same on any number of threads`, (t) => {
    const numbers = new Numbers(2);
    for (const [n, d] of [
      [1, 1],
      [40, 17],
      [9, 700],
    ] as const) {
      const { ids, weights } = bags(numbers, n);
      const [dy, before] = [random(numbers, dtype, [n, d]), random(numbers, 'f32', [WORDS, d]).toFloat32()];
      const wanted = Float64Array.from(before);
      const [id, weight, grad] = [ids.toInt32(), weights.toFloat32(), dy.toFloat32()];
      for (let tap = 0; tap < n * TAPS; tap++)
        for (let j = 0; j < d; j++) wanted[id[tap]! * d + j]! += weight[tap]! * grad[Math.floor(tap / TAPS) * d + j]!;
      sameForAnyThreads(t, () => {
        const dtable = Tensor.from(before, [WORDS, d]);
        run('embedding_bag_backward', [ids, weights, dy], [dtable]);
        isClose(t, dtable, wanted, `${n} x ${d}`);
        return [dtable];
      });
    }
  });
}

test('embedding_bag refuses an id outside of the table, by its place', (t) => {
  const [weights, table, y] = [Tensor.zeros([2, 2]), Tensor.zeros([3, 4]), Tensor.zeros([2, 4])];
  throwsCode(t, 'ERR_ARGUMENT', /embedding_bag: ids\[2\] is 3, expected 0\.\.2/, () =>
    run('embedding_bag', [integers([0, 1, 3, 2], [2, 2]), weights, table, null], [y]),
  );
});
