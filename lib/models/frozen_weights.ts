/**
 * The weights that are not trained: 4-bit, or as the checkpoint stores them. On the CPU, what the checkpoint holds in a usable form
 * is read where it lies, in the mapped file, and the rest is converted once at load. A GPU holds all of them in one block; there
 * they are brought raw and converted.
 */
import { VltuneError } from '../errors.js';
import { align, CUDA_ALIGNMENT } from '../graph/planner.js';
import type { Place } from '../graph/program.js';
import { addon, type Device, type DType, dtypeBytes, type Storage, type TensorRef } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { NF4_BLOCK, NF4_NESTED_BLOCK } from '../ops/nf4.js';
import type { LinearSpec } from './family.js';
import type { ModelFolder } from './model_folder.js';
import { Staging } from './staging.js';
import type { StoredWeight, WeightStore } from './weight_store.js';

export interface FrozenOptions {
  readonly device: Device;
  /**
   * The dtype of activations. A program of 16 bits rounds its weights to them, as transformers does; in f16 those of norms stay what
   * they are, which its kernels take.
   */
  readonly dtype: ActivationDType;
  /** Quantise the language model's linear layers to NF4. */
  readonly loadIn4bit: boolean;
  /** With NF4: quantise the scales too. */
  readonly doubleQuant: boolean;
  /** Tensors that are trained, and so are not loaded here. */
  readonly skip: (name: string) => boolean;
  /** Load the vision tower too, or it alone. Default: not, text does without it. */
  readonly vision?: boolean | 'alone';
  /** Tensors that a GPU reads in the host's memory. */
  readonly onHost?: (name: string) => boolean;
}

/** What becomes of one tensor. */
export interface FrozenTensor extends StoredWeight {
  readonly source: 'mapped' | 'cast' | 'quantize' | 'prequantized';
  /** Bytes in memory, scales included. */
  readonly bytes: number;
  /** First byte in the block of a GPU; undefined: it stays in the host's memory. */
  readonly offset: number | undefined;
}

const ALIGNMENT = 64;

/** Tensors that are on their way to a GPU at the same time: one is read from the disk while another is copied. */
const CUDA_LOADERS = 2;

export class FrozenWeights implements WeightStore {
  readonly #folder: ModelFolder;
  readonly #options: FrozenOptions;
  readonly #tensors = new Map<string, FrozenTensor>();
  readonly #linears: ReadonlyMap<string, LinearSpec>;
  /** Weights of one dimension that are not a linear layer's bias. */
  readonly #norms: ReadonlySet<string>;
  readonly #places = new Map<string, Place>();
  readonly #owned: Storage[] = [];
  #sum = 0;
  #blockBytes = 0;
  #hostBytes = 0;

