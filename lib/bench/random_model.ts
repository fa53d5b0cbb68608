/** Models of true shape with random weights that are made in place: what a training step or a token costs, without a checkpoint. */
import { VltuneError } from '../errors.js';
import { CUDA_ALIGNMENT } from '../graph/planner.js';
import type { Place } from '../graph/program.js';
import { newAdapters } from '../models/adapters.js';
import type { LinearSpec, ModelSpec } from '../models/family.js';
import { QWEN3_VL } from '../models/qwen3_vl.js';
import type { Trainables } from '../models/trainables.js';
import type { StoredWeight, WeightStore } from '../models/weight_store.js';
import { addon, type Device, type DType, dtypeBytes, type Storage } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { NF4_BLOCK, NF4_NESTED_BLOCK } from '../ops/nf4.js';
import { TRAIN_OPTIONS } from '../train/args.js';
import { f32ToBf16, f32ToF16 } from '../weights/float16.js';
import { normals } from './normals.js';

interface VisionSizes {
  readonly hidden: number;
  readonly intermediate: number;
  readonly depth: number;
  readonly heads: number;
  /** Blocks whose output the first layers of the language model take too. */
  readonly deepstack: readonly number[];
}

interface Sizes {
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly tied: boolean;
  readonly vision: VisionSizes;
}

const SMALL_TOWER: VisionSizes = { hidden: 1024, intermediate: 4096, depth: 24, heads: 16, deepstack: [5, 11, 17] };
const LARGE_TOWER: VisionSizes = { hidden: 1152, intermediate: 4304, depth: 27, heads: 16, deepstack: [8, 16, 24] };
/** Where sight is in no measurement. */
const LEAST_TOWER: VisionSizes = { hidden: 32, intermediate: 64, depth: 1, heads: 2, deepstack: [0] };

/** The public Qwen3-VL checkpoints, and a text model of the 100 M class. */
const SHAPES: Readonly<Record<string, Sizes>> = {
  'qwen3-vl-2b': {
    hidden: 2048,
    intermediate: 6144,
    layers: 28,
    heads: 16,
    kvHeads: 8,
    headDim: 128,
    vocab: 151_936,
    tied: true,
    vision: SMALL_TOWER,
  },
  'qwen3-vl-4b': {
    hidden: 2560,
    intermediate: 9728,
    layers: 36,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    vocab: 151_936,
    tied: true,
    vision: SMALL_TOWER,
  },
  'qwen3-vl-8b': {
    hidden: 4096,
    intermediate: 12_288,
    layers: 36,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    vocab: 151_936,
    tied: false,
    vision: LARGE_TOWER,
  },
  '100m': {
    hidden: 768,
    intermediate: 2048,
    layers: 10,
    heads: 12,
    kvHeads: 4,
    headDim: 64,
    vocab: 32_000,
    tied: true,
    vision: LEAST_TOWER,
  },
};

export const SHAPE_NAMES: readonly string[] = Object.keys(SHAPES);

/** config.json of the model that `--shape` names, as far as it depends on the shape. */
export function configOfShape(name: string): Readonly<Record<string, unknown>> {
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocab, tied, vision } = SHAPES[name]!;
  const half = headDim / 2;
  const side = Math.floor((half * 5) / 16);
  return {
    model_type: 'qwen3_vl',
    tie_word_embeddings: tied,
    text_config: {
      model_type: 'qwen3_vl_text',
      vocab_size: vocab,
      hidden_size: hidden,
      intermediate_size: intermediate,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      head_dim: headDim,
      rms_norm_eps: 1e-6,
      max_position_embeddings: 262_144,
      tie_word_embeddings: tied,
      rope_parameters: {
        rope_type: 'default',
        rope_theta: 5_000_000,
        mrope_section: [half - 2 * side, side, side],
        mrope_interleaved: true,
      },
    },
    vision_config: {
      model_type: 'qwen3_vl',
      hidden_size: vision.hidden,
      intermediate_size: vision.intermediate,
      depth: vision.depth,
      num_heads: vision.heads,
      out_hidden_size: hidden,
      deepstack_visual_indexes: vision.deepstack,
    },
  };
}

