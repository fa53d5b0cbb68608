import test from 'ava';
import {
  ACTIVATIONS,
  integers,
  isClose,
  Numbers,
  random,
  run,
  sameBytes,
  sameForAnyThreads,
  Tensor,
  throwsCode,
} from './support.js';

for (const dtype of ACTIVATIONS) {
  for (const weightType of ['f32', 'bf16', 'f16'] as const) {
    test(`embedding takes rows of ${weightType} weights as ${dtype}`, (t) => {
      const numbers = new Numbers(1);
      for (const d of [1, 5, 16, 33, 200]) {
        const weight = random(numbers, weightType, [11, d]);
        const ids = [10, 0, 3, 3, 7];
        const y = Tensor.zeros([ids.length, d], dtype);
        run('embedding', [integers(ids), weight], [y]);
        const table = weight.toFloat32();
        const expected = ids.flatMap((id) => [...table.subarray(id * d, (id + 1) * d)]);
        sameBytes(t, y, Tensor.from(Float32Array.from(expected), [ids.length, d], dtype), `d ${d}`);
      }
    });
  }

  test(`embedding_backward adds ${dtype} rows to the rows of their ids, repeated ids too`, (t) => {
    const numbers = new Numbers(2);
    for (const d of [1, 5, 16, 300]) {
      const ids = [4, 1, 4, 0, 4, 1];
      const dy = random(numbers, dtype, [ids.length, d]);
      const before = random(numbers, 'f32', [6, d]);
      const dweight = Tensor.from(before.toFloat32(), [6, d]);
      run('embedding_backward', [integers(ids), dy], [dweight]);
      const expected = Float64Array.from(before.toFloat32());
      dy.toFloat32().forEach((value, i) => {
        expected[ids[Math.floor(i / d)]! * d + (i % d)]! += value;
      });
      isClose(t, dweight, expected, `d ${d}`);
    }
  });
}

test('embedding_backward gives the same bits on any number of threads', (t) => {
  const numbers = new Numbers(3);
  const ids = integers(Array.from({ length: 500 }, () => Math.floor(numbers.uniform() * 7)));
  const dy = random(numbers, 'f32', [500, 900]);
  sameForAnyThreads(t, () => {
    const dweight = Tensor.zeros([7, 900]);
    run('embedding_backward', [ids, dy], [dweight]);
    return [dweight];
  });
});

test('embedding refuses an id outside the table and writes nothing', (t) => {
  const y = Tensor.zeros([3, 4]);
  const weight = random(new Numbers(4), 'f32', [5, 4]);
  throwsCode(t, 'ERR_ARGUMENT', /embedding: ids\[2\] is 5, expected 0\.\.4/, () =>
    run('embedding', [integers([0, 1, 5]), weight], [y]),
  );
  throwsCode(t, 'ERR_ARGUMENT', /embedding: ids\[1\] is -1, expected 0\.\.4/, () =>
    run('embedding', [integers([0, -1, 2]), weight], [y]),
  );
  t.true(y.toFloat32().every((value) => value === 0));
  throwsCode(t, 'ERR_SHAPE', /embedding: y has shape \[3,4\], expected \[2,4\]/, () =>
    run('embedding', [integers([0, 1]), weight], [y]),
  );
});
