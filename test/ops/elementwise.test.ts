import test from 'ava';
import { ACTIVATIONS, integers, LENGTHS, Numbers, random, run, sameBytes, Tensor, throwsCode } from './support.js';

const SIZES = [...LENGTHS, 70_001];

for (const dtype of ACTIVATIONS) {
  test(`add in ${dtype} rounds each sum once, in place too`, (t) => {
    const numbers = new Numbers(1);
    for (const n of SIZES) {
      const [a, b] = [random(numbers, dtype, [n]), random(numbers, dtype, [n], 100)];
      const [x, z] = [a.toFloat32(), b.toFloat32()];
      const expected = Tensor.from(
        x.map((value, i) => value + z[i]!),
        [n],
        dtype,
      );
      const y = Tensor.zeros([n], dtype);
      run('add', [a, b], [y]);
      sameBytes(t, y, expected, `n ${n}`);
      run('add', [a, b], [a]);
      sameBytes(t, a, expected, `in place, n ${n}`);
    }
  });

  test(`select_rows copies rows of ${dtype} in the order asked for`, (t) => {
    const x = random(new Numbers(2), dtype, [6, 37]);
    const rows = [5, 0, 0, 3];
    const y = Tensor.zeros([4, 37], dtype);
    run('select_rows', [x, integers(rows)], [y]);
    const values = x.toFloat32();
    const expected = rows.flatMap((row) => [...values.subarray(row * 37, (row + 1) * 37)]);
    t.deepEqual([...y.toFloat32()], expected);
    throwsCode(t, 'ERR_ARGUMENT', /select_rows: rows\[0\] is 6, expected 0\.\.5/, () =>
      run('select_rows', [x, integers([6])], [Tensor.zeros([1, 37], dtype)]),
    );
  });
}

test('cast between f32, bf16 and f16 rounds to nearest even', (t) => {
  const numbers = new Numbers(3);
  for (const from of ['f32', 'bf16', 'f16'] as const) {
    for (const to of ACTIVATIONS) {
      for (const n of SIZES) {
        const x = random(numbers, from, [n], 10);
        const y = Tensor.zeros([n], to);
        run('cast', [x], [y]);
        sameBytes(t, y, Tensor.from(x.toFloat32(), [n], to), `${from} to ${to}, n ${n}`);
      }
    }
  }
});

test('cast reads every f16, and rounds halfway cases, infinities and NaN to bf16 as IEEE 754 says', (t) => {
  const all = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);
  const half = Tensor.from(all, [65_536], 'f16');
  const y = Tensor.zeros([65_536]);
  run('cast', [half], [y]);
  const expected = half.toFloat32();
  t.true(y.toFloat32().every((value, i) => Object.is(value, expected[i])));

  const bits = Uint32Array.of(
    0x3f808000,
    0x3f818000,
    0x3f808001,
    0x3f807fff,
    0x7f7fffff,
    0x7f800000,
    0xff800000,
    0x7f800001,
    0xffc12345,
    0x00008000,
    0x80018000,
  );
  const z = Tensor.zeros([bits.length], 'bf16');
  run('cast', [Tensor.from(new Float32Array(bits.buffer), [bits.length])], [z]);
  t.deepEqual(
    [...new Uint16Array(z.toBytes().slice().buffer)],
    [0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0x7f80, 0xff80, 0x7fc0, 0x7fc0, 0x0000, 0x8002],
  );
});

test('fill writes every element', (t) => {
  for (const n of SIZES) {
    const y = random(new Numbers(4), 'f32', [n]);
    run('fill', [], [y], { value: -2.5 });
    t.true(
      y.toFloat32().every((value) => value === -2.5),
      `n ${n}`,
    );
  }
});

test('copy moves every byte', (t) => {
  for (const n of [1, 63, 131_072, 131_073, 500_001]) {
    const x = Tensor.from(
      Uint8Array.from({ length: n }, (_, i) => (i * 31) >> 3),
      [n],
    );
    const y = Tensor.zeros([n], 'u8');
    run('copy', [x], [y]);
    sameBytes(t, y, x, `n ${n}`);
  }
});

test('the movers name the operand that is wrong', (t) => {
  throwsCode(t, 'ERR_SHAPE', /add: b has 4 elements, expected 3/, () =>
    run('add', [Tensor.zeros([3]), Tensor.zeros([4])], [Tensor.zeros([3])]),
  );
  throwsCode(t, 'ERR_DTYPE', /add: b is bf16, expected f32/, () =>
    run('add', [Tensor.zeros([3]), Tensor.zeros([3], 'bf16')], [Tensor.zeros([3])]),
  );
  throwsCode(t, 'ERR_DTYPE', /cast: y is f16, expected f32 or bf16/, () =>
    run('cast', [Tensor.zeros([3])], [Tensor.zeros([3], 'f16')]),
  );
  throwsCode(t, 'ERR_SHAPE', /copy: y has shape \[4\], expected \[3\]/, () =>
    run('copy', [Tensor.zeros([3], 'u8')], [Tensor.zeros([4], 'u8')]),
  );
});