/** The model that `--shape` names. */
export function modelOfShape(name: string): ModelSpec {
  return QWEN3_VL.describe(configOfShape(name), name);
}

/** Adapters of rank `r`, alpha the same, on the layers that training takes by default. */
export function recipeAdapters(spec: ModelSpec, r: number): Trainables {
  const targetModules = TRAIN_OPTIONS.targetModules.fallback as readonly string[];
  return newAdapters(spec, { r, alpha: r, dropout: 0, useRslora: false, targetModules });
}

const align = (bytes: number): number => Math.ceil(bytes / CUDA_ALIGNMENT) * CUDA_ALIGNMENT;

const DEVIATION = 0.02;
/** Elements of the table of random numbers that all weights are cut from, and the step between two cuts. */
const TABLE = 1 << 24;
const STEP = 8191 * NF4_BLOCK;

export class RandomWeights implements WeightStore {
  readonly #onHost: (name: string) => boolean;
  readonly #dtype: ActivationDType;
  readonly #linears: ReadonlyMap<string, LinearSpec>;
  readonly #tensors = new Map<string, StoredWeight>();
  readonly #places = new Map<string, Place>();
  readonly #pinned: Storage[] = [];
  #block: Storage | undefined;
  #bytes = 0;
  #hostBytes = 0;

  /** `onHost`: tensors that a GPU reads in the host's memory. */
  constructor(spec: ModelSpec, dtype: ActivationDType, loadIn4bit: boolean, onHost: (name: string) => boolean = () => false) {
    this.#dtype = dtype;
    this.#onHost = onHost;
    this.#linears = new Map(spec.linears.map((linear) => [linear.name, linear]));
    for (const { name, shape, part } of spec.tensors) {
      // Norms have weights of f32 or bf16.
      if (part === 'language') this.#plan(name, shape, dtype === 'f16' && shape.length === 1 ? 'f32' : dtype);
    }
    for (const { name, in: width, out, bias, part } of spec.linears) {
      if (part === 'vision' || (part === 'head' && spec.head === spec.embedding)) continue;
      this.#plan(`${name}.weight`, [out, width], part === 'language' && loadIn4bit ? 'nf4' : this.#dtype);
      if (bias) this.#plan(`${name}.bias`, [out], this.#dtype);
    }
  }

  get bytes(): number {
    return this.#bytes;
  }

  get hostBytes(): number {
    return this.#hostBytes;
  }

  linear(module: string): LinearSpec {
    return this.#linears.get(module)!;
  }

  get(name: string): StoredWeight | undefined {
    return this.#tensors.get(name);
  }

  place(name: string): Place {
    const place = this.#places.get(name);
    if (!place) throw new VltuneError('ERR_INTERNAL', `the weight ${name} is not made`);
    return place;
  }

