import test from 'ava';
import { ACTIVATIONS, isClose, LENGTHS, Numbers, random, run, sameBytes, Tensor, throwsCode } from './support.js';

/** The density's integral from the left by Simpson's rule: no formula in common with the kernel. */
function phi(x: number): number {
  if (x > 0) return 1 - phi(-x);
  const [from, steps] = [-39, 40_000];
  const width = (x - from) / steps;
  const density = (at: number) => Math.exp((-at * at) / 2) / Math.sqrt(2 * Math.PI);
  let sum = density(from) + density(x);
  for (let i = 1; i < steps; i++) sum += (i % 2 === 1 ? 4 : 2) * density(from + i * width);
  return x <= from ? 0 : (sum * width) / 3;
}

const byTanh = (x: number) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const tanhSlope = (x: number) => (byTanh(x + 1e-5) - byTanh(x - 1e-5)) / 2e-5;
const exactSlope = (x: number) => phi(x) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);

for (const dtype of ACTIVATIONS) {
  test(`gelu by tanh in ${dtype} and its backward are the function and its derivative`, (t) => {
    const numbers = new Numbers(1);
    for (const f of [...LENGTHS, 40_001]) {
      const n = f > 1000 ? 2 : 3;
      const [x, dy] = [random(numbers, dtype, [n, f], 3), random(numbers, dtype, [n, f])];
      const [v, d] = [x.toFloat32(), dy.toFloat32()];
      const [y, dx] = [Tensor.zeros([n, f], dtype), Tensor.zeros([n, f], dtype)];
      run('gelu', [x], [y], { tanh: 1 });
      isClose(t, y, Float64Array.from(v, byTanh), `y, f ${f}`);
      run('gelu_backward', [dy, x], [dx], { tanh: 1 });
      const wanted = Float64Array.from(v, (value, i) => tanhSlope(value) * d[i]!);
      isClose(t, dx, wanted, `dx, f ${f}`);
      run('gelu_backward', [dy, x], [dy], { tanh: 1 });
      sameBytes(t, dy, dx, 'dx in the memory of dy');
      run('gelu', [x], [x], { tanh: 1 });
      sameBytes(t, x, y, 'y in the memory of x');
    }
  });

  test(`exact gelu in ${dtype} and its backward are the function and its derivative, point by point on both sides`, (t) => {
    const points = Float32Array.from({ length: 257 }, (_, i) => (i - 128) / 16);
    const x = Tensor.from(points, [1, 257], dtype);
    const ones = Tensor.from(new Float32Array(257).fill(1), [1, 257], dtype);
    const [y, dx] = [Tensor.zeros([1, 257], dtype), Tensor.zeros([1, 257], dtype)];
    run('gelu', [x], [y]);
    run('gelu_backward', [ones, x], [dx]);
    const [values, slopes] = [y.toFloat32(), dx.toFloat32()];
    const most = dtype === 'f32' ? 4e-6 : 4e-3;
    for (const [i, at] of points.entries()) {
      const wanted = at * phi(at);
      t.true(
        Math.abs(values[i]! - wanted) <= most * Math.abs(wanted) + 1e-8 * Math.abs(at),
        `gelu(${at}) = ${values[i]}, expected ${wanted}`,
      );
      const slope = exactSlope(at);
      const near = most * (Math.abs(slope) + Math.abs(at) * Math.exp((-at * at) / 2) * 0.4) + 1e-8 * Math.abs(at);
      t.true(Math.abs(slopes[i]! - slope) <= near, `the slope at ${at} is ${slopes[i]}, expected ${slope}`);
    }
  });
}

for (const tanh of [0, 1]) {
  test(`gelu ${tanh ? 'by tanh' : 'exact'} of numbers beyond the range of squares is 0 or the number, its slope 0 or 1`, (t) => {
    const x = Tensor.from(Float32Array.of(-3e38, -1e20, -50, 0, 50, 1e20, 3e38), [1, 7]);
    const ones = Tensor.from(new Float32Array(7).fill(1), [1, 7]);
    const [y, dx] = [Tensor.zeros([1, 7]), Tensor.zeros([1, 7])];
    run('gelu', [x], [y], { tanh });
    run('gelu_backward', [ones, x], [dx], { tanh });
    const values = [...y.toFloat32()];
    t.true(
      values.slice(0, 4).every((value) => Math.abs(value) < 1e-20),
      `${values}`,
    );
    t.deepEqual(values.slice(4), [50, 1e20, 3e38].map(Math.fround));
    const slopes = [...dx.toFloat32()];
    t.true(
      slopes.slice(0, 3).every((slope) => Math.abs(slope) < 1e-20),
      `${slopes}`,
    );
    t.deepEqual(slopes.slice(3), [0.5, 1, 1, 1]);
  });
}

test('gelu names the operand that is wrong', (t) => {
  throwsCode(t, 'ERR_SHAPE', /gelu: y has shape \[2,9\], expected \[2,8\]/, () =>
    run('gelu', [Tensor.zeros([2, 8])], [Tensor.zeros([2, 9])]),
  );
});
