/** What `linear` and `linear_backward` must compute, in F64; run by linear.test.ts here and for each instruction set in a process of its own. */
import { addon, type TensorRef } from '../../lib/native.js';
import {
  add,
  expectClose,
  filled,
  type Host,
  integers,
  multiply,
  Numbers,
  random,
  randomNf4,
  type Sum,
  toBf16,
  transpose,
  upload,
} from './matrices.js';

type Weight = 'f32' | 'bf16' | 'f16' | 'nf4' | 'nf4-double';

export interface Case {
  readonly n: number;
  readonly inputs: number;
  readonly outputs: number;
  readonly dtype: 'f32' | 'bf16';
  readonly weight: Weight;
  readonly rank: number;
  readonly bias: 'f32' | 'bf16' | null;
  readonly dropout: number;
  readonly accumulate: boolean;
}

const SCALE = 1.5;
const SITE = 7;
const KEY = [123456789, -987654321] as const;

/** Philox4x32-10 as Salmon et al. give it: the four words of a counter. */
export function philox(counter: readonly [number, number, number, number], key: readonly [number, number]): number[] {
  let [x0, x1, x2, x3] = counter.map((x) => BigInt(x >>> 0)) as [bigint, bigint, bigint, bigint];
  let k0 = BigInt(key[0] >>> 0);
  let k1 = BigInt(key[1] >>> 0);
  const low = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const p0 = x0 * 0xd2511f53n;
    const p1 = x2 * 0xcd9e8d57n;
    [x0, x1, x2, x3] = [(p1 >> 32n) ^ x1 ^ k0, p1 & low, (p0 >> 32n) ^ x3 ^ k1, p0 & low];
    k0 = (k0 + 0x9e3779b9n) & low;
    k1 = (k1 + 0xbb67ae85n) & low;
  }
  return [x0, x1, x2, x3].map(Number);
}

/** keep ? 1 / (1 - p) : 0 for each element of x. */
export function dropoutFactors(n: number, width: number, p: number): Float64Array {
  const factors = new Float64Array(n * width);
  for (let t = 0; t < n; t++)
    for (let j = 0; j < width; j += 4) {
      const words = philox([t, j / 4, SITE, 0], KEY);
      for (let w = 0; w < 4 && j + w < width; w++)
        factors[t * width + j + w] = words[w]! >= p * 2 ** 32 ? Math.fround(1 / (1 - p)) : 0;
    }
  return factors;
}

function makeWeight(numbers: Numbers, kind: Weight, shape: readonly [number, number]): Host {
  if (kind === 'nf4') return randomNf4(numbers, shape, false);
  if (kind === 'nf4-double') return randomNf4(numbers, shape, true);
  return random(numbers, kind, shape);
}

export interface Made {
  readonly hosts: {
    x: Host;
    weight: Host;
    bias: Host | null;
    a: Host | null;
    b: Host | null;
    dy: Host;
    factors: Float64Array | null;
  };
  readonly y: TensorRef;
  readonly u: TensorRef | null;
  readonly dx: TensorRef;
  readonly dweight: TensorRef;
  readonly dbias: TensorRef;
  readonly da: TensorRef | null;
  readonly db: TensorRef | null;
  /** What dx and the accumulated gradients held before. */
  readonly before: number;
}

