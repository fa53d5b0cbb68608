import test from 'ava';
import { ACTIVATIONS, LENGTHS, Numbers, random, run, sameBytes, sameForAnyThreads, Tensor, throwsCode } from './support.js';

const f = Math.fround;
const SIZES = [...LENGTHS, 128, 4096, 4097, 40_000, 64 * 520 + 9];

/** bitsandbytes' codebook. */
const CODES = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];
/** The midpoints of the codes in F32, where its CPU backend splits them. */
const THRESHOLDS = CODES.slice(1).map((code, k) => f(f(code + CODES[k]!) / 2));

function quantize(x: Float32Array): { codes: Uint8Array; absmax: Float32Array } {
  const whole = x.length - (x.length % 64);
  const absmax = Float32Array.from({ length: Math.ceil(x.length / 64) }, (_, b) =>
    x.subarray(b * 64, b * 64 + 64).reduce((most, value) => Math.max(most, Math.abs(value)), b * 64 < whole ? 0 : f(1e-38)),
  );
  const scaled = (i: number): number => {
    if (i >= x.length) return 0;
    const most = absmax[i >> 6]!;
    return i < whole ? f(x[i]! * f(1 / Math.max(most, f(1e-38)))) : f(x[i]! / most); // the last, partial block is divided
  };
  const code = (i: number): number => {
    const value = scaled(i);
    return THRESHOLDS.filter((threshold) => value > threshold).length;
  };
  return { codes: Uint8Array.from({ length: Math.ceil(x.length / 2) }, (_, j) => (code(2 * j) << 4) | code(2 * j + 1)), absmax };
}

function dequantize(codes: Uint8Array, absmax: ArrayLike<number>, numel: number): Float32Array {
  return Float32Array.from({ length: numel }, (_, i) => f(f(CODES[(codes[i >> 1]! >> (i % 2 ? 0 : 4)) & 15]!) * absmax[i >> 6]!));
}

function quantized(x: Tensor): { codes: Tensor; absmax: Tensor } {
  const codes = Tensor.zeros([Math.ceil(x.numel / 2)], 'u8');
  const absmax = Tensor.zeros([Math.ceil(x.numel / 64)]);
  run('nf4_quantize', [x], [codes, absmax]);
  return { codes, absmax };
}

for (const dtype of ['f32', 'bf16', 'f16'] as const) {
  test(`nf4_quantize of ${dtype} writes the codes and scales of the formula, at any size`, (t) => {
    const numbers = new Numbers(1);
    for (const n of SIZES) {
      const x = random(numbers, dtype, [n], 10 ** (numbers.uniform() * 4 - 2));
      const { codes, absmax } = quantized(x);
      const expected = quantize(x.toFloat32());
      sameBytes(t, codes, expected.codes, `codes of ${n}`);
      t.deepEqual(absmax.toFloat32(), expected.absmax, `absmax of ${n}`);
    }
  });
}

test('nf4_quantize splits codes exactly at the thresholds: a value on one keeps the lower code', (t) => {
  const neighbours = THRESHOLDS.flatMap((threshold) => {
    const bits = new Uint32Array(Float32Array.of(threshold).buffer);
    return [-1, 0, 1].map((step) => new Float32Array(Uint32Array.of(bits[0]! + step).buffer)[0]!);
  });
  const x = Float32Array.from({ length: 64 }, (_, i) => neighbours[i] ?? 1); // absmax 1: the values themselves are compared
  const { codes } = quantized(Tensor.from(x, [64]));
  sameBytes(t, codes, quantize(x).codes, 'codes');
});

test('nf4_quantize: zeros get code 7, and infinities and NaN do not spread beyond their block', (t) => {
  const x = new Float32Array(64 * 4);
  x.fill(1, 64);
  x[70] = Number.NaN;
  x[130] = Number.POSITIVE_INFINITY;
  const { codes, absmax } = quantized(Tensor.from(x, [256]));
  t.true(
    codes
      .toBytes()
      .subarray(0, 32)
      .every((byte) => byte === 0x77),
  );
  t.deepEqual([...absmax.toFloat32()], [0, 1, Number.POSITIVE_INFINITY, 1]);
  t.is(codes.toBytes()[35], 0x0f, 'NaN is code 0, its neighbour 1.0 code 15');
  t.true(
    codes
      .toBytes()
      .subarray(96)
      .every((byte) => byte === 0xff),
  );
});

for (const dtype of ACTIVATIONS) {
  test(`nf4_dequantize and cast to ${dtype} give code * absmax, rounded once, at any size`, (t) => {
    const numbers = new Numbers(2);
    for (const n of SIZES) {
      const { codes, absmax } = quantized(random(numbers, 'f32', [n]));
      const x = Tensor.nf4([n], codes, absmax);
      const expected = Tensor.from(dequantize(codes.toBytes(), absmax.toFloat32(), n), [n], dtype);
      for (const op of ['nf4_dequantize', 'cast']) {
        const y = Tensor.zeros([n], dtype);
        run(op, [x], [y]);
        sameBytes(t, y, expected, `${op}, n ${n}`);
      }
    }
  });
}

