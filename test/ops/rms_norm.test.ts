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

/** One row in F64: y and rstd. */
function norm(s: ArrayLike<number>, weight: ArrayLike<number>): { y: Float64Array; rstd: number } {
  const rstd = 1 / Math.sqrt(dot(s, s) / s.length + EPS);
  return { y: Float64Array.from(s, (value, j) => weight[j]! * value * rstd), rstd };
}

for (const dtype of ACTIVATIONS) {
  for (const weightType of ACTIVATIONS) {
    test(`rms_norm in ${dtype} with ${weightType} weights is the F64 norm, at any row length`, (t) => {
      const numbers = new Numbers(1);
      for (const d of LENGTHS) {
        const n = 5;
        const x = random(numbers, dtype, [n, d], 3);
        const weight = random(numbers, weightType, [d], 0.3, 1);
        const y = Tensor.zeros([n, d], dtype);
        const rstd = Tensor.zeros([n]);
        run('rms_norm', [x, weight, null], [y, rstd, null], { eps: EPS });
        const expected = rows(x.toFloat32(), d).map((row) => norm(row, weight.toFloat32()));
        isClose(
          t,
          y,
          expected.flatMap((row) => [...row.y]),
          `y, d ${d}`,
        );
        isClose(
          t,
          rstd,
          expected.map((row) => row.rstd),
          `rstd, d ${d}`,
        );
      }
    });
  }

  test(`rms_norm in ${dtype} with a residual norms the sum as stored`, (t) => {
    const numbers = new Numbers(2);
    for (const d of LENGTHS) {
      const n = 3;
      const [x, residual] = [random(numbers, dtype, [n, d]), random(numbers, dtype, [n, d], 10)];
      const weight = random(numbers, 'f32', [d]);
      const [y, rstd, sum] = [Tensor.zeros([n, d], dtype), Tensor.zeros([n]), Tensor.zeros([n, d], dtype)];
      run('rms_norm', [x, weight, residual], [y, rstd, sum], { eps: EPS });
      const [a, b] = [x.toFloat32(), residual.toFloat32()];
      sameBytes(
        t,
        sum,
        Tensor.from(
          a.map((value, i) => value + b[i]!),
          [n, d],
          dtype,
        ),
        `sum, d ${d}`,
      );
      isClose(
        t,
        y,
        rows(sum.toFloat32(), d).flatMap((row) => [...norm(row, weight.toFloat32()).y]),
        `y, d ${d}`,
      );
    }
  });

  test(`rms_norm_backward in ${dtype} is the derivative, adds dsum, and accumulates dweight`, (t) => {
    const numbers = new Numbers(3);
    for (const d of [1, 3, 8, 17, 64, 70]) {
      const n = 70; // more than two ranges of rows
      const [s, dy, dsum] = [random(numbers, dtype, [n, d], 2), random(numbers, dtype, [n, d]), random(numbers, dtype, [n, d])];
      const weight = random(numbers, 'f32', [d], 0.3, 1);
      const [y, rstd] = [Tensor.zeros([n, d], dtype), Tensor.zeros([n])];
      run('rms_norm', [s, weight, null], [y, rstd, null], { eps: EPS });
      const dx = Tensor.zeros([n, d], dtype);
      const before = random(numbers, 'f32', [d]);
      const dweight = Tensor.from(before.toFloat32(), [d]);
      run('rms_norm_backward', [dy, s, weight, rstd, dsum], [dx, dweight], { eps: EPS });

      const [w, grads, sums, extra] = [weight.toFloat32(), rows(dy.toFloat32(), d), rows(s.toFloat32(), d), dsum.toFloat32()];
      const wanted = sums.flatMap((row, r) => [...numericGradient((at) => dot(grads[r]!, norm(at, w).y), row)]);
      isClose(
        t,
        dx,
        wanted.map((value, i) => value + extra[i]!),
        `dx, d ${d}`,
        dtype === 'f32' ? 2e-6 : undefined,
      );
      const dw = Float64Array.from(before.toFloat32());
      sums.forEach((row, r) => {
        const { rstd: scale } = norm(row, w);
        row.forEach((value, j) => {
          dw[j]! += grads[r]![j]! * value * scale;
        });
      });
      isClose(t, dweight, dw, `dweight, d ${d}`);

      // Without dweight, and in the memory of dy: the same dx.
      run('rms_norm_backward', [dy, s, weight, rstd, dsum], [dy, null], { eps: EPS });
      sameBytes(t, dy, dx, `dx over dy, d ${d}`);
    }
  });
}

test('rms_norm_backward gives the same bits on any number of threads', (t) => {
  const numbers = new Numbers(4);
  const [n, d] = [2100, 130];
  const [s, dy] = [random(numbers, 'f32', [n, d]), random(numbers, 'f32', [n, d])];
  const [weight, rstd] = [random(numbers, 'f32', [d]), random(numbers, 'f32', [n])];
  sameForAnyThreads(t, () => {
    const [dx, dweight] = [Tensor.zeros([n, d]), Tensor.zeros([d])];
    run('rms_norm_backward', [dy, s, weight, rstd, null], [dx, dweight], { eps: EPS });
    return [dx, dweight];
  });
});

test('rms_norm takes no rows at all', (t) => {
  t.notThrows(() =>
    run('rms_norm', [Tensor.zeros([0, 8]), Tensor.zeros([8]), null], [Tensor.zeros([0, 8]), Tensor.zeros([0]), null]),
  );
});

test('rms_norm names the operand that is wrong', (t) => {
  const [x, y, rstd] = [Tensor.zeros([2, 8]), Tensor.zeros([2, 8]), Tensor.zeros([2])];
  throwsCode(t, 'ERR_SHAPE', /rms_norm: weight has shape \[7\], expected \[8\]/, () =>
    run('rms_norm', [x, Tensor.zeros([7]), null], [y, rstd, null]),
  );
  throwsCode(t, 'ERR_DTYPE', /rms_norm: weight is f16, expected f32 or bf16/, () =>
    run('rms_norm', [x, Tensor.zeros([8], 'f16'), null], [y, rstd, null]),
  );
  throwsCode(t, 'ERR_DTYPE', /rms_norm: y is bf16, expected f32/, () =>
    run('rms_norm', [x, Tensor.zeros([8]), null], [Tensor.zeros([2, 8], 'bf16'), rstd, null]),
  );
  throwsCode(t, 'ERR_ARGUMENT', /rms_norm: sum is missing/, () => run('rms_norm', [x, Tensor.zeros([8]), x], [y, rstd, null]));
});
