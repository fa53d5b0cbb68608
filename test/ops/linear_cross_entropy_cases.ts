/** What `linear_cross_entropy` must compute, in F64; run by its test here and for each instruction set in a process of its own. */
import { addon, type TensorRef } from '../../lib/native.js';
import {
  download,
  expectClose,
  filled,
  type Host,
  integers,
  Numbers,
  random,
  randomNf4,
  type Sum,
  toBf16,
  upload,
} from './matrices.js';

export const IGNORED = -100;

export interface Case {
  readonly n: number;
  readonly width: number;
  readonly vocab: number;
  readonly dtype: 'f32' | 'bf16';
  readonly weight: 'f32' | 'bf16' | 'f16' | 'nf4' | 'nf4-double';
  /** One row in so many has a target; 0: none has. */
  readonly every: number;
}

export interface Operands {
  readonly x: Host;
  readonly weight: Host;
  readonly targets: readonly number[];
  readonly scale: number;
}

export function operandsOf(c: Case, seed: number): Operands {
  const numbers = new Numbers(seed);
  const x = random(numbers, c.dtype, [c.n, c.width]);
  const shape = [c.vocab, c.width] as const;
  const spread = 2 / Math.sqrt(c.width);
  const weight =
    c.weight === 'nf4' || c.weight === 'nf4-double'
      ? randomNf4(numbers, shape, c.weight === 'nf4-double')
      : random(numbers, c.weight, shape, spread);
  const targets = Array.from({ length: c.n }, (_, t) =>
    c.every > 0 && t % c.every === 0 ? Math.floor(numbers.uniform() * c.vocab) : IGNORED,
  );
  return { x, weight, targets, scale: 0.125 };
}

export interface Results {
  readonly loss: TensorRef;
  readonly dx: TensorRef;
  readonly dweight: TensorRef;
}

export const BEFORE = 0.5;

export function run(c: Case, o: Operands): Results {
  const loss = upload(filled('f32', [1], BEFORE));
  const dx = upload(filled(c.dtype, [c.n, c.width], 9));
  const dweight = upload(filled('f32', [c.vocab, c.width], BEFORE));
  addon().call(
    'linear_cross_entropy',
    [upload(o.x), upload(o.weight), upload(integers(o.targets)), upload(filled('f32', [1], o.scale))],
    [loss, dx, dweight],
    {},
  );
  return { loss, dx, dweight };
}

/** Losses of rows and the gradient of their sum by logits, from factors as the op has them. */
export function reference(c: Case, o: Operands): { loss: number; losses: number[]; dx: Sum; dweight: Sum } {
  const narrow = c.dtype === 'bf16';
  const w = narrow ? o.weight.values.map((v) => toBf16(Math.fround(v))) : o.weight.values;
  const x = o.x.values;
  const { n, width, vocab } = c;
  const dx = { values: new Float64Array(n * width), magnitudes: new Float64Array(n * width) };
  const dweight = {
    values: new Float64Array(vocab * width).fill(BEFORE),
    magnitudes: new Float64Array(vocab * width).fill(BEFORE),
  };
  const losses: number[] = [];
  let loss = 0;
  for (let t = 0; t < n; t++) {
    const target = o.targets[t]!;
    if (target === IGNORED) continue;
    const logits = new Float64Array(vocab);
    for (let v = 0; v < vocab; v++) for (let j = 0; j < width; j++) logits[v]! += x[t * width + j]! * w[v * width + j]!;
    const top = logits.reduce((a, b) => Math.max(a, b));
    const total = logits.reduce((sum, l) => sum + Math.exp(l - top), 0);
    losses.push(Math.log(total) + top - logits[target]!);
    loss += losses.at(-1)!;
    for (let v = 0; v < vocab; v++) {
      let g = o.scale * (Math.exp(logits[v]! - top) / total - (v === target ? 1 : 0));
      if (narrow) g = toBf16(g);
      for (let j = 0; j < width; j++) {
        dx.values[t * width + j]! += g * w[v * width + j]!;
        dx.magnitudes[t * width + j]! += Math.abs(g * w[v * width + j]!);
        dweight.values[v * width + j]! += g * x[t * width + j]!;
        dweight.magnitudes[v * width + j]! += Math.abs(g * x[t * width + j]!);
      }
    }
  }
  return { loss: loss * o.scale, losses, dx, dweight };
}

export function check(c: Case, seed: number): void {
  const o = operandsOf(c, seed);
  const got = run(c, o);
  const want = reference(c, o);
  const name = JSON.stringify(c);
  const loss = download(got.loss)[0]!;
  if (!(Math.abs(loss - want.loss - BEFORE) <= 2e-6 * (Math.abs(want.loss) + BEFORE)))
    throw new Error(`${name} loss is ${loss}, expected ${want.loss + BEFORE}`);
  // A logit's error of 1e-6 moves its probability by as much, relatively; in bf16 that can be a step of the rounding.
  const relative = c.dtype === 'bf16' ? 2 ** -8 : 2e-5;
  expectClose(`${name} dx`, got.dx, want.dx, relative);
  expectClose(`${name} dweight`, got.dweight, want.dweight, relative);
}

export function cases(): Case[] {
  const list: Case[] = [];
  const shapes = [
    [1, 1, 1],
    [1, 64, 130],
    [5, 7, 33],
    [8, 64, 17],
    [19, 33, 257],
    [64, 96, 512],
    [130, 40, 1030],
  ] as const;
  let turn = 0;
  for (const dtype of ['f32', 'bf16'] as const)
    for (const [n, width, vocab] of shapes)
      for (const weight of ['f32', 'bf16', 'f16', 'nf4', 'nf4-double'] as const)
        list.push({ n, width, vocab, dtype, weight, every: [1, 3, 2, 0][turn++ % 4]! });
  return list;
}

export function checkAll(): number {
  const list = cases();
  list.forEach((c, i) => {
    check(c, i + 1);
  });
  return list.length;
}
