/**
 * Linear layers in 4 bits as bitsandbytes stores them. Beside `<module>.weight` (two codes in a byte, row-major blocks of 64)
 * lie `.absmax`, `.quant_map`, with double quantisation `.nested_absmax` and `.nested_quant_map`, and
 * `.quant_state.bitsandbytes__nf4`, a JSON text. Each is checked against the others; only NF4 with the standard maps and
 * block sizes is taken, since that is what the kernels compute.
 */
import { VltuneError } from '../errors.js';
import type { Place } from '../graph/program.js';
import { addon } from '../native.js';
import { NF4_BLOCK as BLOCK, NF4_NESTED_BLOCK as NESTED_BLOCK } from '../ops/nf4.js';
import { decodeUtf8, describe, isJsonObject, type JsonObject, parseJsonObject, printable, pythonFloat } from './json.js';
import type { Checkpoint, SafetensorsDtype, TensorEntry, TensorInfo } from './safetensors.js';

const CODE = 'ERR_BAD_CHECKPOINT';
const STATE = '.quant_state.bitsandbytes__';

/** The 16 values of NF4 (bitsandbytes, functional.py `get_4bit_type`). */
const NF4_MAP: Float32Array = Float32Array.of(
  -1.0,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0.0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1.0,
);

let signedMap: Float32Array | undefined;

/** The signed dynamic map of 256 values, in which scales are stored under double quantisation. */
function dynamicMap(): Float32Array {
  if (signedMap !== undefined) return signedMap;
  const storage = addon().allocate(2048, 'cpu');
  try {
    const at = (offset: number) => ({ storage, offset, dtype: 'f32' as const, shape: [256] });
    addon().call('dynamic_map', [], [at(0), at(1024)], {});
    const map = new Float32Array(256);
    addon().read(storage, 0, map);
    signedMap = map;
    return map;
  } finally {
    addon().release(storage);
  }
}

/** dtype that was quantised, as the state's JSON and as safetensors call it. */
const DTYPE_NAMES: Readonly<Partial<Record<SafetensorsDtype, string>>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' };

/** A weight that is stored in 4 bits. */
export class Nf4Tensor {
  /** As `model.language_model.layers.0.mlp.up_proj.weight`. */
  readonly name: string;
  /** Of the matrix that it stands for: [out, in]. */
  readonly shape: readonly number[];
  /** dtype of the matrix before it was quantised. */
  readonly dtype: 'float32' | 'bfloat16' | 'float16';
  readonly codes: TensorInfo;
  /** F32, or U8 with double quantisation. One for each 64 elements. */
  readonly absmax: TensorInfo;
  /** Double quantisation: absmax[b] = map[absmax_u8[b]] · nested_absmax[b / 256] + offset. */
  readonly nested: { readonly absmax: TensorInfo; readonly offset: number } | undefined;
  /** Names of all tensors that belong to it. */
  readonly parts: readonly string[];

  constructor(fields: Pick<Nf4Tensor, 'name' | 'shape' | 'dtype' | 'codes' | 'absmax' | 'nested' | 'parts'>) {
    this.name = fields.name;
    this.shape = fields.shape;
    this.dtype = fields.dtype;
    this.codes = fields.codes;
    this.absmax = fields.absmax;
    this.nested = fields.nested;
    this.parts = fields.parts;
  }

  /** Bytes of codes and scales. */
  get bytes(): number {
    return this.codes.bytes + this.absmax.bytes + (this.nested?.absmax.bytes ?? 0);
  }

  /** Where it lies in the mapped file, as a program binds it. */
  place(checkpoint: Checkpoint): Place {
    const absmax = checkpoint.ref(this.absmax.name);
    const codes = checkpoint.ref(this.codes.name);
    if (this.nested === undefined) return { ...codes, nf4: { absmax } };
    return {
      ...codes,
      nf4: { absmaxU8: absmax, nestedAbsmax: checkpoint.ref(this.nested.absmax.name), nestedOffset: this.nested.offset },
    };
  }
}

/**
 * The 4-bit weights of a checkpoint, by name; empty if it is not quantised. `config` is its config.json. Throws
 * ERR_BAD_CHECKPOINT (file, tensor, expected and found), ERR_UNSUPPORTED for another quantisation.
 */
