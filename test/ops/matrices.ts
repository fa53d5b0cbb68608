/** Matrices for tests of the product ops: made at random, rounded to their dtype, multiplied in F64. */
import { addon, type DType, dtypeBytes, type Nf4Ref, type TensorRef } from '../../lib/native.js';

/** A tensor's values as F64, exactly representable in `dtype`. */
export interface Host {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: Float64Array;
  /** For nf4: what is stored. */
  readonly nf4?: { readonly codes: Uint8Array } & (
    | { readonly absmax: Float32Array }
    | { readonly absmaxU8: Uint8Array; readonly nestedAbsmax: Float32Array; readonly offset: number }
  );
}

/** Numbers with no pattern, the same at every run. */
export class Numbers {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 <= x < 1 */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  /** Close enough to a normal deviate for test data. */
  normal(): number {
    return (this.uniform() + this.uniform() + this.uniform() + this.uniform() - 2) * Math.sqrt(3);
  }
}

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** Nearest bf16, ties to even. */
export function toBf16(x: number): number {
  f32[0] = x;
  const bits = u32[0]!;
  u32[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  return f32[0]!;
}

function bf16Bits(x: number): number {
  f32[0] = x;
  return u32[0]! >>> 16;
}

/** Nearest f16 of a number in its normal range. */
function toF16(x: number): number {
  if (x === 0) return 0;
  const step = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), -14) - 10);
  return Math.round(x / step) * step;
}

function f16Bits(x: number): number {
  if (x === 0) return 0;
  const sign = x < 0 ? 0x8000 : 0;
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), -14);
  const mantissa = Math.round((Math.abs(x) / 2 ** exponent) * 1024);
  return sign | (mantissa < 1024 ? mantissa : ((exponent + 15) << 10) | (mantissa - 1024));
}

export function roundTo(dtype: DType, x: number): number {
  if (dtype === 'bf16') return toBf16(Math.fround(x));
  if (dtype === 'f16') return toF16(x);
  return Math.fround(x);
}

const NF4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];

/** Entries of bitsandbytes' create_dynamic_map(signed), by index. */
const DYNAMIC_MAP: readonly (readonly [number, number])[] = [
  [0, -0.992968738],
  [1, -0.978906274],
  [17, -0.75390625],
  [64, -0.0985937491],
  [100, -0.00746874977],
  [126, -5.50000038e-7],
  [127, 0],
  [128, 5.50000038e-7],
  [140, 0.00071875006],
  [160, 0.0142187504],
  [200, 0.233593747],
  [230, 0.655468762],
  [254, 0.992968738],
  [255, 1],
];

export function random(numbers: Numbers, dtype: 'f32' | 'bf16' | 'f16', shape: readonly number[], scale = 1): Host {
  const values = new Float64Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < values.length; i++) values[i] = roundTo(dtype, numbers.normal() * scale);
  return { dtype, shape, values };
}

export function filled(dtype: DType, shape: readonly number[], value: number): Host {
  return { dtype, shape, values: new Float64Array(shape.reduce((a, b) => a * b, 1)).fill(value) };
}

export function integers(values: readonly number[]): Host {
  return { dtype: 'i32', shape: [values.length], values: Float64Array.from(values) };
}

/** A matrix of random codes and scales, dequantised as bitsandbytes does: code * absmax in F32. */
export function randomNf4(numbers: Numbers, shape: readonly [number, number], doubleQuant: boolean): Host {
  const count = shape[0] * shape[1];
  const blocks = Math.ceil(count / 64);
  const codes = new Uint8Array(Math.ceil(count / 2));
  for (let i = 0; i < codes.length; i++) codes[i] = Math.floor(numbers.uniform() * 256);
  const absmax = new Float32Array(blocks);
  let nf4: NonNullable<Host['nf4']>;
  if (doubleQuant) {
    const absmaxU8 = new Uint8Array(blocks);
    const nestedAbsmax = new Float32Array(Math.ceil(blocks / 256));
    for (let i = 0; i < nestedAbsmax.length; i++) nestedAbsmax[i] = 0.1 + numbers.uniform();
    const offset = Math.fround(1.3);
    for (let b = 0; b < blocks; b++) {
      const [index, value] = DYNAMIC_MAP[Math.floor(numbers.uniform() * DYNAMIC_MAP.length)]!;
      absmaxU8[b] = index;
      absmax[b] = Math.fround(Math.fround(Math.fround(value) * nestedAbsmax[b >> 8]!) + offset);
    }
    nf4 = { codes, absmaxU8, nestedAbsmax, offset };
  } else {
    for (let b = 0; b < blocks; b++) absmax[b] = 0.2 + numbers.uniform();
    nf4 = { codes, absmax };
  }
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const byte = codes[i >> 1]!;
    values[i] = Math.fround(Math.fround(NF4[i & 1 ? byte & 15 : byte >> 4]!) * absmax[i >> 6]!);
  }
  return { dtype: 'nf4', shape, values, nf4 };
}

