import test from 'ava';
import { ACTIVATIONS, isClose, LENGTHS, Numbers, random, run, sameBytes, Tensor, throwsCode } from './support.js';

const silu = (x: number) => x / (1 + Math.exp(-x));
const siluSlope = (x: number) => {
  const step = 1e-5;
  return (silu(x + step) - silu(x - step)) / (2 * step);
};

for (const dtype of ACTIVATIONS) {
  test(`swiglu in ${dtype} and its backward are silu(gate) * up and its derivatives`, (t) => {
    const numbers = new Numbers(1);
    for (const f of [...LENGTHS, 40_001]) {
      const n = f > 1000 ? 2 : 3;
      const [gate, up, dy] = [random(numbers, dtype, [n, f], 4), random(numbers, dtype, [n, f]), random(numbers, dtype, [n, f])];
      const [g, u, d] = [gate.toFloat32(), up.toFloat32(), dy.toFloat32()];
      const y = Tensor.zeros([n, f], dtype);
      run('swiglu', [gate, up], [y]);
      isClose(
        t,
        y,
        Float64Array.from(g, (x, i) => silu(x) * u[i]!),
        `y, f ${f}`,
      );

      const [dgate, dup] = [Tensor.zeros([n, f], dtype), Tensor.zeros([n, f], dtype)];
      run('swiglu_backward', [dy, gate, up], [dgate, dup]);
      isClose(
        t,
        dup,
        Float64Array.from(g, (x, i) => silu(x) * d[i]!),
        `dup, f ${f}`,
      );
      isClose(
        t,
        dgate,
        Float64Array.from(g, (x, i) => siluSlope(x) * u[i]! * d[i]!),
        `dgate, f ${f}`,
      );

      run('swiglu_backward', [dy, gate, up], [gate, up]);
      sameBytes(t, gate, dgate, 'dgate in the memory of gate');
      sameBytes(t, up, dup, 'dup in the memory of up');
    }
  });
}

test('swiglu of gates beyond the range of exp is 0 or the gate itself', (t) => {
  const gate = Tensor.from(Float32Array.of(-1e30, -200, -104, 0, 104, 200, 1e30), [1, 7]);
  const up = Tensor.from(new Float32Array(7).fill(1), [1, 7]);
  const y = Tensor.zeros([1, 7]);
  run('swiglu', [gate, up], [y]);
  const values = y.toFloat32();
  t.true(Math.abs(values[0]!) === 0 && Math.abs(values[1]!) === 0 && Math.abs(values[2]!) < 1e-40);
  t.deepEqual([...values.slice(3)], [0, 104, 200, Math.fround(1e30)]);
});

test('swiglu names the operand that is wrong', (t) => {
  const a = Tensor.zeros([2, 8]);
  throwsCode(t, 'ERR_SHAPE', /swiglu: up has shape \[2,9\], expected \[2,8\]/, () =>
    run('swiglu', [a, Tensor.zeros([2, 9])], [a]),
  );
  throwsCode(t, 'ERR_DTYPE', /swiglu: up is bf16, expected f32/, () => run('swiglu', [a, Tensor.zeros([2, 8], 'bf16')], [a]));
});
