import test from 'ava';
import {
  floats,
  integers,
  isClose,
  Numbers,
  random,
  relativeError,
  run,
  sameBytes,
  sameForAnyThreads,
  Tensor,
  throwsCode,
} from './support.js';

const BLOCK = 256;
const [LR, BETA1, BETA2, EPS, DECAY] = [1e-3, 0.9, 0.999, 1e-8, 0.01];

interface Segment {
  readonly numel: number;
  readonly eight: boolean;
  readonly decays: boolean;
}

const blocks = (numel: number) => Math.ceil(numel / BLOCK);

/** Parameters and state of some tensors, laid out one after another as the op wants them. */
class Optimizer {
  readonly elements: number;
  readonly params: Tensor;
  readonly state: readonly Tensor[];
  readonly offsets: readonly number[];
  readonly #segments: Tensor;
  readonly #variant: number;

  constructor(segments: readonly Segment[], start: (elements: number) => Tensor, variant: 0 | 1) {
    const next = { params: 0, eight: 0, full: 0 };
    const rows = segments.flatMap(({ numel, eight, decays }) => {
      const kind = eight ? 'eight' : 'full';
      const row = [next.params, numel, next[kind], Number(eight), Number(decays), 0];
      next.params += blocks(numel);
      next[kind] += blocks(numel);
      return row;
    });
    this.elements = next.params * BLOCK;
    this.offsets = segments.map((_, i) => rows[i * 6]! * BLOCK);
    this.params = start(this.elements);
    this.#segments = integers(rows, [segments.length, 6]);
    this.#variant = variant;
    const [eight, full] = [next.eight * BLOCK, next.full * BLOCK];
    this.state = [
      Tensor.zeros([eight], 'u8'),
      Tensor.zeros([eight], 'u8'),
      Tensor.zeros([next.eight]),
      Tensor.zeros([next.eight]),
      Tensor.zeros([full]),
      Tensor.zeros([full]),
    ];
  }