  /** Makes every weight: normal numbers of deviation 0.02; norms are 1 throughout. One block holds them all. */
  async load(device: Device): Promise<void> {
    const element = dtypeBytes(this.#dtype, 1);
    const table = addon().allocate(TABLE * element, device);
    this.#block = addon().allocate(this.#bytes, device);
    try {
      const host = hostNumbers(normals(TABLE, DEVIATION), this.#dtype);
      await addon().copyAsync(table, 0, host, 0, TABLE * element);
      addon().release(host);
      let cut = 0;
      let offset = 0;
      for (const { name, shape, dtype } of this.#tensors.values()) {
        const numel = shape.reduce((product, dim) => product * dim, 1);
        cut = (cut + STEP) % TABLE;
        if (this.#onHost(name)) {
          const pinned = addon().allocate(numel * element, 'pinned');
          this.#pinned.push(pinned);
          this.#copyTable(pinned, 0, table, cut, numel);
          this.#places.set(name, { storage: pinned, offset: 0 });
          continue;
        }
        if (shape.length === 1) this.#ones(offset, numel, dtype as ActivationDType);
        else if (dtype !== 'nf4') this.#copyTable(this.#block, offset, table, cut, numel);
        this.#places.set(
          name,
          dtype === 'nf4' ? await this.#quantized(offset, table, cut, shape, device) : { storage: this.#block, offset },
        );
        offset += bytesOf(dtype, numel);
      }
    } finally {
      addon().release(table);
    }
  }

  release(): void {
    if (this.#block) addon().release(this.#block);
    for (const pinned of this.#pinned.splice(0)) addon().release(pinned);
    this.#block = undefined;
  }

  #plan(name: string, shape: readonly number[], dtype: DType): void {
    const bytes = bytesOf(
      dtype,
      shape.reduce((product, dim) => product * dim, 1),
    );
    if (this.#onHost(name)) this.#hostBytes += bytes;
    else this.#bytes += bytes;
    this.#tensors.set(name, { name, shape, dtype });
  }

  #ones(offset: number, numel: number, dtype: ActivationDType): void {
    const host = hostNumbers(new Float32Array(numel).fill(1), dtype);
    addon().copy(this.#block!, offset, host, 0, dtypeBytes(dtype, numel));
    addon().release(host);
  }

  /** `numel` numbers from the table, which is read round and round. */
  #copyTable(to: Storage, offset: number, table: Storage, cut: number, numel: number): void {
    const element = dtypeBytes(this.#dtype, 1);
    for (let done = 0, from = cut; done < numel; from = (from + STEP) % TABLE) {
      const take = Math.min(numel - done, TABLE - from);
      addon().copy(to, offset + done * element, table, from * element, take * element);
      done += take;
    }
  }

  async #quantized(offset: number, table: Storage, cut: number, shape: readonly number[], device: Device): Promise<Place> {
    const numel = shape.reduce((product, dim) => product * dim, 1);
    const blocks = Math.ceil(numel / NF4_BLOCK);
    const nested = Math.ceil(blocks / NF4_NESTED_BLOCK);
    const codes = align(Math.ceil(numel / 2));
    const element = dtypeBytes(this.#dtype, 1);
    const storage = this.#block!;
    const wide = numel > TABLE ? addon().allocate(numel * element, device) : undefined;
    if (wide) this.#copyTable(wide, 0, table, cut, numel);
    const source = wide ? { storage: wide, offset: 0 } : { storage: table, offset: (cut % (TABLE - numel + 1)) * element };
    const scratch = addon().allocate(align(blocks * 4) + 4, device);
    try {
      const absmax = { storage: scratch, offset: 0, dtype: 'f32' as const, shape: [blocks] };
      await addon().callAsync(
        'nf4_quantize',
        [{ ...source, dtype: this.#dtype, shape }],
        [{ storage, offset, dtype: 'u8', shape: [Math.ceil(numel / 2)] }, absmax],
        {},
      );
      const absmaxU8 = { storage, offset: offset + codes };
      const nestedAbsmax = { storage, offset: offset + codes + align(blocks) };
      await addon().callAsync(
        'nf4_quantize_absmax',
        [absmax],
        [
          { ...absmaxU8, dtype: 'u8', shape: [blocks] },
          { ...nestedAbsmax, dtype: 'f32', shape: [nested] },
          { storage: scratch, offset: align(blocks * 4), dtype: 'f32', shape: [1] },
        ],
        {},
      );
      const nestedOffset = new Float32Array(1);
      addon().read(scratch, align(blocks * 4), nestedOffset);
      return { storage, offset, nf4: { absmaxU8, nestedAbsmax, nestedOffset: nestedOffset[0]! } };
    } finally {
      addon().release(scratch);
      if (wide) addon().release(wide);
    }
  }
}

/** A host storage of numbers of a dtype. */
function hostNumbers(values: Float32Array, dtype: ActivationDType): Storage {
  const storage = addon().allocate(dtypeBytes(dtype, values.length), 'cpu');
  if (dtype === 'f32') {
    addon().write(storage, 0, values);
  } else {
    const bits = new Uint16Array(values.length);
    (dtype === 'bf16' ? f32ToBf16 : f32ToF16)(values, bits);
    addon().write(storage, 0, bits);
  }
  return storage;
}

/** Bytes in the block: codes and scales of NF4 each start at a multiple of the alignment, as every tensor does. */
function bytesOf(dtype: DType, numel: number): number {
  if (dtype !== 'nf4') return align(dtypeBytes(dtype, numel));
  const blocks = Math.ceil(numel / NF4_BLOCK);
  return align(Math.ceil(numel / 2)) + align(blocks) + align(Math.ceil(blocks / NF4_NESTED_BLOCK) * 4);
}