test('double quantisation: offset, scales and codes of the formula, and dequantisation from them', (t) => {
  const numbers = new Numbers(3);
  const map = Tensor.zeros([256]);
  run('dynamic_map', [], [map, Tensor.zeros([256])]);
  const values = map.toFloat32();
  for (const n of [64, 65, 4096, 64 * 255, 64 * 256, 64 * 257, 64 * 1500 + 3]) {
    const { codes, absmax } = quantized(random(numbers, 'f32', [n], 0.02));
    const blocks = absmax.numel;
    const [absmaxU8, nestedAbsmax, offset] = [
      Tensor.zeros([blocks], 'u8'),
      Tensor.zeros([Math.ceil(blocks / 256)]),
      Tensor.zeros([1]),
    ];
    run('nf4_quantize_absmax', [absmax], [absmaxU8, nestedAbsmax, offset]);

    const scales = absmax.toFloat32();
    const mean = offset.toFloat32()[0]!;
    const exact = scales.reduce((sum, value) => sum + value, 0) / blocks;
    t.true(Math.abs(mean - exact) <= 1e-6 * exact, `offset of ${blocks}: ${mean}, mean ${exact}`);
    const bytes = absmaxU8.toBytes();
    const nested = nestedAbsmax.toFloat32();
    const restored = Float32Array.from(bytes, (byte, b) => f(f(values[byte]! * nested[b >> 8]!) + mean));
    for (let b = 0; b < blocks; b++) {
      const block = Array.from(scales.subarray(b & ~255, (b & ~255) + 256), (value) => f(value - mean));
      const most = block.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
      if (b % 256 === 0) t.is(nested[b >> 8], most, `nested_absmax ${b >> 8}`);
      const x = most > 0 ? f(block[b & 255]! * f(1 / most)) : Number.NaN;
      // One of 65,536 steps between -1 and 1, and the code nearest to that; a block of equal scales is 0 / 0 and code 0.
      const step = -1 + (2 * Math.trunc(f(f(f(f(x + 1) * 0.5) * 65535) + 0.5))) / 65535;
      let nearest = 0;
      for (let k = 1; k < 256; k++) if (Math.abs(values[k]! - step) < Math.abs(values[nearest]! - step)) nearest = k;
      t.is(bytes[b], nearest, `code of ${x}`);
    }
    const y = Tensor.zeros([n]);
    run('nf4_dequantize', [Tensor.nf4([n], codes, { absmaxU8, nestedAbsmax, offset: mean })], [y]);
    t.deepEqual(y.toFloat32(), dequantize(codes.toBytes(), restored, n), `n ${n}`);
  }
});

test('dynamic_map: ascending, from bitsandbytes; signed is symmetric but for 1.0', (t) => {
  const [signed, unsigned] = [Tensor.zeros([256]), Tensor.zeros([256])];
  run('dynamic_map', [], [signed, unsigned]);
  const [s, u] = [signed.toFloat32(), unsigned.toFloat32()];
  for (let k = 1; k < 256; k++) t.true(s[k]! > s[k - 1]! && u[k]! > u[k - 1]!, `code ${k}`);
  for (let k = 0; k < 127; k++) t.is(s[k], -s[254 - k]!);
  t.deepEqual([s[0], s[127], s[255]], [f(-0.992968738), 0, 1]);
  t.deepEqual([u[0], u[1], u[2], u[255]], [0, f(3.2500003e-7), f(7.75e-7), 1]);
  // The unsigned map's top decade: 128 midpoints of an even division of [0.1, 1].
  for (let k = 0; k < 128; k++) t.true(Math.abs(u[127 + k]! - (0.1 + (0.9 * (k + 0.5)) / 128)) < 1e-7, `code ${127 + k}`);
});

test('nf4 ops give the same bytes on any number of threads', (t) => {
  const x = random(new Numbers(4), 'f32', [700_001]);
  sameForAnyThreads(t, () => {
    const { codes, absmax } = quantized(x);
    const [absmaxU8, nestedAbsmax, offset] = [
      Tensor.zeros([absmax.numel], 'u8'),
      Tensor.zeros([Math.ceil(absmax.numel / 256)]),
      Tensor.zeros([1]),
    ];
    run('nf4_quantize_absmax', [absmax], [absmaxU8, nestedAbsmax, offset]);
    return [codes, absmax, absmaxU8, nestedAbsmax, offset];
  });
});

test('nf4 ops name the operand that is wrong', (t) => {
  const x = Tensor.zeros([130]);
  throwsCode(t, 'ERR_SHAPE', /nf4_quantize: codes has shape \[64\], expected \[65\]/, () =>
    run('nf4_quantize', [x], [Tensor.zeros([64], 'u8'), Tensor.zeros([3])]),
  );
  throwsCode(t, 'ERR_SHAPE', /nf4_quantize: absmax has shape \[2\], expected \[3\]/, () =>
    run('nf4_quantize', [x], [Tensor.zeros([65], 'u8'), Tensor.zeros([2])]),
  );
  throwsCode(t, 'ERR_DTYPE', /nf4_dequantize: x is f32, expected nf4/, () => run('nf4_dequantize', [x], [x]));
  const { codes, absmax } = quantized(x);
  throwsCode(t, 'ERR_SHAPE', /nf4_dequantize: y has 129 elements, expected 130/, () =>
    run('nf4_dequantize', [Tensor.nf4([130], codes, absmax)], [Tensor.zeros([129])]),
  );
});
