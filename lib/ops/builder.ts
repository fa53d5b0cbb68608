/**
 * One op table, two ways in. An op's function takes a `Builder`: a `Graph` records the op for a program, `Eager` runs it at
 * once on tensors. Shapes and dtypes are checked here, by name, before native code sees them.
 */
import { VltuneError } from '../errors.js';
import type { Dim, DType } from '../native.js';

/** Anything with a dtype and a shape: a graph's value or an eager tensor. */
export interface Shaped {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** An output that the builder makes. */
export interface OutputSpec extends Shaped {
  readonly name?: string;
}

export type Attrs = Readonly<Record<string, number>>;

export interface Builder<T extends Shaped> {
  /**
   * Adds (or runs) one op. Outputs are made from a spec; `{ into }` writes to (or accumulates into) something that exists;
   * null is an absent operand. Returns the outputs in order.
   */
  emit(op: string, inputs: readonly (T | null)[], outputs: readonly (OutputSpec | Into<T> | null)[], attrs?: Attrs): (T | null)[];
}

export interface Into<T> {
  readonly into: T;
}

/** The dtypes of activations: f16 on a GPU alone. */
export type ActivationDType = 'f32' | 'bf16' | 'f16';

function show(shape: readonly Dim[]): string {
  return `[${shape.join(', ')}]`;
}

function fail(op: string, operand: string, expected: string, value: Shaped): never {
  throw new VltuneError('ERR_SHAPE', `${op}: ${operand} must be ${expected}, got ${value.dtype} ${show(value.shape)}`);
}

/** The dimensions of `value`, which must have `rank` of them. */
export function dimsOf(op: string, operand: string, value: Shaped, rank: number): Dim[] {
  if (value.shape.length !== rank) fail(op, operand, `of rank ${rank}`, value);
  return [...value.shape];
}

/** Requires a shape, given as dimensions. */
export function expectShape(op: string, operand: string, value: Shaped, shape: readonly Dim[]): void {
  if (value.shape.length !== shape.length || shape.some((d, i) => d !== value.shape[i]))
    fail(op, operand, `of shape ${show(shape)}`, value);
}

/** Requires one of some dtypes. */
export function expectDType(op: string, operand: string, value: Shaped, ...dtypes: readonly DType[]): void {
  if (!dtypes.includes(value.dtype)) fail(op, operand, dtypes.join(' or '), value);
}

/** The dtype of an activation. */
export function activationDType(op: string, operand: string, value: Shaped): ActivationDType {
  expectDType(op, operand, value, 'f32', 'bf16', 'f16');
  return value.dtype as ActivationDType;
}

/** A dimension that must be known when a program is built. */
export function fixed(op: string, operand: string, dim: Dim | undefined): number {
  if (typeof dim !== 'number') throw new VltuneError('ERR_SHAPE', `${op}: ${operand} must have a fixed length, got ${dim}`);
  return dim;
}

export function bool(flag: boolean): number {
  return flag ? 1 : 0;
}