/** Runs the forward and the backward op of a case. */
export function run(c: Case, seed: number): Made {
  const numbers = new Numbers(seed);
  const { n, inputs, outputs, dtype, rank } = c;
  const before = 0.25;
  const x = random(numbers, dtype, [n, inputs]);
  const dy = random(numbers, dtype, [n, outputs]);
  const weight = makeWeight(numbers, c.weight, [outputs, inputs]);
  const bias = c.bias ? random(numbers, c.bias, [outputs]) : null;
  const a = rank > 0 ? random(numbers, 'f32', [rank, inputs]) : null;
  const b = rank > 0 ? random(numbers, 'f32', [outputs, rank]) : null;
  const y = upload(filled(dtype, [n, outputs], 9));
  const u = rank > 0 ? upload(filled('f32', [n, rank], 9)) : null;
  const dx = upload(filled(dtype, [n, inputs], before));
  const dweight = upload(filled('f32', [outputs, inputs], before));
  const dbias = upload(filled('f32', [outputs], before));
  const da = rank > 0 ? upload(filled('f32', [rank, inputs], before)) : null;
  const db = rank > 0 ? upload(filled('f32', [outputs, rank], before)) : null;
  const on = { x: upload(x), weight: upload(weight), a: a && upload(a), b: b && upload(b), dy: upload(dy) };
  const rng = rank > 0 && c.dropout > 0 ? upload(integers(KEY)) : null;
  const attrs = rank > 0 ? { scale: SCALE, dropout: c.dropout, site: SITE } : {};
  addon().call('linear', [on.x, on.weight, bias && upload(bias), on.a, on.b, rng], [y, u], attrs);
  addon().call('linear_backward', [on.dy, on.x, on.weight, on.a, on.b, u, rng], [dx, dweight, dbias, da, db], {
    ...attrs,
    accumulate: c.accumulate ? 1 : 0,
  });
  const factors = rng ? dropoutFactors(n, inputs, c.dropout) : null;
  return { hosts: { x, weight, bias, a, b, dy, factors }, y, u, dx, dweight, dbias, da, db, before };
}

export function check(c: Case, seed: number): void {
  const { hosts, y, u, dx, dweight, dbias, da, db, before } = run(c, seed);
  const { n, inputs, outputs, rank } = c;
  const narrow = c.dtype === 'bf16';
  // Every factor of a bf16 product is a bf16 number.
  const factor = (x: number): number => (narrow ? toBf16(Math.fround(x)) : x);
  const x = hosts.x.values;
  const dy = hosts.dy.values;
  const w = hosts.weight.values.map(factor);
  const a = hosts.a?.values.map(factor);
  const b = hosts.b?.values.map(factor);
  const { factors } = hosts;
  const dropped = factors ? x.map((value, i) => factor(Math.fround(value * factors[i]!))) : x;
  // F32 sums; a factor that is itself a sum (u, v) may fall on the other side of a bf16 rounding.
  const exact = 2e-6;
  const second = narrow ? 2 ** -8 : 4e-6;
  const name = JSON.stringify(c);
  const plus = (sum: Sum, value: number): Sum =>
    add(sum, { values: sum.values.map(() => value), magnitudes: sum.values.map(() => value) });
  const scaled = (sum: Sum): Sum => ({
    values: sum.values.map((v) => v * SCALE),
    magnitudes: sum.magnitudes.map((v) => v * SCALE),
  });

  const base = multiply(
    n,
    outputs,
    inputs,
    (i, p) => x[i * inputs + p]!,
    (p, j) => w[j * inputs + p]!,
  );
  const biased = hosts.bias
    ? add(base, {
        values: base.values.map((_, i) => hosts.bias!.values[i % outputs]!),
        magnitudes: base.values.map((_, i) => Math.abs(hosts.bias!.values[i % outputs]!)),
      })
    : base;
  const dxBase = multiply(
    n,
    inputs,
    outputs,
    (i, p) => dy[i * outputs + p]!,
    (p, j) => w[p * inputs + j]!,
  );
  const initial = c.accumulate ? before : 0;
  if (!a || !b || !u || !da || !db) {
    expectClose(`${name} y`, y, biased, exact);
    expectClose(`${name} dx`, dx, plus(dxBase, initial), exact);
  } else {
    const wantU = scaled(
      multiply(
        n,
        rank,
        inputs,
        (i, p) => dropped[i * inputs + p]!,
        (p, j) => a[j * inputs + p]!,
      ),
    );
    expectClose(`${name} u`, u, wantU, exact);
    const uFactor = wantU.values.map(factor);
    const lora = multiply(
      n,
      outputs,
      rank,
      (i, p) => uFactor[i * rank + p]!,
      (p, j) => b[j * rank + p]!,
      (i, p) => wantU.magnitudes[i * rank + p]!,
    );
    expectClose(`${name} y`, y, add(biased, lora), second);
    const v = scaled(
      multiply(
        n,
        rank,
        outputs,
        (i, p) => dy[i * outputs + p]!,
        (p, j) => b[p * rank + j]!,
      ),
    );
    const vFactor = v.values.map(factor);
    const through = multiply(
      n,
      inputs,
      rank,
      (i, p) => vFactor[i * rank + p]!,
      (p, j) => a[p * inputs + j]!,
      (i, p) => v.magnitudes[i * rank + p]!,
    );
    const masked: Sum = factors
      ? { values: through.values.map((z, i) => z * factors[i]!), magnitudes: through.magnitudes.map((z, i) => z * factors[i]!) }
      : through;
    expectClose(`${name} dx`, dx, plus(add(dxBase, masked), initial), second);
    const wantDa = multiply(
      rank,
      inputs,
      n,
      (i, p) => vFactor[p * rank + i]!,
      (p, j) => dropped[p * inputs + j]!,
      (i, p) => v.magnitudes[p * rank + i]!,
    );
    expectClose(`${name} da`, da, plus(wantDa, before), second);
    const wantDb = multiply(
      rank,
      outputs,
      n,
      (i, p) => uFactor[p * rank + i]!,
      (p, j) => dy[p * outputs + j]!,
      (i, p) => wantU.magnitudes[p * rank + i]!,
    );
    expectClose(`${name} db`, db, plus(transpose(wantDb, rank, outputs), before), second);
  }
  expectClose(
    `${name} dweight`,
    dweight,
    plus(
      multiply(
        outputs,
        inputs,
        n,
        (i, p) => dy[p * outputs + i]!,
        (p, j) => x[p * inputs + j]!,
      ),
      before,
    ),
    exact,
  );
  expectClose(
    `${name} dbias`,
    dbias,
    plus(
      multiply(
        1,
        outputs,
        n,
        () => 1,
        (p, j) => dy[p * outputs + j]!,
      ),
      before,
    ),
    exact,
  );
}

