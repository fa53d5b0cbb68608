import test from 'ava';
import { ACTIVATIONS, integers, isClose, Numbers, random, rows, run, sameBytes, Tensor, throwsCode } from './support.js';

const SHAPES = [
  [3, 1, 2],
  [5, 2, 8],
  [4, 2, 36],
  [7, 3, 64],
  [3, 2, 72],
  [2, 1, 80],
] as const;

function part(values: Float32Array, width: number, which: number): Float32Array {
  const own = rows(values, width).filter((_, i) => i % 3 === which);
  return Float32Array.from(own.flatMap((row) => [...row]));
}

for (const dtype of ACTIVATIONS) {
  test(`qkv_rope in ${dtype} splits and turns as qk_norm_rope turns each part, and its backward turns back`, (t) => {
    const numbers = new Numbers(1);
    for (const [n, heads, dim] of SHAPES) {
      const width = heads * dim;
      const qkv = random(numbers, dtype, [n, 3 * width]);
      const [cos, sin] = [random(numbers, 'f32', [n, dim / 2]), random(numbers, 'f32', [n, dim / 2])];
      const out = [0, 1, 2].map(() => Tensor.zeros([n, width], dtype));
      run('qkv_rope', [qkv, cos, sin], out, { head_dim: dim });
      const values = qkv.toFloat32();
      for (const which of [0, 1]) {
        const alone = Tensor.zeros([n, width], dtype);
        const x = Tensor.from(part(values, width, which), [n, width], dtype);
        run('qk_norm_rope', [x, null, cos, sin], [alone, null], { head_dim: dim });
        sameBytes(t, out[which]!, alone, `part ${which}, ${heads} x ${dim}`);
      }
      sameBytes(t, out[2]!, Tensor.from(part(values, width, 2), [n, width], dtype), `values, ${heads} x ${dim}`);

      const grads = [0, 1, 2].map(() => random(numbers, dtype, [n, width]));
      const dqkv = Tensor.zeros([n, 3 * width], dtype);
      run('qkv_rope_backward', [...grads, cos, sin], [dqkv], { head_dim: dim });
      const back = dqkv.toFloat32();
      for (const which of [0, 1]) {
        const alone = Tensor.zeros([n, width], dtype);
        run('qk_norm_rope_backward', [grads[which]!, grads[which]!, null, null, cos, sin], [alone, null], { head_dim: dim });
        sameBytes(t, Tensor.from(part(back, width, which), [n, width], dtype), alone, `gradient ${which}`);
      }
      sameBytes(t, Tensor.from(part(back, width, 2), [n, width], dtype), grads[2]!, 'gradient of the values');
    }
  });
}

test('an axial rope table gives each axis all the frequencies that its section has room for', (t) => {
  const [n, section, theta] = [6, 9, 1e4];
  const positions = [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 40, 500, 5, 0, 7, 1000, 2, 3];
  const [cos, sin] = [Tensor.zeros([n, 2 * section]), Tensor.zeros([n, 2 * section])];
  const attrs = { theta, section_t: 0, section_h: section, section_w: section, axial: 1 };
  run('rope_table', [integers(positions, [3, n])], [cos, sin], attrs);
  const angles = Array.from({ length: n * 2 * section }, (_, i) => {
    const [row, j] = [Math.floor(i / (2 * section)), i % (2 * section)];
    const frequency = Math.fround(1 / Math.fround(theta ** Math.fround((2 * (j % section)) / (2 * section))));
    return Math.fround(positions[(j < section ? n : 2 * n) + row]! * frequency);
  });
  isClose(t, cos, angles.map(Math.cos), 'cos', 1e-7);
  isClose(t, sin, angles.map(Math.sin), 'sin', 1e-7);
});

test('qkv_rope names the operand or attribute that is wrong', (t) => {
  const [cos, q] = [Tensor.zeros([2, 2]), Tensor.zeros([2, 4])];
  throwsCode(t, 'ERR_SHAPE', /qkv_rope: qkv has 16 columns, expected a multiple of 3 times head_dim 4/, () =>
    run('qkv_rope', [Tensor.zeros([2, 16]), cos, cos], [q, q, q], { head_dim: 4 }),
  );
  throwsCode(t, 'ERR_SHAPE', /qkv_rope: v has shape \[2,8\], expected \[2,4\]/, () =>
    run('qkv_rope', [Tensor.zeros([2, 12]), cos, cos], [q, q, Tensor.zeros([2, 8])], { head_dim: 4 }),
  );
  throwsCode(t, 'ERR_ARGUMENT', /rope_table: interleaved and axial are both set, expected one at most/, () =>
    run('rope_table', [integers([0, 0, 0], [3, 1])], [Tensor.zeros([1, 2]), Tensor.zeros([1, 2])], { interleaved: 1, axial: 1 }),
  );
});
