/** 16-bit floats as bits in Uint16Array, to and from F32. Rounding is to nearest, ties to even, as in torch and in the kernels. */

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

export function bf16ToF32(bits: Uint16Array, into: Float32Array): void {
  const words = new Uint32Array(into.buffer, into.byteOffset, into.length);
  for (let i = 0; i < into.length; i++) words[i] = bits[i]! << 16;
}

/** A NaN stays a NaN: its top mantissa bit is set. */
export function f32ToBf16(values: Float32Array, into: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < into.length; i++) {
    const word = words[i]!;
    into[i] = (word & 0x7fffffff) > 0x7f800000 ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

export function f16ToF32(bits: Uint16Array, into: Float32Array): void {
  for (let i = 0; i < into.length; i++) {
    const half = bits[i]!;
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >>> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0x1f) into[i] = fraction === 0 ? sign * Infinity : NaN;
    else into[i] = exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
}

export function f32ToF16(values: Float32Array, into: Uint16Array): void {
  for (let i = 0; i < into.length; i++) into[i] = toHalf(values[i]!);
}

function toHalf(value: number): number {
  f32[0] = value;
  const word = u32[0]!;
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Subnormal in 16 bits: whole multiples of 2^-24. Exact in a double, so one rounding, ties to even.
    const units = Math.abs(value) * 2 ** 24;
    const floor = Math.floor(units);
    const rest = units - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}
