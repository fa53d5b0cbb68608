/**
 * A 16-bit model folder as a bitsandbytes NF4 one that transformers loads. The linear layers of the language model go to 4
 * bits; the output head and the vision tower stay as they are (so that sight is kept), and are named in
 * llm_int8_skip_modules, by which transformers knows it.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type DeviceOption, openDevice } from '../device.js';
import { VltuneError } from '../errors.js';
import { ensureEmptyOutput, writeFolderAtomic } from '../files.js';
import type { ModelSpec } from '../models/family.js';
import { ModelFolder } from '../models/model_folder.js';
import { Staging } from '../models/staging.js';
import { addon, type Device, type DType, dtypeBytes, type Storage, type TensorRef } from '../native.js';
import { NF4_BLOCK, NF4_NESTED_BLOCK } from '../ops/nf4.js';
import { type NestedScales, type Nf4Data, nf4Entries } from './bnb4bit.js';
import { type ConvertOptions, copyEntry, copyOtherFiles, Progress } from './model_files.js';
import { type TensorEntry, type TensorInfo, tensorBytes, writeCheckpoint } from './safetensors.js';

export interface QuantizeOptions extends ConvertOptions {
  /** Model folder in 16 bits or F32. */
  readonly model: string;
  readonly outputDir: string;
  /** Quantise the scales too. Default true. */
  readonly doubleQuant?: boolean;
  /** Default auto: a GPU if there is one. The scales' codes are those that bitsandbytes finds on that device. */
  readonly device?: DeviceOption | undefined;
}

