/** Tensors of one's own, and a builder that runs each op at once: the kernels without a program. */
import { VltuneError } from '../errors.js';
import { addon, type Device, type DType, dtypeBytes, type Nf4Ref, type TensorRef } from '../native.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../weights/float16.js';
import type { Attrs, Builder, Into, OutputSpec, Shaped } from './builder.js';

export type TypedArray = Float32Array | Int32Array | Uint8Array | Uint16Array;

/** A contiguous, row-major tensor in the memory of a device. Freed by `release`, or when it is collected. */
export class Tensor implements Shaped {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly device: Device;
  readonly ref: TensorRef;

  private constructor(ref: TensorRef, device: Device) {
    this.ref = ref;
    this.device = device;
    this.dtype = ref.dtype;
    this.shape = ref.shape;
  }

  /** Zeros. ERR_OUT_OF_MEMORY, ERR_SHAPE, ERR_NO_DEVICE. */
  static zeros(shape: readonly number[], dtype: Exclude<DType, 'nf4'> = 'f32', device: Device = 'cpu'): Tensor {
    checkShape(shape);
    return new Tensor({ storage: addon().allocate(dtypeBytes(dtype, numel(shape)), device), offset: 0, dtype, shape }, device);
  }

  /**
   * A copy of numbers: f32 from a Float32Array (bf16 and f16 round it, or take raw bits from a Uint16Array), i32 from an
   * Int32Array, u8 from a Uint8Array.
   */
  static from(data: TypedArray, shape: readonly number[], dtype?: Exclude<DType, 'nf4' | 'i64'>, device: Device = 'cpu'): Tensor {
    const kind = dtype ?? (data instanceof Int32Array ? 'i32' : data instanceof Uint8Array ? 'u8' : 'f32');
    checkShape(shape);
    if (data.length !== numel(shape)) {
      throw new VltuneError('ERR_SHAPE', `shape [${shape.join(', ')}] holds ${numel(shape)} elements, got ${data.length}`);
    }
    const tensor = Tensor.zeros(shape, kind, device);
    addon().write(tensor.ref.storage, 0, encode(data, kind));
    return tensor;
  }

  /** An NF4 matrix made of codes (u8) and scales, as `nf4Quantize` gives them; they must outlive it. */
  static nf4(shape: readonly number[], codes: Tensor, absmax: Tensor): Tensor;
  static nf4(shape: readonly number[], codes: Tensor, scales: { absmaxU8: Tensor; nestedAbsmax: Tensor; offset: number }): Tensor;
  static nf4(
    shape: readonly number[],
    codes: Tensor,
    scales: Tensor | { absmaxU8: Tensor; nestedAbsmax: Tensor; offset: number },
  ): Tensor {
    checkShape(shape);
    const at = ({ ref }: Tensor) => ({ storage: ref.storage, offset: ref.offset });
    const nf4: Nf4Ref =
      scales instanceof Tensor
        ? { absmax: at(scales) }
        : { absmaxU8: at(scales.absmaxU8), nestedAbsmax: at(scales.nestedAbsmax), nestedOffset: scales.offset };
    return new Tensor({ ...at(codes), dtype: 'nf4', shape, nf4 }, codes.device);
  }

  /** The same numbers in memory of their own on a device. An NF4 matrix is moved by its codes and scales. */
  to(device: Device): Tensor {
    if (this.dtype === 'nf4') throw new VltuneError('ERR_DTYPE', 'to: expected codes and scales each by itself, got nf4');
    const copy = Tensor.zeros(this.shape, this.dtype, device);
    addon().write(copy.ref.storage, 0, this.toBytes());
    return copy;
  }

  get numel(): number {
    return numel(this.shape);
  }

  /** The numbers: bf16 and f16 as f32. */
  toFloat32(): Float32Array {
    if (this.dtype === 'f32') return this.#read(new Float32Array(this.numel));
    if (this.dtype !== 'bf16' && this.dtype !== 'f16')
      throw new VltuneError('ERR_DTYPE', `toFloat32: expected f32, bf16 or f16, got ${this.dtype}`);
    const values = new Float32Array(this.numel);
    (this.dtype === 'bf16' ? bf16ToF32 : f16ToF32)(this.#read(new Uint16Array(this.numel)), values);
    return values;
  }

  toInt32(): Int32Array {
    if (this.dtype !== 'i32') throw new VltuneError('ERR_DTYPE', `toInt32: expected i32, got ${this.dtype}`);
    return this.#read(new Int32Array(this.numel));
  }

  /** The bytes as they lie in memory. */
  toBytes(): Uint8Array {
    return this.#read(new Uint8Array(dtypeBytes(this.dtype, this.numel)));
  }

  /** Frees the memory at once. */
  release(): void {
    addon().release(this.ref.storage);
  }

  #read<T extends ArrayBufferView>(into: T): T {
    addon().read(this.ref.storage, this.ref.offset, into);
    return into;
  }
}

/** Runs each op as soon as it is named, on the device of its operands; outputs that it makes lie there too. */
export class Eager implements Builder<Tensor> {
  emit(
    op: string,
    inputs: readonly (Tensor | null)[],
    outputs: readonly (OutputSpec | Into<Tensor> | null)[],
    attrs: Attrs = {},
  ): (Tensor | null)[] {
    const given = [...inputs, ...outputs.map((output) => (output && 'into' in output ? output.into : null))];
    const device = given.find((tensor) => tensor !== null)?.device ?? 'cpu';
    const made = outputs.map((output) => {
      if (output === null) return null;
      if ('into' in output) return output.into;
      return Tensor.zeros(output.shape as readonly number[], output.dtype as Exclude<DType, 'nf4'>, device);
    });
    const refs = (tensors: readonly (Tensor | null)[]) => tensors.map((tensor) => tensor?.ref ?? null);
    addon().call(op, refs(inputs), refs(made), attrs);
    return made;
  }
}

function encode(data: TypedArray, dtype: DType): ArrayBufferView {
  const wants = { f32: Float32Array, bf16: Float32Array, f16: Float32Array, i32: Int32Array, u8: Uint8Array }[dtype as 'f32'];
  if ((dtype === 'bf16' || dtype === 'f16') && data instanceof Uint16Array) return data;
  if (!(data instanceof wants))
    throw new VltuneError('ERR_DTYPE', `${dtype}: expected a ${wants.name}, got a ${data.constructor.name}`);
  if (dtype !== 'bf16' && dtype !== 'f16') return data;
  const bits = new Uint16Array(data.length);
  (dtype === 'bf16' ? f32ToBf16 : f32ToF16)(data, bits);
  return bits;
}

function numel(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function checkShape(shape: readonly number[]): void {
  const good = shape.length >= 1 && shape.length <= 4 && shape.every((dim) => Number.isInteger(dim) && dim >= 0);
  if (!good) throw new VltuneError('ERR_SHAPE', `a shape is one to four whole numbers from 0, got [${shape.join(', ')}]`);
}
