import test from 'ava';
import {
  ACTIVATIONS,
  type Activation,
  dot,
  integers,
  isClose,
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
const HEAD_DIMS = [2, 6, 8, 10, 18, 32, 34, 72, 128, 130];

interface Case {
  readonly dtype: Activation;
  readonly n: number;
  readonly heads: number;
  readonly headDim: number;
  readonly x: Tensor;
  readonly weight: Tensor | null;
  readonly cos: Tensor;
  readonly sin: Tensor;
}

function makeCase(
  numbers: Numbers,
  dtype: Activation,
  weightType: Activation | null,
  n: number,
  heads: number,
  headDim: number,
): Case {
  const angles = Float64Array.from({ length: (n * headDim) / 2 }, () => numbers.uniform() * 7);
  const table = (f: (x: number) => number) => Tensor.from(Float32Array.from(angles, f), [n, headDim / 2]);
  return {
    dtype,
    n,
    heads,
    headDim,
    x: random(numbers, dtype, [n, heads * headDim], 2),
    weight: weightType && random(numbers, weightType, [headDim], 0.3, 1),
    cos: table(Math.cos),
    sin: table(Math.sin),
  };
}

/** One head in F64. */
function forward(x: ArrayLike<number>, weight: ArrayLike<number> | undefined, cos: ArrayLike<number>, sin: ArrayLike<number>) {
  const half = x.length / 2;
  const rstd = weight ? 1 / Math.sqrt(dot(x, x) / x.length + EPS) : 1;
  const z = Array.from(x, (value, j) => value * rstd * (weight?.[j] ?? 1));
  const y = z.map((value, j) =>
    j < half ? value * cos[j]! - z[j + half]! * sin[j]! : value * cos[j - half]! + z[j - half]! * sin[j - half]!,
  );
  return { y, rstd };
}

/** The heads of a case, each with its part of the tables. */
function heads({ heads: count, headDim, x, weight, cos, sin }: Case) {
  const w = weight?.toFloat32();
  const [c, s] = [rows(cos.toFloat32(), headDim / 2), rows(sin.toFloat32(), headDim / 2)];
  return rows(x.toFloat32(), headDim).map((row, head) => {
    const t = Math.floor(head / count);
    const tables = [c[t]!, s[t]!] as const;
    return { row, tables, run: (at: ArrayLike<number>, by: ArrayLike<number> | undefined = w) => forward(at, by, ...tables) };
  });
}

for (const dtype of ACTIVATIONS) {
  for (const weightType of [...ACTIVATIONS, null]) {
    const name = weightType ? `with a norm of ${weightType} weights` : 'without a norm';
    test(`qk_norm_rope in ${dtype} ${name} and its backward are the F64 formula and its derivatives`, (t) => {
      const numbers = new Numbers(1);
      for (const headDim of HEAD_DIMS) {
        const c = makeCase(numbers, dtype, weightType, 5, 3, headDim);
        const shape = [c.n, c.heads * headDim];
        const [y, rstd] = [Tensor.zeros(shape, dtype), c.weight && Tensor.zeros([c.n, c.heads])];
        run('qk_norm_rope', [c.x, c.weight, c.cos, c.sin], [y, rstd], { head_dim: headDim, eps: EPS });
        const expected = heads(c).map((head) => head.run(head.row));
        isClose(
          t,
          y,
          expected.flatMap((head) => head.y),
          `y, head_dim ${headDim}`,
        );
        if (rstd)
          isClose(
            t,
            rstd,
            expected.map((head) => head.rstd),
            `rstd, head_dim ${headDim}`,
          );

        const dy = random(numbers, dtype, shape);
        const grads = rows(dy.toFloat32(), headDim);
        const before = random(numbers, 'f32', [headDim]);
        const dweight = c.weight && Tensor.from(before.toFloat32(), [headDim]);
        const dx = Tensor.zeros(shape, dtype);
        run('qk_norm_rope_backward', [dy, c.x, c.weight, rstd, c.cos, c.sin], [dx, dweight], { head_dim: headDim, eps: EPS });
        const dweights = Float64Array.from(before.toFloat32());
        const wanted = heads(c).flatMap((head, i) => {
          const grad = grads[i]!;
          if (c.weight) {
            const slope = numericGradient((w) => dot(grad, head.run(head.row, w).y), c.weight.toFloat32());
            for (const [j, value] of slope.entries()) dweights[j]! += value;
          }
          return [...numericGradient((x) => dot(grad, head.run(x).y), head.row)];
        });
        isClose(t, dx, wanted, `dx, head_dim ${headDim}`);
        if (dweight) isClose(t, dweight, dweights, `dweight, head_dim ${headDim}`, 1e-5);

        run('qk_norm_rope_backward', [dy, c.x, c.weight, rstd, c.cos, c.sin], [dy, null], { head_dim: headDim, eps: EPS });
        sameBytes(t, dy, dx, `dx over dy, head_dim ${headDim}`);
      }
    });
  }
}

test('qk_norm_rope_backward gives the same bits on any number of threads', (t) => {
  const c = makeCase(new Numbers(2), 'f32', 'f32', 700, 2, 64);
  const [dy, rstd] = [random(new Numbers(3), 'f32', [700, 128]), random(new Numbers(4), 'f32', [700, 2])];
  sameForAnyThreads(t, () => {
    const [dx, dweight] = [Tensor.zeros([700, 128]), Tensor.zeros([64])];
    run('qk_norm_rope_backward', [dy, c.x, c.weight, rstd, c.cos, c.sin], [dx, dweight], { head_dim: 64, eps: EPS });
    return [dx, dweight];
  });
});

/** The axis of each frequency as transformers' apply_interleaved_mrope picks it: slices of every third column from 1 and from 2. */
function interleavedAxes(half: number, [, height, width]: readonly [number, number, number]): number[] {
  const axes = new Array<number>(half).fill(0);
  for (let j = 1; j < height * 3; j += 3) axes[j] = 1;
  for (let j = 2; j < width * 3; j += 3) axes[j] = 2;
  return axes;
}

test('rope_table takes each frequency from its axis, and reduces angles of positions up to 2^31 exactly', (t) => {
  const numbers = new Numbers(5);
  for (const { half, sections, theta } of [
    { half: 64, sections: [24, 20, 20], theta: 5e6 },
    { half: 64, sections: [22, 21, 21], theta: 1e6 },
    { half: 10, sections: [4, 3, 3], theta: 1e4 },
    { half: 150, sections: [50, 50, 50], theta: 1e4 },
  ] as const) {
    for (const most of [3000, 262_144, 2_147_483_647]) {
      const n = 133;
      const positions = Array.from({ length: 3 * n }, () => Math.floor(numbers.uniform() * most));
      for (const interleaved of [true, false]) {
        const [cos, sin] = [Tensor.zeros([n, half]), Tensor.zeros([n, half])];
        const [section_t, section_h, section_w] = sections;
        run('rope_table', [integers(positions, [3, n])], [cos, sin], {
          theta,
          section_t,
          section_h,
          section_w,
          interleaved: Number(interleaved),
        });
        const axes = interleaved
          ? interleavedAxes(half, sections)
          : sections.flatMap((length, axis) => new Array<number>(length).fill(axis));
        const angles = Array.from({ length: n * half }, (_, i) => {
          const j = i % half;
          const frequency = Math.fround(1 / Math.fround(theta ** Math.fround((2 * j) / (2 * half))));
          return Math.fround(Math.fround(positions[axes[j]! * n + Math.floor(i / half)]!) * frequency);
        });
        for (const [table, f] of [
          [cos, Math.cos],
          [sin, Math.sin],
        ] as const) {
          const worst = table.toFloat32().reduce((most_, value, i) => Math.max(most_, Math.abs(value - f(angles[i]!))), 0);
          t.true(
            worst <= 2 ** -25 * 1.001,
            `theta ${theta}, positions to ${most}, interleaved ${interleaved}: ${f.name} off by ${worst}`,
          );
        }
      }
    }
  }
});

test('rotary ops name what is wrong', (t) => {
  const [cos, sin] = [Tensor.zeros([2, 4]), Tensor.zeros([2, 4])];
  const positions = integers([0, 1, 0, 1, 0, 1], [3, 2]);
  throwsCode(t, 'ERR_ARGUMENT', /rope_table: sections 2 \+ 1 \+ 2 do not sum to head_dim\/2 = 4/, () =>
    run('rope_table', [positions], [cos, sin], { theta: 1e4, section_t: 2, section_h: 1, section_w: 2 }),
  );
  const x = Tensor.zeros([2, 16]);
  throwsCode(t, 'ERR_ARGUMENT', /qk_norm_rope: head_dim is 7, expected a positive even number/, () =>
    run('qk_norm_rope', [x, null, cos, sin], [x, null], { head_dim: 7 }),
  );
  throwsCode(t, 'ERR_SHAPE', /qk_norm_rope: x has 16 columns, expected a multiple of head_dim 6/, () =>
    run('qk_norm_rope', [x, null, cos, sin], [x, null], { head_dim: 6 }),
  );
  throwsCode(t, 'ERR_ARGUMENT', /qk_norm_rope: rstd was given, expected none without weight/, () =>
    run('qk_norm_rope', [x, null, cos, sin], [x, Tensor.zeros([2, 2])], { head_dim: 8 }),
  );
});