/** What was done. */
export interface QuantizeResult {
  /** Linear layers now in 4 bits. */
  readonly quantized: number;
  /** Bytes of the tensors before and after. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

const COMPUTE_DTYPES: Readonly<Record<string, string>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' };

/**
 * Quantises a model folder into `outputDir`, which must be empty or absent and is made whole or not at all. The bytes are those
 * of bitsandbytes. Rejects with ERR_USAGE (output folder), ERR_UNSUPPORTED (already quantised), ERR_BAD_CHECKPOINT,
 * ERR_NO_DEVICE, ERR_CANCELLED, ERR_IO.
 */
export async function quantizeCheckpoint(options: QuantizeOptions): Promise<QuantizeResult> {
  const { model, outputDir, doubleQuant = true } = options;
  const device = openDevice(options.device);
  await ensureEmptyOutput(outputDir);
  const folder = await ModelFolder.open(model);
  try {
    if (folder.isQuantized || folder.config.quantization_config != null) {
      throw new VltuneError('ERR_UNSUPPORTED', `${model} is quantised already; quantise the 16-bit model that it was made from`);
    }
    const { checkpoint, spec } = folder;
    const linears = new Set(spec.linears.filter(({ part }) => part === 'language').map(({ name }) => `${name}.weight`));
    const tensors = [...checkpoint.tensors.values()];
    const bytesBefore = sum(tensors.map(({ bytes }) => bytes));
    // Scales come before codes in the file, and with double quantisation a number in the header depends on them: each matrix is
    // quantised twice rather than kept.
    const quantizedBytes = sum(tensors.filter(({ name }) => linears.has(name)).map(({ bytes }) => bytes));
    const progress = new Progress('quantising', bytesBefore + quantizedBytes, options);
    progress.check();

    const quantizer = new Quantizer(folder, doubleQuant, device, progress);
    let bytesAfter = 0;
    await writeFolderAtomic(outputDir, async (temporary) => {
      const entries: TensorEntry[] = [];
      for (const tensor of tensors) {
        if (!linears.has(tensor.name)) {
          entries.push(copyEntry(checkpoint, tensor, progress));
          continue;
        }
        const nested = doubleQuant ? await quantizer.nested(tensor) : undefined;
        entries.push(...nf4Entries(tensor.name, tensor.shape, tensor.dtype, nested, () => quantizer.data(tensor)));
      }
      bytesAfter = sum(entries.map(({ dtype, shape }) => tensorBytes(dtype, shape)!));
      await writeCheckpoint(temporary, entries);
      await copyOtherFiles(model, temporary, ['config.json']);
      const compute = COMPUTE_DTYPES[checkpoint.get([...linears][0]!).dtype]!;
      const config = await readFile(join(model, 'config.json'), 'utf8');
      await writeFile(join(temporary, 'config.json'), withQuantization(config, doubleQuant, compute, skippedModules(spec)));
    });
    return { quantized: linears.size, bytesBefore, bytesAfter };
  } finally {
    folder.close();
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** The output head, and the path that all of the vision tower lies under. */
function skippedModules(spec: ModelSpec): string[] {
  const head = spec.linears.filter(({ part }) => part === 'head').map(({ name }) => name);
  const vision = [...spec.linears, ...spec.tensors].filter(({ part }) => part === 'vision').map(({ name }) => name.split('.'));
  if (vision.length === 0) return head;
  const [first] = vision as [string[], ...string[][]];
  const differs = first.findIndex((part, index) => vision.some((path) => path[index] !== part));
  return [...head, first.slice(0, differs).join('.')];
}

/**
 * config.json with the quantization_config that transformers writes. The rest of the text stays as it is: a parse and print
 * would turn 1.0 into 1, which is another type to Python.
 */
function withQuantization(config: string, doubleQuant: boolean, computeDtype: string, skip: readonly string[]): string {
  const fields = [
    '"_load_in_4bit": true',
    '"_load_in_8bit": false',
    `"bnb_4bit_compute_dtype": "${computeDtype}"`,
    '"bnb_4bit_quant_storage": "uint8"',
    '"bnb_4bit_quant_type": "nf4"',
    `"bnb_4bit_use_double_quant": ${doubleQuant}`,
    '"llm_int8_enable_fp32_cpu_offload": false',
    '"llm_int8_has_fp16_weight": false',
    `"llm_int8_skip_modules": [\n${skip.map((name) => `      ${JSON.stringify(name)}`).join(',\n')}\n    ]`,
    '"llm_int8_threshold": 6.0',
    '"load_in_4bit": true',
    '"load_in_8bit": false',
    '"quant_method": "bitsandbytes"',
  ];
  const end = config.lastIndexOf('}');
  return `${config.slice(0, end).trimEnd()},\n  "quantization_config": {\n    ${fields.join(',\n    ')}\n  }\n}\n`;
}

/** Runs the kernels on tensors of the mapped checkpoint. Keeps the result of the last one: codes and scales are written one after the other. */
class Quantizer {
  readonly #folder: ModelFolder;
  readonly #doubleQuant: boolean;
  readonly #device: Device;
  readonly #progress: Progress;
  #last: { name: string; data: Nf4Data } | undefined;

  constructor(folder: ModelFolder, doubleQuant: boolean, device: Device, progress: Progress) {
    this.#folder = folder;
    this.#device = device;
    this.#doubleQuant = doubleQuant;
    this.#progress = progress;
  }

  /** What the header needs of a matrix with double quantisation. */
  async nested(tensor: TensorInfo): Promise<NestedScales> {
    return (await this.#quantize(tensor)).nested!;
  }

  async data(tensor: TensorInfo): Promise<Nf4Data> {
    if (this.#last?.name !== tensor.name) this.#last = { name: tensor.name, data: (await this.#quantize(tensor)).data };
    return this.#last.data;
  }

  async #quantize(tensor: TensorInfo): Promise<{ data: Nf4Data; nested?: NestedScales }> {
    this.#progress.check();
    const { name, shape } = tensor;
    const numel = shape[0]! * shape[1]!;
    const blocks = Math.ceil(numel / NF4_BLOCK);
    const nestedBlocks = Math.ceil(blocks / NF4_NESTED_BLOCK);
    const owned: Storage[] = [];
    const output = (dtype: DType, count: number): TensorRef => {
      const storage = addon().allocate(dtypeBytes(dtype, count), this.#device);
      owned.push(storage);
      return { storage, offset: 0, dtype, shape: [count] };
    };
    const bytes = (ref: TensorRef): Uint8Array<ArrayBuffer> => {
      const into = new Uint8Array(dtypeBytes(ref.dtype, ref.shape[0]!));
      addon().read(ref.storage, 0, into);
      return into;
    };
    try {
      const source = this.#folder.checkpoint.ref(name);
      const codes = output('u8', Math.ceil(numel / 2));
      const absmax = output('f32', blocks);
      const staging = new Staging(this.#device);
      try {
        for await (const { ref, from, count } of staging.pieces({ ...source, dtype: this.#folder.dtypeOf(name), shape })) {
          const outputs = [
            { ...codes, offset: from / 2, shape: [Math.ceil(count / 2)] },
            { ...absmax, offset: (from / NF4_BLOCK) * 4, shape: [Math.ceil(count / NF4_BLOCK)] },
          ];
          await addon().callAsync('nf4_quantize', [{ ...ref, shape: [count] }], outputs, {});
        }
      } finally {
        staging.release();
      }
      addon().adviseUnneeded(source.storage, source.offset, tensor.bytes);
      this.#progress.add(tensor.bytes);
      if (!this.#doubleQuant) return { data: { codes: bytes(codes), absmax: bytes(absmax) } };
      const absmaxU8 = output('u8', blocks);
      const nestedAbsmax = output('f32', nestedBlocks);
      const offset = output('f32', 1);
      await addon().callAsync('nf4_quantize_absmax', [absmax], [absmaxU8, nestedAbsmax, offset], {});
      return {
        data: { codes: bytes(codes), absmax: bytes(absmaxU8) },
        nested: { absmax: new Float32Array(bytes(nestedAbsmax).buffer), offset: new Float32Array(bytes(offset).buffer)[0]! },
      };
    } finally {
      for (const storage of owned) addon().release(storage);
    }
  }
}
