import test from 'ava';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../lib/weights/float16.js';

/** Every 16-bit pattern. */
const ALL = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

const FORMATS = [
  { name: 'bf16', toF32: bf16ToF32, fromF32: f32ToBf16, exponent: 0x7f80 },
  { name: 'f16', toF32: f16ToF32, fromF32: f32ToF16, exponent: 0x7c00 },
] as const;

for (const { name, toF32, fromF32, exponent } of FORMATS) {
  const values = new Float32Array(ALL.length);
  toF32(ALL, values);
  const isNaNBits = (bits: number): boolean => (bits & 0x7fff) > exponent;

  test(`${name}: every value goes to F32 and back unchanged; a NaN stays a NaN`, (t) => {
    const back = new Uint16Array(ALL.length);
    fromF32(values, back);
    for (const bits of ALL) {
      const same = isNaNBits(bits) ? Number.isNaN(values[bits]) && isNaNBits(back[bits]!) : back[bits] === bits;
      if (!same) return t.fail(`${bits.toString(16)} became ${back[bits]!.toString(16)}`);
    }
    t.pass();
  });

  test(`${name}: a value between two goes to the nearer one, halfway to the even one`, (t) => {
    for (let bits = 0; bits < exponent - 1; bits++) {
      const low = values[bits]!;
      const high = values[bits + 1]!;
      const middle = low + (high - low) / 2; // exact in F32: one more mantissa bit
      const inputs = Float32Array.of(middle, -middle, low + (high - low) / 4, low + ((high - low) / 4) * 3);
      const rounded = new Uint16Array(4);
      fromF32(inputs, rounded);
      const even = bits % 2 === 0 ? bits : bits + 1;
      const expected = [even, even | 0x8000, bits, bits + 1];
      if (expected.some((value, i) => value !== rounded[i]))
        return t.fail(`between ${low} and ${high}: ${[...rounded]} for ${expected}`);
    }
    t.pass();
  });
}

test('known values', (t) => {
  const f16 = new Uint16Array(8);
  f32ToF16(Float32Array.of(1, -2, 65504, 65519, 65520, 2 ** -24, 2 ** -25, Infinity), f16);
  t.deepEqual([...f16], [0x3c00, 0xc000, 0x7bff, 0x7bff, 0x7c00, 1, 0, 0x7c00]);
  const bf16 = new Uint16Array(4);
  f32ToBf16(Float32Array.of(1, -2, 3.4028234663852886e38, 0.1), bf16);
  t.deepEqual([...bf16], [0x3f80, 0xc000, 0x7f80, 0x3dcd]);
});