/** Rows, inputs, outputs: one of everything, odd and even, around the tiles' edges, over a run of k, few rows and many. */
const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [1, 64, 96],
  [2, 7, 5],
  [3, 130, 67],
  [5, 65, 33],
  [8, 100, 48],
  [9, 64, 31],
  [13, 3, 70],
  [14, 32, 32],
  [17, 97, 1],
  [29, 192, 40],
  [33, 130, 129],
  [70, 70, 64],
  [131, 33, 95],
  [64, 600, 50],
  [40, 50, 1100],
  [600, 40, 36],
];

export function cases(): Case[] {
  const list: Case[] = [];
  const weights: readonly Weight[] = ['f32', 'bf16', 'f16', 'nf4', 'nf4-double'];
  const ranks = [0, 16, 3, 1, 8];
  let turn = 0;
  for (const dtype of ['f32', 'bf16'] as const)
    for (const [n, inputs, outputs] of SHAPES) {
      // Each shape takes another mix of the rest; over all shapes every pair meets.
      for (let mix = 0; mix < 5; mix++) {
        const rank = ranks[(turn + mix) % 5]!;
        list.push({
          n,
          inputs,
          outputs,
          dtype,
          weight: weights[mix]!,
          rank,
          bias: ([null, 'f32', 'bf16'] as const)[turn % 3]!,
          dropout: rank > 0 && turn % 2 === 0 ? 0.3 : 0,
          accumulate: turn % 4 < 2,
        });
        turn++;
      }
    }
  return list;
}

export function checkAll(): number {
  const list = cases();
  list.forEach((c, i) => {
    check(c, i + 1);
  });
  return list.length;
}
