import test from 'ava';
import {
  ACTIVATIONS,
  dot,
  isClose,
  LENGTHS,
  Numbers,
  numericGradient,
  random,
  rows,
  run,
  sameBytes,
  sameForAnyThreads,
  Tensor,
  throwsCode,
} from './support.js';

const EPS = 1e-6;

/** One row in F64. */
function norm(s: ArrayLike<number>, weight: ArrayLike<number>, bias: ArrayLike<number>) {
  const values = Float64Array.from(s);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const rstd = 1 / Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length + EPS);
  return { y: values.map((value, j) => weight[j]! * (value - mean) * rstd + bias[j]!), mean, rstd };
}

for (const dtype of ACTIVATIONS) {
  for (const weightType of ACTIVATIONS) {
    test(`layer_norm in ${dtype} with ${weightType} weights is the F64 norm, at any row length, far from zero too`, (t) => {
      const numbers = new Numbers(1);
      for (const d of LENGTHS) {
        const n = 5;
        const x = random(numbers, dtype, [n, d], 3, 20);
        const [weight, bias] = [random(numbers, weightType, [d], 0.3, 1), random(numbers, weightType, [d])];
        const [y, stats] = [Tensor.zeros([n, d], dtype), Tensor.zeros([n, 2])];
        run('layer_norm', [x, weight, bias, null], [y, stats, null], { eps: EPS });
        const expected = rows(x.toFloat32(), d).map((row) => norm(row, weight.toFloat32(), bias.toFloat32()));
        const wanted = expected.flatMap((row) => [...row.y]);
        isClose(t, y, wanted, `y, d ${d}`, dtype === 'f32' ? 1e-5 : undefined);
        const moments = expected.flatMap(({ mean, rstd }) => [mean, rstd]);
        // A row of one element deviates from itself by what its mean was rounded: nothing.
        isClose(t, stats, moments, `stats, d ${d}`, 1e-5);
      }
    });
  }

  test(`layer_norm in ${dtype} with a residual norms the sum as stored`, (t) => {
    const numbers = new Numbers(2);
    for (const d of LENGTHS) {
      const n = 3;
      const [x, residual] = [random(numbers, dtype, [n, d]), random(numbers, dtype, [n, d], 10)];
      const [weight, bias] = [random(numbers, 'f32', [d]), random(numbers, 'f32', [d])];
      const [y, stats, sum] = [Tensor.zeros([n, d], dtype), Tensor.zeros([n, 2]), Tensor.zeros([n, d], dtype)];
      run('layer_norm', [x, weight, bias, residual], [y, stats, sum], { eps: EPS });
      const [a, b] = [x.toFloat32(), residual.toFloat32()];
      const added = a.map((value, i) => value + b[i]!);
      sameBytes(t, sum, Tensor.from(added, [n, d], dtype), `sum, d ${d}`);
      const wanted = rows(sum.toFloat32(), d).flatMap((row) => [...norm(row, weight.toFloat32(), bias.toFloat32()).y]);
      isClose(t, y, wanted, `y, d ${d}`);
    }
  });

  test(`layer_norm_backward in ${dtype} is the derivative, adds dsum, and accumulates dweight and dbias`, (t) => {
    const numbers = new Numbers(3);
    for (const d of [2, 3, 8, 17, 64, 70]) {
      const n = 70; // more than two ranges of rows
      const s = random(numbers, dtype, [n, d], 2, 1);
      const [dy, dsum] = [random(numbers, dtype, [n, d]), random(numbers, dtype, [n, d])];
      const [weight, bias] = [random(numbers, 'f32', [d], 0.3, 1), random(numbers, 'f32', [d])];
      const [y, stats] = [Tensor.zeros([n, d], dtype), Tensor.zeros([n, 2])];
      run('layer_norm', [s, weight, bias, null], [y, stats, null], { eps: EPS });
      const dx = Tensor.zeros([n, d], dtype);
      const [w, start] = [weight.toFloat32(), random(numbers, 'f32', [d]).toFloat32()];
      const [dweight, dbias] = [Tensor.from(start, [d]), Tensor.from(start, [d])];
      run('layer_norm_backward', [dy, s, weight, stats, dsum], [dx, dweight, dbias], { eps: EPS });

      const [grads, sums, extra] = [rows(dy.toFloat32(), d), rows(s.toFloat32(), d), dsum.toFloat32()];
      const slope = (row: Float32Array, r: number) =>
        numericGradient((at) => dot(grads[r]!, norm(at, w, bias.toFloat32()).y), row, 1e-4);
      const wanted = sums.flatMap((row, r) => [...slope(row, r)]).map((value, i) => value + extra[i]!);
      // With two elements a row's slope is next to nothing between terms that cancel.
      isClose(t, dx, wanted, `dx, d ${d}`, dtype === 'f32' ? 2e-5 : 6e-3);
      const [dw, db] = [Float64Array.from(start), Float64Array.from(start)];
      sums.forEach((row, r) => {
        const { mean, rstd } = norm(row, w, w);
        row.forEach((value, j) => {
          dw[j]! += grads[r]![j]! * (value - mean) * rstd;
          db[j]! += grads[r]![j]!;
        });
      });
      isClose(t, dweight, dw, `dweight, d ${d}`, 1e-5);
      isClose(t, dbias, db, `dbias, d ${d}`);

      // Each of the two alone, neither, and in the memory of dy: the same bytes.
      const [aloneW, aloneB] = [Tensor.from(start, [d]), Tensor.from(start, [d])];
      const other = Tensor.zeros([n, d], dtype);
      run('layer_norm_backward', [dy, s, weight, stats, dsum], [other, aloneW, null], { eps: EPS });
      run('layer_norm_backward', [dy, s, weight, stats, dsum], [other, null, aloneB], { eps: EPS });
      sameBytes(t, aloneW, dweight, `dweight alone, d ${d}`);
      sameBytes(t, aloneB, dbias, `dbias alone, d ${d}`);
      run('layer_norm_backward', [dy, s, weight, stats, dsum], [dy, null, null], { eps: EPS });
      sameBytes(t, dy, dx, `dx over dy, d ${d}`);
    }
  });
}