export function findNf4Tensors(checkpoint: Checkpoint, config: JsonObject): ReadonlyMap<string, Nf4Tensor> {
  checkQuantizationConfig(config.quantization_config, checkpoint.folder);
  const found = new Map<string, Nf4Tensor>();
  for (const { name, file } of checkpoint.tensors.values()) {
    const at = name.lastIndexOf(STATE);
    if (at < 0) continue;
    const type = name.slice(at + STATE.length);
    if (type !== 'nf4')
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `${file}: tensor ${printable(name)}: the 4-bit type ${printable(type)} is not supported; only nf4 is`,
      );
    const weight = name.slice(0, at);
    found.set(weight, readNf4(checkpoint, weight, name));
  }
  return found;
}

function checkQuantizationConfig(quantization: unknown, folder: string): void {
  if (quantization === undefined || quantization === null) return;
  const where = `${folder}/config.json: quantization_config`;
  if (!isJsonObject(quantization)) throw new VltuneError(CODE, `${where}: expected an object, got ${describe(quantization)}`);
  const method = quantization.quant_method ?? (quantization.load_in_4bit === true ? 'bitsandbytes' : undefined);
  if (method !== 'bitsandbytes')
    throw new VltuneError(
      'ERR_UNSUPPORTED',
      `${where}: quant_method ${describe(method)} is not supported; only bitsandbytes in 4 bits (nf4) is`,
    );
  if (quantization.load_in_4bit !== true && quantization._load_in_4bit !== true) {
    throw new VltuneError('ERR_UNSUPPORTED', `${where}: bitsandbytes in 8 bits is not supported; only 4 bits (nf4) are`);
  }
}

function readNf4(checkpoint: Checkpoint, name: string, stateName: string): Nf4Tensor {
  const state = checkpoint.get(stateName);
  const at = (tensor: TensorInfo): string => `${tensor.file}: tensor ${printable(tensor.name)}`;
  const bad = (where: string, expected: string, found: string): VltuneError =>
    new VltuneError(CODE, `${where}: expected ${expected}, found ${found}`);
  const where = at(state);
  if (state.dtype !== 'U8') throw bad(where, 'a JSON text in U8', state.dtype);
  if (state.bytes > 65_536) throw bad(where, 'a short JSON text', `${state.bytes} bytes`);
  const json = parseJsonObject(decodeUtf8(checkpoint.bytes(stateName), where, CODE), where, CODE);

  const { quant_type: type, blocksize, dtype, shape } = json;
  if (type !== 'nf4') throw bad(`${where}: quant_type`, '"nf4"', describe(type));
  if (blocksize !== BLOCK)
    throw new VltuneError('ERR_UNSUPPORTED', `${where}: blocksize ${describe(blocksize)} is not supported; only ${BLOCK} is`);
  if (dtype !== 'float32' && dtype !== 'bfloat16' && dtype !== 'float16')
    throw bad(`${where}: dtype`, 'float32, bfloat16 or float16', describe(dtype));
  const isShape =
    Array.isArray(shape) && shape.length === 2 && shape.every((length) => Number.isSafeInteger(length) && length > 0);
  if (!isShape) throw bad(`${where}: shape`, 'two whole numbers above 0', JSON.stringify(shape)?.slice(0, 80) ?? 'nothing');
  const [rows, columns] = shape as [number, number];
  const numel = rows * columns;
  if (!Number.isSafeInteger(numel)) throw bad(`${where}: shape`, 'a matrix that fits in memory', `[${rows}, ${columns}]`);

  const part = (suffix: string, dtypes: readonly string[], bytes: number, slack = 0): TensorInfo => {
    const tensor = checkpoint.get(name + suffix);
    if (dtypes.length > 0 && !dtypes.includes(tensor.dtype)) throw bad(at(tensor), dtypes.join(' or '), tensor.dtype);
    if (tensor.bytes < bytes || tensor.bytes > bytes + slack) {
      throw bad(
        at(tensor),
        `${bytes} bytes (for a matrix of [${rows}, ${columns}])`,
        `${tensor.bytes} bytes, ${tensor.dtype} [${tensor.shape.join(', ')}]`,
      );
    }
    return tensor;
  };
  const map = (suffix: string, standard: Float32Array): string => {
    const tensor = part(suffix, ['F32'], standard.byteLength);
    const values = new Float32Array(checkpoint.bytes(tensor.name).buffer);
    const index = values.findIndex((value, i) => !isSame(value, standard[i]!));
    if (index >= 0) throw bad(`${at(tensor)}: value ${index}`, `${standard[index]} (the standard map)`, String(values[index]));
    return tensor.name;
  };

  // `quant_storage` may be another dtype than U8: the bytes are the same, filled up to a whole element.
  const codes = part('', [], Math.ceil(numel / 2), 7);
  const blocks = Math.ceil(numel / BLOCK);
  const quantMap = map('.quant_map', NF4_MAP);
  const common = { name, shape: [rows, columns], dtype, codes } as const;
  if (!checkpoint.has(`${name}.nested_absmax`) && json.nested_blocksize === undefined) {
    const absmax = part('.absmax', ['F32'], blocks * 4);
    return new Nf4Tensor({ ...common, absmax, nested: undefined, parts: [name, absmax.name, quantMap, stateName] });
  }
  const { nested_blocksize: nestedBlock, nested_dtype: nestedDtype, nested_offset: offset } = json;
  if (nestedBlock !== NESTED_BLOCK)
    throw new VltuneError(
      'ERR_UNSUPPORTED',
      `${where}: nested_blocksize ${describe(nestedBlock)} is not supported; only ${NESTED_BLOCK} is`,
    );
  if (nestedDtype !== 'float32') throw bad(`${where}: nested_dtype`, '"float32"', describe(nestedDtype));
  if (typeof offset !== 'number' || !Number.isFinite(offset)) throw bad(`${where}: nested_offset`, 'a number', describe(offset));
  const absmax = part('.absmax', ['U8'], blocks);
  const nestedAbsmax = part('.nested_absmax', ['F32'], Math.ceil(blocks / NESTED_BLOCK) * 4);
  const nestedMap = map('.nested_quant_map', dynamicMap());
  const parts = [name, absmax.name, quantMap, nestedAbsmax.name, nestedMap, stateName];
  return new Nf4Tensor({ ...common, absmax, nested: { absmax: nestedAbsmax, offset }, parts });
}

