/** Shared by the op tests: tensors of random numbers, one op run on them, and results held to an F64 reference. */
import type { ExecutionContext } from 'ava';
import { addon } from '../../lib/native.js';
import { Tensor } from '../../lib/ops/tensor.js';
import { Numbers } from './matrices.js';

export { Numbers, Tensor };

export type Activation = 'f32' | 'bf16';
export const ACTIVATIONS: readonly Activation[] = ['f32', 'bf16'];
/** Lengths around the 4, 8 and 16 lanes of the vector units, and around four vectors of them. */
export const LENGTHS: readonly number[] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 200];

/** Normal deviates, rounded to the dtype. */
export function random(numbers: Numbers, dtype: 'f32' | 'bf16' | 'f16', shape: readonly number[], scale = 1, shift = 0): Tensor {
  const values = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
  for (let i = 0; i < values.length; i++) values[i] = numbers.normal() * scale + shift;
  return Tensor.from(values, shape, dtype);
}

export function floats(...values: number[]): Tensor {
  return Tensor.from(Float32Array.from(values), [values.length]);
}

export function integers(values: readonly number[], shape: readonly number[] = [values.length]): Tensor {
  return Tensor.from(Int32Array.from(values), shape);
}

/** The rows of a matrix with d columns. */
export function rows(values: Float32Array, d: number): Float32Array[] {
  return Array.from({ length: values.length / d }, (_, t) => values.subarray(t * d, (t + 1) * d));
}

export function run(
  op: string,
  inputs: readonly (Tensor | null)[],
  outputs: readonly (Tensor | null)[],
  attrs: Readonly<Record<string, number>> = {},
): void {
  const refs = (tensors: readonly (Tensor | null)[]) => tensors.map((tensor) => tensor?.ref ?? null);
  addon().call(op, refs(inputs), refs(outputs), attrs);
}

/** ||actual - expected|| / ||expected||, Euclidean; NaN wherever one of them is. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}

/** F32 arithmetic errs by a few units of 2^-24; a result stored as bf16 by at most 2^-8 of each element. */
const BOUND = { f32: 2e-6, bf16: 4e-3 };

export function isClose(t: ExecutionContext, tensor: Tensor, expected: ArrayLike<number>, name: string, bound?: number): void {
  const most = bound ?? BOUND[tensor.dtype as Activation];
  const actual = tensor.toFloat32();
  t.is(actual.length, expected.length, `${name}: elements`);
  const error = relativeError(actual, expected);
  t.true(error <= most, `${name}: off by ${error} of the norm, at most ${most} expected`);
}

export function sameBytes(t: ExecutionContext, actual: Tensor, expected: Tensor | Uint8Array, name: string): void {
  const want = expected instanceof Tensor ? expected.toBytes() : expected;
  t.true(Buffer.from(actual.toBytes()).equals(want), `${name}: bytes differ`);
}

/** Runs `body` with 1, 2 and 3 threads; what it returns must be the same bytes each time. */
export function sameForAnyThreads(t: ExecutionContext, body: () => readonly Tensor[]): void {
  const threads = addon().cpuInfo().threads;
  try {
    const results = [1, 2, 3].map((count) => {
      addon().setThreads(count);
      return body();
    });
    for (const result of results.slice(1)) {
      for (const [i, tensor] of result.entries()) sameBytes(t, tensor, results[0]![i]!, `output ${i}`);
    }
  } finally {
    addon().setThreads(threads);
  }
}

export function throwsCode(t: ExecutionContext, code: string, message: RegExp, body: () => void): void {
  const error = t.throws(body) as (Error & { code?: string }) | undefined;
  t.is(error?.code, code);
  t.regex(error?.message ?? '', message);
}

/** Sum of weights times values: a scalar whose gradient by `values` is `weights`, for finite differences. */
export function dot(weights: ArrayLike<number>, values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += weights[i]! * values[i]!;
  return sum;
}

/** d f / d x[i] by central differences in F64, for every i. */
export function numericGradient(f: (x: Float64Array) => number, at: ArrayLike<number>, step = 1e-5): Float64Array {
  const x = Float64Array.from(at);
  return x.map((value, i) => {
    x[i] = value + step;
    const above = f(x);
    x[i] = value - step;
    const below = f(x);
    x[i] = value;
    return (above - below) / (2 * step);
  });
}
