/**
 * The weights that are not trained: 4-bit, or as the checkpoint stores them. What the checkpoint holds in a usable form is
 * read where it lies, in the mapped file; the rest is converted once at load.
 */
import { VltuneError } from '../errors.js';
import type { Place } from '../graph/program.js';
import { addon, type Device, type DType, dtypeBytes, type Storage } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { NF4_BLOCK, NF4_NESTED_BLOCK } from '../ops/nf4.js';
import type { LinearSpec } from './family.js';
import type { ModelFolder } from './model_folder.js';

export interface FrozenOptions {
  /** The dtype of activations. A bf16 program rounds f32 and f16 weights to bf16, as transformers does. */
  readonly dtype: ActivationDType;
  /** Quantise the language model's linear layers to NF4. */
  readonly loadIn4bit: boolean;
  /** With NF4: quantise the scales too. */
  readonly doubleQuant: boolean;
  /** Tensors that are trained, and so are not loaded here. */
  readonly skip: (name: string) => boolean;
}

/** What becomes of one tensor. */
export interface FrozenTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly source: 'mapped' | 'cast' | 'quantize' | 'prequantized';
  /** Bytes in memory, scales included. */
  readonly bytes: number;
}

const ALIGNMENT = 64;

export class FrozenWeights {
  readonly #folder: ModelFolder;
  readonly #options: FrozenOptions;
  readonly #tensors = new Map<string, FrozenTensor>();
  readonly #linears: ReadonlyMap<string, LinearSpec>;
  readonly #places = new Map<string, Place>();
  readonly #owned: Storage[] = [];

  constructor(folder: ModelFolder, options: FrozenOptions) {
    this.#folder = folder;
    this.#options = options;
    this.#linears = new Map(folder.spec.linears.map((spec) => [spec.name, spec]));
    const { spec } = folder;
    for (const tensor of spec.tensors) if (tensor.part === 'language') this.#plan(tensor.name, tensor.shape, false);
    for (const linear of spec.linears) {
      if (linear.part === 'vision' || (linear.part === 'head' && spec.head === spec.embedding)) continue;
      this.#plan(`${linear.name}.weight`, [linear.out, linear.in], linear.part === 'language');
      if (linear.bias) this.#plan(`${linear.name}.bias`, [linear.out], false);
    }
  }

  linear(module: string): LinearSpec {
    const spec = this.#linears.get(module);
    if (!spec) throw new VltuneError('ERR_INTERNAL', `the model has no linear layer ${module}`);
    return spec;
  }

  get(name: string): FrozenTensor | undefined {
    return this.#tensors.get(name);
  }

  /** Bytes of all frozen weights in memory, mapped ones included. */
  get bytes(): number {
    let sum = 0;
    for (const tensor of this.#tensors.values()) sum += tensor.bytes;
    return sum;
  }

  /** The most that quantising or converting one tensor needs beside what stays. */
  get loadingBytes(): number {
    let most = 0;
    for (const tensor of this.#tensors.values()) {
      if (tensor.source !== 'quantize') continue;
      const numel = count(tensor.shape);
      most = Math.max(most, dtypeBytes('f32', Math.ceil(numel / NF4_BLOCK)) + (this.#rounds(tensor.name) ? numel * 2 : 0));
    }
    return most;
  }

  place(name: string): Place {
    const place = this.#places.get(name);
    if (!place) throw new VltuneError('ERR_INTERNAL', `the weight ${name} is not loaded`);
    return place;
  }

  /** Loads every tensor. `onProgress` hears of bytes done and bytes in all. */
  async load(device: Device, onProgress?: (done: number, total: number) => void, signal?: AbortSignal): Promise<void> {
    const total = this.bytes;
    let done = 0;
    for (const tensor of this.#tensors.values()) {
      if (signal?.aborted) throw new VltuneError('ERR_CANCELLED', 'loading was cancelled');
      this.#places.set(tensor.name, await this.#load(tensor, device));
      done += tensor.bytes;
      onProgress?.(done, total);
    }
  }

  release(): void {
    for (const storage of this.#owned.splice(0)) addon().release(storage);
    this.#places.clear();
  }

  #plan(name: string, shape: readonly number[], isLinear: boolean): void {
    if (this.#options.skip(name)) return;
    const numel = count(shape);
    if (this.#folder.nf4(name)) {
      this.#tensors.set(name, { name, shape, dtype: 'nf4', source: 'prequantized', bytes: this.#folder.nf4(name)!.bytes });
      return;
    }
    if (isLinear && this.#options.loadIn4bit) {
      this.#tensors.set(name, {
        name,
        shape,
        dtype: 'nf4',
        source: 'quantize',
        bytes: nf4Bytes(numel, this.#options.doubleQuant),
      });
      return;
    }
    const stored = this.#folder.dtypeOf(name);
    const dtype: DType = this.#rounds(name) ? 'bf16' : stored === 'f16' && shape.length === 1 ? 'f32' : stored;
    this.#tensors.set(name, {
      name,
      shape,
      dtype,
      source: dtype === stored ? 'mapped' : 'cast',
      bytes: dtypeBytes(dtype, numel),
    });
  }

  /** Whether a tensor is rounded to bf16 first. */
  #rounds(name: string): boolean {
    return this.#options.dtype === 'bf16' && this.#folder.dtypeOf(name) !== 'bf16';
  }