  constructor(folder: ModelFolder, options: FrozenOptions) {
    this.#folder = folder;
    this.#options = options;
    this.#linears = new Map(folder.spec.linears.map((spec) => [spec.name, spec]));
    const { spec } = folder;
    this.#norms = new Set(spec.tensors.flatMap(({ name, shape }) => (shape.length === 1 ? [name] : [])));
    const isLoaded = (part: LinearSpec['part']) => (part === 'vision' ? options.vision : options.vision !== 'alone');
    for (const { name, shape, view, part } of spec.tensors) if (isLoaded(part)) this.#plan(name, view ?? shape, false);
    for (const linear of spec.linears) {
      if (!isLoaded(linear.part) || (linear.part === 'head' && spec.head === spec.embedding)) continue;
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
    return this.#options.device === 'cpu' ? this.#sum : this.#blockBytes;
  }

  get hostBytes(): number {
    return this.#hostBytes;
  }

  /** The most that loading needs beside what stays. */
  get loadingBytes(): number {
    const { device } = this.#options;
    let [raw, rounded, scales] = [0, 0, 0];
    for (const { name, shape, source } of this.#tensors.values()) {
      if (source !== 'quantize' && source !== 'cast') continue;
      const stored = this.#folder.dtypeOf(name);
      const elements = Staging.pieceElements(device, { dtype: stored }, count(shape));
      if (device !== 'cpu') raw = Math.max(raw, dtypeBytes(stored, elements));
      if (source !== 'quantize') continue;
      if (this.#rounds(name)) rounded = Math.max(rounded, dtypeBytes(this.#options.dtype, elements));
      scales = Math.max(scales, scaleBytes(count(shape)));
    }
    return (raw + rounded + scales) * (device === 'cpu' ? 1 : CUDA_LOADERS);
  }

  place(name: string): Place {
    const place = this.#places.get(name);
    if (!place) throw new VltuneError('ERR_INTERNAL', `the weight ${name} is not loaded`);
    return place;
  }

  /** Loads every tensor. `onProgress` hears of bytes done and bytes in all. ERR_CANCELLED, ERR_OUT_OF_MEMORY. */
  async load(onProgress?: (done: number, total: number) => void, signal?: AbortSignal): Promise<void> {
    const { device } = this.#options;
    const total = this.#sum;
    let done = 0;
    let failed = false;
    const block = device === 'cpu' ? undefined : this.#allocate(this.#blockBytes, device);
    const queue = this.#tensors.values();
    const loader = async (): Promise<void> => {
      const staging = new Staging(device);
      try {
        for (const tensor of queue) {
          if (failed) return;
          if (signal?.aborted) throw new VltuneError('ERR_CANCELLED', 'loading was cancelled');
          this.#places.set(tensor.name, await this.#load(tensor, staging, block));
          done += tensor.bytes;
          onProgress?.(done, total);
        }
      } catch (error) {
        failed = true;
        throw error;
      } finally {
        staging.release();
      }
    };
    // All loaders are at rest before anyone frees what they write to.
    const loaders = await Promise.allSettled(Array.from({ length: device === 'cpu' ? 1 : CUDA_LOADERS }, loader));
    for (const outcome of loaders) if (outcome.status === 'rejected') throw outcome.reason;
  }

  release(): void {
    for (const storage of this.#owned.splice(0)) addon().release(storage);
    this.#places.clear();
  }

  #plan(name: string, shape: readonly number[], isLinear: boolean): void {
    if (this.#options.skip(name)) return;
    const numel = count(shape);
    const stored = this.#folder.nf4(name);
    if (stored) {
      const bytes = this.#options.device === 'cpu' ? stored.bytes : nf4Bytes(numel, stored.doubleQuant);
      this.#add({ name, shape, dtype: 'nf4', source: 'prequantized', bytes });
      return;
    }
    if (isLinear && this.#options.loadIn4bit) {
      this.#add({ name, shape, dtype: 'nf4', source: 'quantize', bytes: nf4Bytes(numel, this.#options.doubleQuant) });
      return;
    }
    const storedAs = this.#folder.dtypeOf(name);
    // Vectors of f16 are taken by an f16 program alone, and as biases.
    const widens = storedAs === 'f16' && shape.length === 1 && !(this.#options.dtype === 'f16' && !this.#norms.has(name));
    const dtype: DType = this.#rounds(name) ? this.#options.dtype : widens ? 'f32' : storedAs;
    this.#add({ name, shape, dtype, source: dtype === storedAs ? 'mapped' : 'cast', bytes: dtypeBytes(dtype, numel) });
  }

  #add(tensor: Omit<FrozenTensor, 'offset'>): void {
    this.#sum += tensor.bytes;
    if (this.#options.device !== 'cpu' && this.#options.onHost?.(tensor.name)) {
      this.#tensors.set(tensor.name, { ...tensor, offset: undefined });
      this.#hostBytes += tensor.bytes;
      return;
    }
    this.#tensors.set(tensor.name, { ...tensor, offset: this.#blockBytes });
    this.#blockBytes += align(tensor.bytes, CUDA_ALIGNMENT);
  }

  /** Whether a tensor is rounded to the program's 16 bits first. */
  #rounds(name: string): boolean {
    const { dtype } = this.#options;
    if (dtype === 'f16' && this.#norms.has(name)) return false;
    return dtype !== 'f32' && this.#folder.dtypeOf(name) !== dtype;
  }

  /** Loads a tensor into its part of a GPU's `block`, or into memory of its own. */
  async #load(tensor: FrozenTensor, staging: Staging, block: Storage | undefined): Promise<Place> {
    const { name, shape } = tensor;
    if (tensor.source === 'prequantized') {
      const mapped = this.#folder.nf4(name)!.place();
      return block ? await this.#uploadNf4(tensor, mapped, this.#target(tensor, block)) : mapped;
    }
    const mapped = this.#folder.checkpoint.ref(name);
    if (tensor.source === 'mapped' && !block) return mapped;

    const place = this.#target(tensor, block);
    const source = { ...mapped, dtype: this.#folder.dtypeOf(name), shape };
    try {
      if (tensor.source === 'quantize') return await this.#quantize(source, this.#rounds(name), place, staging);
      if (tensor.source === 'cast') await staging.cast(source, { ...place, dtype: tensor.dtype, shape });
      else await addon().copyAsync(place.storage, place.offset, mapped.storage, mapped.offset, tensor.bytes);
      return place;
    } finally {
      // The source is not needed again: its pages need not stay in memory.
      addon().adviseUnneeded(mapped.storage, mapped.offset, this.#folder.checkpoint.get(name).bytes);
    }
  }

  #target({ bytes, offset }: FrozenTensor, block: Storage | undefined): Place {
    if (block && offset !== undefined) return { storage: block, offset };
    return { storage: this.#allocate(bytes, block ? 'pinned' : 'cpu'), offset: 0 };
  }

  /** Quantises into the place: codes, then scales. */
  async #quantize(source: TensorRef, rounds: boolean, { storage, offset }: Place, staging: Staging): Promise<Place> {
    const numel = count(source.shape);
    const { blocks, absmaxAt, nested, nestedAt } = nf4Layout(numel, this.#options.doubleQuant);
    const scratch = this.#options.doubleQuant ? staging.buffer('scales', scaleBytes(numel)) : undefined;
    const absmax = scratch ? { storage: scratch, offset: 0 } : { storage, offset: offset + absmaxAt };
    for await (const piece of staging.pieces(source)) {
      const shape = [piece.count];
      let ref: TensorRef = { ...piece.ref, shape };
      if (rounds) {
        const { dtype } = this.#options;
        const rounded = { storage: staging.buffer('rounded', dtypeBytes(dtype, piece.count)), offset: 0, dtype, shape };
        await addon().callAsync('cast', [ref], [rounded], {});
        ref = rounded;
      }
      const first = piece.from / NF4_BLOCK;
      const codes = { storage, offset: offset + piece.from / 2, dtype: 'u8' as const, shape: [Math.ceil(piece.count / 2)] };
      const scales = {
        ...absmax,
        offset: absmax.offset + first * 4,
        dtype: 'f32' as const,
        shape: [Math.ceil(piece.count / NF4_BLOCK)],
      };
      await addon().callAsync('nf4_quantize', [ref], [codes, scales], {});
    }
    if (!scratch) return { storage, offset, nf4: { absmax } };
    const absmaxU8 = { storage, offset: offset + absmaxAt };
    const nestedAbsmax = { storage, offset: offset + nestedAt };
    const mean = { storage: scratch, offset: aligned(blocks * 4) };
    await addon().callAsync(
      'nf4_quantize_absmax',
      [{ ...absmax, dtype: 'f32', shape: [blocks] }],
      [
        { ...absmaxU8, dtype: 'u8', shape: [blocks] },
        { ...nestedAbsmax, dtype: 'f32', shape: [nested] },
        { ...mean, dtype: 'f32', shape: [1] },
      ],
      {},
    );
    const nestedOffset = new Float32Array(1);
    addon().read(scratch, mean.offset, nestedOffset);
    return { storage, offset, nf4: { absmaxU8, nestedAbsmax, nestedOffset: nestedOffset[0]! } };
  }

  /** Copies codes and scales as the checkpoint holds them. */
  async #uploadNf4(tensor: FrozenTensor, { storage: from, offset: codesAt, nf4 }: Place, target: Place): Promise<Place> {
    const numel = count(tensor.shape);
    const { storage, offset } = target;
    const { blocks, absmaxAt, nested, nestedAt } = nf4Layout(numel, !('absmax' in nf4!));
    const upload = async (at: number, source: { storage: Storage; offset: number }, bytes: number) => {
      await addon().copyAsync(storage, at, source.storage, source.offset, bytes);
      addon().adviseUnneeded(source.storage, source.offset, bytes);
      return { storage, offset: at };
    };
    const codes = await upload(offset, { storage: from, offset: codesAt }, dtypeBytes('nf4', numel));
    if ('absmax' in nf4!) return { ...codes, nf4: { absmax: await upload(offset + absmaxAt, nf4.absmax, blocks * 4) } };
    const absmaxU8 = await upload(offset + absmaxAt, nf4!.absmaxU8, blocks);
    const nestedAbsmax = await upload(offset + nestedAt, nf4!.nestedAbsmax, nested * 4);
    return { ...codes, nf4: { absmaxU8, nestedAbsmax, nestedOffset: nf4!.nestedOffset } };
  }

  #allocate(bytes: number, where: Device | 'pinned'): Storage {
    const storage = addon().allocate(bytes, where);
    this.#owned.push(storage);
    return storage;
  }
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function aligned(bytes: number): number {
  return align(bytes, ALIGNMENT);
}

/** How codes and scales lie one after the other. */
function nf4Layout(numel: number, doubleQuant: boolean) {
  const blocks = Math.ceil(numel / NF4_BLOCK);
  const nested = Math.ceil(blocks / NF4_NESTED_BLOCK);
  const absmaxAt = aligned(dtypeBytes('nf4', numel));
  const nestedAt = absmaxAt + aligned(blocks);
  return { blocks, nested, absmaxAt, nestedAt, bytes: doubleQuant ? nestedAt + nested * 4 : absmaxAt + blocks * 4 };
}

/** Bytes of codes and scales. */
export function nf4Bytes(numel: number, doubleQuant: boolean): number {
  return nf4Layout(numel, doubleQuant).bytes;
}

/** Bytes of the scales before they are quantised, and of their mean. */
function scaleBytes(numel: number): number {
  return aligned(Math.ceil(numel / NF4_BLOCK) * 4) + 4;
}