  step(t: number, grads: Tensor, clip = 1, lr = LR, decay = DECAY): void {
    run(
      'adamw',
      [grads, floats(clip), floats(lr, BETA1, BETA2, EPS, decay, t, 0, 0), this.#segments],
      [this.params, ...this.state],
      { variant: this.#variant },
    );
  }
}

/** AdamW of one element list in F64: `variant` as the op's. */
function reference(p: Float64Array, grads: readonly Float32Array[], clip: number, decay: number, variant: 0 | 1): Float64Array {
  const [m, v] = [new Float64Array(p.length), new Float64Array(p.length)];
  grads.forEach((step, s) => {
    const [c1, c2] = [1 - BETA1 ** (s + 1), Math.sqrt(1 - BETA2 ** (s + 1))];
    step.forEach((raw, i) => {
      const g = raw * clip;
      m[i] = BETA1 * m[i]! + (1 - BETA1) * g;
      v[i] = BETA2 * v[i]! + (1 - BETA2) * g * g;
      if (variant === 1) p[i]! *= 1 - LR * decay;
      p[i]! -=
        variant === 1
          ? (LR / c1) * (m[i]! / (Math.sqrt(v[i]!) / c2 + EPS))
          : ((LR * c2) / c1) * (m[i]! / (Math.sqrt(v[i]!) + c2 * EPS));
      if (variant === 0) p[i]! *= 1 - LR * decay;
    });
  });
  return p;
}

for (const variant of [0, 1] as const) {
  test(`32-bit state, variant ${variant}: twelve steps follow the F64 formula, each tensor with its own decay`, (t) => {
    const numbers = new Numbers(1);
    const segments = [
      { numel: 1000, eight: false, decays: true },
      { numel: 300, eight: false, decays: false },
      { numel: 17_000, eight: false, decays: true },
    ];
    const optimizer = new Optimizer(segments, (n) => random(numbers, 'f32', [n], 0.01), variant);
    const before = optimizer.params.toFloat32();
    const steps = Array.from({ length: 12 }, () => random(numbers, 'f32', [optimizer.elements], 1e-2));
    for (const [s, grads] of steps.entries()) optimizer.step(s + 1, grads, 0.5);
    const after = optimizer.params.toFloat32();
    segments.forEach(({ numel, decays }, k) => {
      const at = optimizer.offsets[k]!;
      const part = (values: Float32Array) => values.slice(at, at + numel);
      const expected = reference(
        Float64Array.from(part(before)),
        steps.map((grads) => part(grads.toFloat32())),
        0.5,
        decays ? DECAY : 0,
        variant,
      );
      // Of what was changed, not of the parameters.
      const change = (values: ArrayLike<number>) => Array.from(values, (value, i) => value - before[at + i]!);
      const error = relativeError(change(part(after)), change(expected));
      t.true(error < 2e-5, `tensor ${k}: off by ${error} of the change`);
      const gap = after.subarray(at + numel, at + blocks(numel) * BLOCK);
      t.deepEqual(gap, before.subarray(at + numel, at + blocks(numel) * BLOCK), `tensor ${k}: elements past its end`);
    });
  });
}

test('8-bit state follows 32-bit state: the change of the parameters stays within 3 %', (t) => {
  const numbers = new Numbers(2);
  const start = random(numbers, 'f32', [8192]);
  const make = (eight: boolean) =>
    new Optimizer([{ numel: 8192, eight, decays: true }], () => Tensor.from(start.toFloat32(), [8192]), 0);
  const [eight, full] = [make(true), make(false)];
  for (let s = 1; s <= 20; s++) {
    const grads = random(numbers, 'f32', [8192], 1e-3, 1e-3);
    eight.step(s, grads);
    full.step(s, grads);
  }
  const change = ({ params }: Optimizer) => params.toFloat32().map((value, i) => value - start.toFloat32()[i]!);
  const error = relativeError(change(eight), change(full));
  t.true(error < 0.03 && error > 0, `off by ${error}`);
});

test('8-bit state: a gradient that is NaN or infinite zeroes its state and leaves its parameter alone', (t) => {
  const numbers = new Numbers(3);
  const optimizer = new Optimizer([{ numel: 512, eight: true, decays: true }], (n) => random(numbers, 'f32', [n]), 0);
  optimizer.step(1, random(numbers, 'f32', [512]));
  const before = optimizer.params.toFloat32();
  const grads = random(numbers, 'f32', [512]).toFloat32();
  grads[3] = Number.NaN;
  grads[300] = Number.NEGATIVE_INFINITY;
  optimizer.step(2, Tensor.from(grads, [512]));
  const after = optimizer.params.toFloat32();
  const [m8, v8] = optimizer.state.map((tensor) => tensor.toBytes()) as [Uint8Array, Uint8Array];
  for (let i = 0; i < 512; i++) {
    const bad = i === 3 || i === 300;
    t.is(after[i] === before[i], bad, `parameter ${i}`);
    if (bad) t.deepEqual([m8[i], v8[i]], [127, 0], `state ${i}: zero is code 127 of m and 0 of v`);
  }
  t.true(after.every(Number.isFinite));
});

test('8-bit state: gradients of zero leave parameters, and the codes that bitsandbytes writes for a block of zeros', (t) => {
  const optimizer = new Optimizer([{ numel: 256, eight: true, decays: false }], (n) => random(new Numbers(4), 'f32', [n]), 0);
  const before = optimizer.params.toBytes();
  optimizer.step(1, Tensor.zeros([256]));
  sameBytes(t, optimizer.params, before, 'params');
  t.true(optimizer.state[0]!.toBytes().every((code) => code === 255));
  t.true(optimizer.state[1]!.toBytes().every((code) => code === 0));
});

test('8-bit state: every requantised code is the nearest of its map, found by a search over all 256', (t) => {
  const [signed, unsigned] = [Tensor.zeros([256]), Tensor.zeros([256])];
  run('dynamic_map', [], [signed, unsigned]);
  // One step from zero state: m = (1 - b1) g and v = (1 - b2) g^2, blocks of every magnitude below their largest element.
  const numbers = new Numbers(5);
  const numel = 64 * BLOCK;
  const grads = Float32Array.from({ length: numel }, () => (numbers.uniform() < 0.5 ? -1 : 1) * 10 ** (-7 * numbers.uniform()));
  const optimizer = new Optimizer([{ numel, eight: true, decays: false }], (n) => Tensor.zeros([n]), 0);
  optimizer.step(1, Tensor.from(grads, [numel]));
  const [m8, v8] = optimizer.state.map((tensor) => tensor.toBytes()) as [Uint8Array, Uint8Array];
  const f = Math.fround;
  const [mFactor, vFactor] = [f(1 - f(BETA1)), f(1 - f(BETA2))];
  const moments = { m: grads.map((g) => f(g * mFactor)), v: grads.map((g) => f(g * f(vFactor * g))) };
  const check = (name: 'm' | 'v', codes: Uint8Array, map: Float32Array) => {
    for (let b = 0; b < 64; b++) {
      const block = moments[name].subarray(b * BLOCK, (b + 1) * BLOCK);
      const inverse = f(1 / block.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
      block.forEach((value, i) => {
        const x = f(value * inverse);
        let best = 0;
        for (let k = 1; k < 256; k++) if (Math.abs(map[k]! - x) < Math.abs(map[best]! - x)) best = k;
        if (name === 'm' && best === 127 && value < 0) best = 126; // keeps the sign
        const code = codes[b * BLOCK + i]!;
        // A value as near to two codes as F32 can tell may go to either.
        if (code !== best)
          t.true(
            Math.abs(Math.abs(map[code]! - x) - Math.abs(map[best]! - x)) < 1e-7 * Math.abs(x),
            `${name}[${b * BLOCK + i}] = ${x}: code ${code}, nearest ${best}`,
          );
      });
    }
  };
  check('m', m8, signed.toFloat32());
  check('v', v8, unsigned.toFloat32());
  t.pass();
});

test('grad_norm is the F64 norm, and clip what torch computes from it', (t) => {
  const numbers = new Numbers(6);
  for (const n of [1, 15, 16, 17, 33_000, 300_001]) {
    const grads = random(numbers, 'f32', [n], 3);
    const [norm, clip] = [Tensor.zeros([1]), Tensor.zeros([1])];
    run('grad_norm', [grads], [norm, clip], { max_grad_norm: 1.5 });
    const expected = Math.sqrt(grads.toFloat32().reduce((sum, g) => sum + g * g, 0));
    isClose(t, norm, [expected], `norm of ${n}`, 6e-8);
    isClose(t, clip, [Math.min(1, 1.5 / (expected + 1e-6))], `clip of ${n}`, 2e-7);
    run('grad_norm', [grads], [norm, clip], { max_grad_norm: 0 });
    t.is(clip.toFloat32()[0], 1, 'no clipping');
  }
  const [norm, clip] = [Tensor.zeros([1]), Tensor.zeros([1])];
  for (const max_grad_norm of [0, 1]) {
    run('grad_norm', [floats(1, Number.NaN)], [norm, clip], { max_grad_norm });
    t.true(Number.isNaN(norm.toFloat32()[0]), 'a NaN is not hidden');
    t.is(clip.toFloat32()[0], 0);
    run('grad_norm', [floats(1, Number.NEGATIVE_INFINITY)], [norm, clip], { max_grad_norm });
    t.deepEqual([norm.toFloat32()[0], clip.toFloat32()[0]], [Number.POSITIVE_INFINITY, 0]);
  }
});

test('a scale of the loss leaves norm and clipped gradients what they are without it, to the bit', (t) => {
  const grads = random(new Numbers(16), 'f32', [5000], 2).toFloat32();
  for (const max_grad_norm of [0, 1.5, 1e6]) {
    const results = [1, 2 ** -10, 2 ** 16, 2 ** 40].map((scale) => {
      const [norm, clip] = [Tensor.zeros([1]), Tensor.zeros([1])];
      const scaled = Tensor.from(
        grads.map((g) => g * scale),
        [grads.length],
      );
      run('grad_norm', [scaled, floats(scale)], [norm, clip], { max_grad_norm });
      return [norm.toFloat32()[0], clip.toFloat32()[0]! * scale];
    });
    for (const result of results) t.deepEqual(result, results[0]);
  }
});

test('a clip of 0, of a gradient that is not finite, leaves parameters and state as they are', (t) => {
  const numbers = new Numbers(17);
  for (const variant of [0, 1] as const) {
    const segments = [
      { numel: 5000, eight: variant === 0, decays: true },
      { numel: 300, eight: false, decays: true },
    ];
    const optimizer = new Optimizer(segments, (n) => random(numbers, 'f32', [n]), variant);
    optimizer.step(1, random(numbers, 'f32', [optimizer.params.numel]), 1);
    const before = [optimizer.params, ...optimizer.state].map((tensor) => tensor.toBytes());
    const grads = random(numbers, 'f32', [optimizer.params.numel]).toFloat32();
    grads[7] = Number.POSITIVE_INFINITY;
    grads[8] = Number.NaN;
    optimizer.step(2, Tensor.from(grads, [grads.length]), 0);
    for (const [i, tensor] of [optimizer.params, ...optimizer.state].entries())
      t.deepEqual(tensor.toBytes(), before[i], `variant ${variant}, array ${i}`);
  }
});

test('grad_norm and adamw give the same bits on any number of threads', (t) => {
  const numbers = new Numbers(7);
  const segments = [
    { numel: 40_000, eight: true, decays: true },
    { numel: 900, eight: false, decays: true },
  ];
  const start = random(numbers, 'f32', [blocks(40_000) * BLOCK + 1024]).toFloat32();
  const grads = random(numbers, 'f32', [start.length]);
  sameForAnyThreads(t, () => {
    const [norm, clip] = [Tensor.zeros([1]), Tensor.zeros([1])];
    run('grad_norm', [grads], [norm, clip], { max_grad_norm: 1 });
    const optimizer = new Optimizer(segments, (n) => Tensor.from(start, [n]), 0);
    for (let s = 1; s <= 3; s++) optimizer.step(s, grads, clip.toFloat32()[0]);
    return [norm, clip, optimizer.params, ...optimizer.state];
  });
});

test('adamw refuses a segment that reaches past its arrays, and 8-bit state in torch order', (t) => {
  const call = (row: number[], variant: number) => () =>
    run(
      'adamw',
      [Tensor.zeros([512]), floats(1), floats(LR, BETA1, BETA2, EPS, 0, 1, 0, 0), integers(row, [1, 6])],
      [
        Tensor.zeros([512]),
        Tensor.zeros([256], 'u8'),
        Tensor.zeros([256], 'u8'),
        Tensor.zeros([1]),
        Tensor.zeros([1]),
        Tensor.zeros([256]),
        Tensor.zeros([256]),
      ],
      { variant },
    );
  throwsCode(t, 'ERR_ARGUMENT', /adamw: segments\[0\] is elements 256\.\.513 of params/, call([1, 257, 0, 0, 0, 0], 0));
  throwsCode(t, 'ERR_ARGUMENT', /0\.\.257 of 8-bit state; those hold 512 and 256/, call([0, 257, 0, 1, 0, 0], 0));
  throwsCode(
    t,
    'ERR_ARGUMENT',
    /segments\[0\] has 8-bit state, which variant 1 \(torch\) has not/,
    call([0, 256, 0, 1, 0, 0], 1),
  );
  throwsCode(t, 'ERR_ARGUMENT', /variant is 2, expected 0 \(bitsandbytes\) or 1 \(torch\)/, call([0, 256, 0, 0, 0, 0], 2));
});