  async #load(tensor: FrozenTensor, device: Device): Promise<Place> {
    const { name, shape } = tensor;
    if (tensor.source === 'prequantized') return this.#folder.nf4(name)!.place();
    const ref = this.#folder.checkpoint.ref(name);
    if (tensor.source === 'mapped') return ref;

    const stored = this.#folder.dtypeOf(name);
    const source = { ...ref, dtype: stored, shape };
    if (tensor.source === 'cast') {
      const storage = this.#allocate(tensor.bytes, device);
      const place = { storage, offset: 0 };
      await addon().callAsync('cast', [source], [{ ...place, dtype: tensor.dtype, shape }], {});
      this.#drop(name, ref);
      return place;
    }
    if (!this.#rounds(name)) {
      const place = await this.#quantize(source, device);
      this.#drop(name, ref);
      return place;
    }
    const rounded = addon().allocate(count(shape) * 2, device);
    try {
      const bf16 = { storage: rounded, offset: 0, dtype: 'bf16' as const, shape };
      await addon().callAsync('cast', [source], [bf16], {});
      return await this.#quantize(bf16, device);
    } finally {
      addon().release(rounded);
      this.#drop(name, ref);
    }
  }

  async #quantize(
    source: { storage: Storage; offset: number; dtype: DType; shape: readonly number[] },
    device: Device,
  ): Promise<Place> {
    const numel = count(source.shape);
    const blocks = Math.ceil(numel / NF4_BLOCK);
    const nested = Math.ceil(blocks / NF4_NESTED_BLOCK);
    const codeBytes = aligned(dtypeBytes('nf4', numel));
    const absmaxAt = { dtype: 'f32' as const, shape: [blocks] };
    if (!this.#options.doubleQuant) {
      const storage = this.#allocate(codeBytes + blocks * 4, device);
      const absmax = { storage, offset: codeBytes };
      await addon().callAsync(
        'nf4_quantize',
        [source],
        [
          { storage, offset: 0, dtype: 'u8', shape: [Math.ceil(numel / 2)] },
          { ...absmax, ...absmaxAt },
        ],
        {},
      );
      return { storage, offset: 0, nf4: { absmax } };
    }
    const storage = this.#allocate(codeBytes + aligned(blocks) + nested * 4, device);
    const scratch = addon().allocate(aligned(blocks * 4) + 4, device);
    try {
      const absmax = { storage: scratch, offset: 0, ...absmaxAt };
      const absmaxU8 = { storage, offset: codeBytes };
      const nestedAbsmax = { storage, offset: codeBytes + aligned(blocks) };
      const offset = { storage: scratch, offset: aligned(blocks * 4) };
      await addon().callAsync(
        'nf4_quantize',
        [source],
        [{ storage, offset: 0, dtype: 'u8', shape: [Math.ceil(numel / 2)] }, absmax],
        {},
      );
      await addon().callAsync(
        'nf4_quantize_absmax',
        [absmax],
        [
          { ...absmaxU8, dtype: 'u8', shape: [blocks] },
          { ...nestedAbsmax, dtype: 'f32', shape: [nested] },
          { ...offset, dtype: 'f32', shape: [1] },
        ],
        {},
      );
      const nestedOffset = new Float32Array(1);
      addon().read(scratch, offset.offset, nestedOffset);
      return { storage, offset: 0, nf4: { absmaxU8, nestedAbsmax, nestedOffset: nestedOffset[0]! } };
    } finally {
      addon().release(scratch);
    }
  }

  #allocate(bytes: number, device: Device): Storage {
    const storage = addon().allocate(bytes, device);
    this.#owned.push(storage);
    return storage;
  }

  /** The source is not needed again: its pages need not stay in memory. */
  #drop(name: string, ref: { storage: Storage; offset: number }): void {
    addon().adviseUnneeded(ref.storage, ref.offset, this.#folder.checkpoint.get(name).bytes);
  }
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** Bytes of codes and scales. */
export function nf4Bytes(numel: number, doubleQuant: boolean): number {
  const blocks = Math.ceil(numel / NF4_BLOCK);
  const codes = aligned(dtypeBytes('nf4', numel));
  return codes + (doubleQuant ? aligned(blocks) + Math.ceil(blocks / NF4_NESTED_BLOCK) * 4 : blocks * 4);
}
