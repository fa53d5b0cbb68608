/** A model on disk: its config understood, its tensors checked against it, nothing loaded yet. */
import { VltuneError } from '../errors.js';
import type { Place } from '../graph/program.js';
import type { DType } from '../native.js';
import { findNf4Tensors, type Nf4Tensor } from '../weights/bnb4bit.js';
import { Checkpoint, type SafetensorsDtype } from '../weights/safetensors.js';
import type { ModelSpec } from './family.js';
import { describeModel } from './registry.js';

const STORED: Partial<Record<SafetensorsDtype, DType>> = { F32: 'f32', BF16: 'bf16', F16: 'f16' };

/** How many names an error lists. */
const LISTED = 5;

export interface Nf4Stored {
  /** Codes and scales in memory. */
  readonly bytes: number;
  /** Whether its scales are quantised too. */
  readonly doubleQuant: boolean;
  place(): Place;
}

export class ModelFolder {
  readonly folder: string;
  readonly spec: ModelSpec;
  readonly config: Readonly<Record<string, unknown>>;
  readonly checkpoint: Checkpoint;
  readonly #nf4: ReadonlyMap<string, Nf4Tensor>;

  private constructor(
    folder: string,
    described: { spec: ModelSpec; config: Readonly<Record<string, unknown>> },
    checkpoint: Checkpoint,
    nf4: ReadonlyMap<string, Nf4Tensor>,
  ) {
    this.folder = folder;
    this.spec = described.spec;
    this.config = described.config;
    this.checkpoint = checkpoint;
    this.#nf4 = nf4;
  }

  /** Opens and checks a model folder. ERR_NOT_FOUND, ERR_BAD_CHECKPOINT (file, tensor, expected and found), ERR_UNSUPPORTED. */
  static async open(folder: string): Promise<ModelFolder> {
    const described = await describeModel(folder);
    const checkpoint = await Checkpoint.open(folder);
    try {
      const model = new ModelFolder(folder, described, checkpoint, findNf4Tensors(checkpoint, described.config));
      model.#check();
      return model;
    } catch (error) {
      checkpoint.close();
      throw error;
    }
  }

  /** Whether any layer is stored in 4 bits. */
  get isQuantized(): boolean {
    return this.#nf4.size > 0;
  }

  /** The dtype that a floating-point tensor is stored in. */
  dtypeOf(name: string): DType {
    return STORED[this.checkpoint.get(name).dtype]!;
  }

  /** A tensor that is stored in 4 bits, by the name of the weight that it stands for. */
  nf4(name: string): Nf4Stored | undefined {
    const tensor = this.#nf4.get(name);
    return (
      tensor && { bytes: tensor.bytes, doubleQuant: tensor.nested !== undefined, place: () => tensor.place(this.checkpoint) }
    );
  }

  close(): void {
    this.checkpoint.close();
  }

  /** Every tensor that the config calls for is there with its shape and a dtype that can be used, and no other is. */
  #check(): void {
    const { checkpoint, spec, folder } = this;
    const expected = new Map<string, readonly number[]>(spec.tensors.map((tensor) => [tensor.name, tensor.shape]));
    for (const linear of spec.linears) {
      if (linear.part === 'head' && spec.head === spec.embedding) continue;
      expected.set(`${linear.name}.weight`, [linear.out, linear.in]);
      if (linear.bias) expected.set(`${linear.name}.bias`, [linear.out]);
    }
    const missing = [...expected.keys()].filter((name) => !checkpoint.has(name));
    if (missing.length > 0) throw bad(folder, `${list(missing, 'tensor')} missing, which config.json calls for`);

    for (const [name, shape] of expected) {
      const nf4 = this.#nf4.get(name);
      const info = checkpoint.get(name);
      const found = nf4?.shape ?? info.shape;
      if (found.length !== shape.length || found.some((dim, i) => dim !== shape[i])) {
        throw bad(info.file, `tensor ${name}: config.json calls for shape [${shape.join(', ')}], found [${found.join(', ')}]`);
      }
      if (!nf4 && !STORED[info.dtype]) throw bad(info.file, `tensor ${name}: expected F32, BF16 or F16, found ${info.dtype}`);
    }

    const known = new Set(expected.keys());
    for (const tensor of this.#nf4.values()) for (const name of tensor.parts) known.add(name);
    // A tied head may be stored all the same; transformers ignores it too.
    if (spec.head === spec.embedding) known.add('lm_head.weight');
    const extra = [...checkpoint.tensors.keys()].filter((name) => !known.has(name));
    if (extra.length > 0)
      throw bad(folder, `${list(extra, 'tensor')} there that config.json (${spec.modelType}) does not call for`);
  }
}

function bad(where: string, text: string): VltuneError {
  return new VltuneError('ERR_BAD_CHECKPOINT', `${where}: ${text}`);
}

function list(names: readonly string[], noun: string): string {
  const shown = names.slice(0, LISTED).join(', ');
  const rest = names.length > LISTED ? ` and ${names.length - LISTED} more` : '';
  return `${noun}${names.length > 1 ? 's' : ''} ${shown}${rest} ${names.length > 1 ? 'are' : 'is'}`;
}