test('layer_norm_backward gives the same bits on any number of threads', (t) => {
  const numbers = new Numbers(4);
  const [n, d] = [2100, 130];
  const [s, dy, weight] = [random(numbers, 'f32', [n, d]), random(numbers, 'f32', [n, d]), random(numbers, 'f32', [d])];
  const stats = random(numbers, 'f32', [n, 2]);
  sameForAnyThreads(t, () => {
    const [dx, dweight, dbias] = [Tensor.zeros([n, d]), Tensor.zeros([d]), Tensor.zeros([d])];
    run('layer_norm_backward', [dy, s, weight, stats, null], [dx, dweight, dbias], { eps: EPS });
    return [dx, dweight, dbias];
  });
});

test('layer_norm takes no rows at all, and names the operand that is wrong', (t) => {
  const [weight, none] = [Tensor.zeros([8]), Tensor.zeros([0, 8])];
  t.notThrows(() => run('layer_norm', [none, weight, weight, null], [none, Tensor.zeros([0, 2]), null]));
  const [x, y, stats] = [Tensor.zeros([2, 8]), Tensor.zeros([2, 8]), Tensor.zeros([2, 2])];
  throwsCode(t, 'ERR_DTYPE', /layer_norm: bias is bf16, expected f32/, () =>
    run('layer_norm', [x, weight, Tensor.zeros([8], 'bf16'), null], [y, stats, null]),
  );
  throwsCode(t, 'ERR_SHAPE', /layer_norm: stats has shape \[2\], expected \[2,2\]/, () =>
    run('layer_norm', [x, weight, weight, null], [y, Tensor.zeros([2]), null]),
  );
});