function stored(bytes: ArrayBufferView): { storage: TensorRef['storage']; offset: number } {
  const storage = addon().allocate(Math.max(1, bytes.byteLength), 'cpu');
  addon().write(storage, 0, bytes);
  return { storage, offset: 0 };
}

export function upload(host: Host): TensorRef {
  const { dtype, shape, values } = host;
  if (host.nf4) {
    const scales = host.nf4;
    const nf4: Nf4Ref =
      'absmax' in scales
        ? { absmax: stored(scales.absmax) }
        : { absmaxU8: stored(scales.absmaxU8), nestedAbsmax: stored(scales.nestedAbsmax), nestedOffset: scales.offset };
    return { ...stored(scales.codes), dtype, shape, nf4 };
  }
  if (dtype === 'i32') return { ...stored(Int32Array.from(values)), dtype, shape };
  if (dtype === 'bf16') return { ...stored(Uint16Array.from(values, bf16Bits)), dtype, shape };
  if (dtype === 'f16') return { ...stored(Uint16Array.from(values, f16Bits)), dtype, shape };
  return { ...stored(Float32Array.from(values)), dtype, shape };
}

export function bytesOf(tensor: TensorRef): Uint8Array {
  const bytes = new Uint8Array(
    dtypeBytes(
      tensor.dtype,
      tensor.shape.reduce((a, b) => a * b, 1),
    ),
  );
  addon().read(tensor.storage, tensor.offset, bytes);
  return bytes;
}

export function download(tensor: TensorRef): Float64Array {
  const bytes = bytesOf(tensor);
  if (tensor.dtype === 'f32') return Float64Array.from(new Float32Array(bytes.buffer));
  return Float64Array.from(new Uint16Array(bytes.buffer), (bits) => {
    u32[0] = bits << 16;
    return f32[0]!;
  });
}

/** A product in F64 and, beside it, the sum of the magnitudes of its terms, to which rounding errors are relative. */
export interface Sum {
  readonly values: Float64Array;
  readonly magnitudes: Float64Array;
}

/** A[m, k] B[k, n] by element functions. Where A is itself a sum, `size` gives the magnitude of its terms. */
export function multiply(
  m: number,
  n: number,
  k: number,
  a: (i: number, p: number) => number,
  b: (p: number, j: number) => number,
  size: (i: number, p: number) => number = (i, p) => Math.abs(a(i, p)),
): Sum {
  const values = new Float64Array(m * n);
  const magnitudes = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let p = 0; p < k; p++) {
      const x = a(i, p);
      const s = size(i, p);
      if (s === 0) continue;
      for (let j = 0; j < n; j++) {
        const y = b(p, j);
        values[i * n + j]! += x * y;
        magnitudes[i * n + j]! += s * Math.abs(y);
      }
    }
  return { values, magnitudes };
}

export function add(...sums: readonly Sum[]): Sum {
  const values = Float64Array.from(sums[0]!.values);
  const magnitudes = Float64Array.from(sums[0]!.magnitudes);
  for (const sum of sums.slice(1))
    for (let i = 0; i < values.length; i++) {
      values[i]! += sum.values[i]!;
      magnitudes[i]! += sum.magnitudes[i]!;
    }
  return { values, magnitudes };
}

export function transpose(sum: Sum, rows: number, columns: number): Sum {
  const turn = (from: Float64Array): Float64Array => from.map((_, i) => from[(i % rows) * columns + Math.floor(i / rows)]!);
  return { values: turn(sum.values), magnitudes: turn(sum.magnitudes) };
}

/** Throws where `got` is further from `want` than `relative` of its terms' magnitudes; a bf16 result may also be rounded once. */
export function expectClose(what: string, got: TensorRef, want: Sum, relative: number): void {
  const values = download(got);
  for (let i = 0; i < values.length; i++) {
    const bound = relative * want.magnitudes[i]! + (got.dtype === 'bf16' ? 2 ** -8 * Math.abs(want.values[i]!) : 0) + 1e-30;
    const error = Math.abs(values[i]! - want.values[i]!);
    if (!(error <= bound)) throw new Error(`${what}[${i}] is ${values[i]}, expected ${want.values[i]} within ${bound}`);
  }
}