/** Equal to the last bits: another version of torch may round a map's value the other way. */
function isSame(value: number, standard: number): boolean {
  return Math.abs(value - standard) <= Math.abs(standard) * 2 ** -21;
}

// ---- Writing

/** What quantising a matrix gave. */
export interface Nf4Data {
  readonly codes: Uint8Array;
  /** F32, or U8 with double quantisation; as bytes. */
  readonly absmax: Uint8Array;
}

/** The part of double quantisation that is known before the rest is written. */
export interface NestedScales {
  readonly absmax: Float32Array;
  readonly offset: number;
}

/**
 * The tensors of a weight in 4 bits, to write with `writeCheckpoint`. `data` is asked for codes and scales when each is
 * written, and may be asked twice; `nested` is there with double quantisation. ERR_UNSUPPORTED for a dtype that is not a float of 16 or 32 bits.
 */
export function nf4Entries(
  name: string,
  shape: readonly number[],
  dtype: SafetensorsDtype,
  nested: NestedScales | undefined,
  data: () => Promise<Nf4Data>,
): TensorEntry[] {
  const original = DTYPE_NAMES[dtype];
  if (original === undefined)
    throw new VltuneError(
      'ERR_UNSUPPORTED',
      `tensor ${printable(name)}: ${dtype} cannot be quantised; only F32, BF16 and F16 can`,
    );
  const numel = shape.reduce((product, length) => product * length, 1);
  const blocks = Math.ceil(numel / BLOCK);
  const state = Buffer.from(stateText(original, shape, nested?.offset));
  const entries: TensorEntry[] = [
    { name, dtype: 'U8', shape: [Math.ceil(numel / 2), 1], data: async (sink) => sink.write((await data()).codes) },
    {
      name: `${name}.absmax`,
      dtype: nested ? 'U8' : 'F32',
      shape: [blocks],
      data: async (sink) => sink.write((await data()).absmax),
    },
    { name: `${name}.quant_map`, dtype: 'F32', shape: [NF4_MAP.length], data: NF4_MAP },
    { name: `${name}${STATE}nf4`, dtype: 'U8', shape: [state.byteLength], data: state },
  ];
  if (nested) {
    entries.push(
      { name: `${name}.nested_absmax`, dtype: 'F32', shape: [nested.absmax.length], data: nested.absmax },
      { name: `${name}.nested_quant_map`, dtype: 'F32', shape: [256], data: dynamicMap() },
    );
  }
  return entries;
}

/** As Python's `json.dumps` of the state's dict. */
function stateText(dtype: string, shape: readonly number[], nestedOffset: number | undefined): string {
  const nested =
    nestedOffset === undefined
      ? ''
      : `, "nested_blocksize": ${NESTED_BLOCK}, "nested_dtype": "float32", "nested_offset": ${pythonFloat(nestedOffset)}`;
  return `{"quant_type": "nf4", "blocksize": ${BLOCK}, "dtype": "${dtype}", "shape": [${shape.join(', ')}]${nested}}`;
}
