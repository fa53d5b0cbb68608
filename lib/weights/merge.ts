/**
 * An adapter merged into its 16-bit (or F32) base: W + scale · B A, computed in F32 and rounded once to the tensor's own
 * dtype. Shards are rewritten one by one, a few rows in memory at a time; what the adapter does not touch keeps its bytes, and so
 * do names, shards and their order.
 */
import { copyFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { type DeviceOption, openDevice } from '../device.js';
import { VltuneError } from '../errors.js';
import { ensureEmptyOutput, type FileSink, writeFolderAtomic } from '../files.js';
import { ModelFolder } from '../models/model_folder.js';
import { addon, type Device, type Storage, type TensorRef } from '../native.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from './float16.js';
import { checkAdapterFits, type LoraModule, readAdapter } from './lora.js';
import { type ConvertOptions, copyEntry, copyOtherFiles, Progress } from './model_files.js';
import { type Checkpoint, type TensorEntry, type TensorInfo, writeSafetensors } from './safetensors.js';

export interface MergeOptions extends ConvertOptions {
  /** Folder of the 16-bit base model. */
  readonly model: string;
  /** Folder of the adapter. */
  readonly adapter: string;
  readonly outputDir: string;
  /** Where B A is multiplied; the sum is made on the CPU. Default auto: a GPU if there is one. */
  readonly device?: DeviceOption | undefined;
}

export interface MergeResult {
  /** Layers that were changed. */
  readonly merged: number;
  readonly warnings: readonly string[];
}

/** Elements of a matrix that are merged at a time: a millisecond or two of this thread, then other work has its turn. */
const PIECE_ELEMENTS = 1 << 17;

/**
 * Merges `adapter` into `model` and writes a model folder to `outputDir`, which must be empty or absent and is made whole or not
 * at all. Rejects with ERR_USAGE (output folder), ERR_UNSUPPORTED (a quantised base, a tied head), ERR_BAD_ADAPTER,
 * ERR_BAD_CHECKPOINT, ERR_NO_DEVICE, ERR_CANCELLED, ERR_IO.
 */
export async function mergeAdapter(options: MergeOptions): Promise<MergeResult> {
  const { model, outputDir } = options;
  const device = openDevice(options.device);
  await ensureEmptyOutput(outputDir);
  const adapter = await readAdapter(options.adapter);
  const folder = await ModelFolder.open(model);
  try {
    const { checkpoint, spec } = folder;
    if (folder.isQuantized) {
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `${model} is quantised to 4 bits; merge the adapter into the original 16-bit weights instead (rounding the sum to 4 bits again would lose most of the adapter)`,
      );
    }
    checkAdapterFits(
      adapter,
      new Map(spec.linears.map((linear) => [linear.name, { inFeatures: linear.in, outFeatures: linear.out }])),
    );
    const modules = new Map([...adapter.tensors].map(([name, module]) => [`${name}.weight`, module]));
    for (const name of modules.keys()) {
      if (spec.head === spec.embedding && name === 'lm_head.weight') {
        throw new VltuneError(
          'ERR_UNSUPPORTED',
          `${options.adapter}: it adapts the output head, which is the embedding table in ${model} (tie_word_embeddings); merging would change both`,
        );
      }
    }
    const progress = new Progress(
      'merging',
      [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0),
      options,
    );
    progress.check();
    await writeFolderAtomic(outputDir, async (temporary) => {
      for (const file of checkpoint.files) {
        const entries = file.tensors.map((tensor): TensorEntry => {
          const module = modules.get(tensor.name);
          if (module === undefined) return copyEntry(checkpoint, tensor, progress);
          return {
            name: tensor.name,
            dtype: tensor.dtype,
            shape: tensor.shape,
            data: (sink) => mergeTensor(checkpoint, tensor, module, device, sink, progress),
          };
        });
        await writeSafetensors(join(temporary, relative(checkpoint.folder, file.path)), entries, file.metadata);
      }
      if (checkpoint.index !== undefined) await copyFile(checkpoint.index, join(temporary, basename(checkpoint.index)));
      await copyOtherFiles(model, temporary);
    });
    return { merged: modules.size, warnings: adapter.warnings };
  } finally {
    folder.close();
  }
}

/** Writes one merged matrix [out, in], some rows at a time: B A by the kernel of linear layers (x = B, weight = A transposed), the rest here. */
async function mergeTensor(
  checkpoint: Checkpoint,
  tensor: TensorInfo,
  module: LoraModule,
  device: Device,
  sink: FileSink,
  progress: Progress,
): Promise<void> {
  const { rank, inFeatures, outFeatures } = module;
  const scale = Math.fround(module.scale);
  const piece = Math.min(outFeatures, Math.max(1, Math.floor(PIECE_ELEMENTS / inFeatures)));
  const owned: Storage[] = [];
  const allocate = (rows: number, columns: number): TensorRef => {
    const storage = addon().allocate(rows * columns * 4, device);
    owned.push(storage);
    return { storage, offset: 0, dtype: 'f32', shape: [rows, columns] };
  };
  try {
    const weight = allocate(inFeatures, rank);
    addon().write(weight.storage, 0, transposed(module.a, rank, inFeatures));
    const x = allocate(piece, rank);
    const y = allocate(piece, inFeatures);
    for (let row = 0; row < outFeatures; row += piece) {
      const rows = Math.min(piece, outFeatures - row);
      addon().write(x.storage, 0, module.b.subarray(row * rank, (row + rows) * rank));
      const inputs = [{ ...x, shape: [rows, rank] }, weight, null, null, null, null];
      await addon().callAsync('linear', inputs, [{ ...y, shape: [rows, inFeatures] }, null], {});
      const delta = new Float32Array(rows * inFeatures);
      addon().read(y.storage, 0, delta);
      const bytes = new Uint8Array((tensor.bytes / outFeatures) * rows);
      checkpoint.read(tensor, (tensor.bytes / outFeatures) * row, bytes);
      if (!addScaled(tensor.dtype, bytes, delta, scale)) {
        throw new VltuneError(
          'ERR_BAD_ADAPTER',
          `merging made a value of tensor ${tensor.name} infinite or not a number; the adapter is broken or its scale is too large`,
        );
      }
      await sink.write(bytes);
      progress.add(bytes.byteLength);
    }
  } finally {
    for (const storage of owned) addon().release(storage);
  }
}

function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(matrix.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = matrix[i * columns + j]!;
  return result;
}

/** weights = round(weights + delta · scale), in place; each step rounds to F32, as torch does. Returns whether all are finite. */
function addScaled(dtype: string, bytes: Uint8Array<ArrayBuffer>, delta: Float32Array, scale: number): boolean {
  const isF32 = dtype === 'F32';
  const bits = new Uint16Array(bytes.buffer, 0, isF32 ? 0 : delta.length);
  const values = isF32 ? new Float32Array(bytes.buffer) : new Float32Array(delta.length);
  if (dtype === 'BF16') bf16ToF32(bits, values);
  else if (dtype === 'F16') f16ToF32(bits, values);
  for (let i = 0; i < values.length; i++) values[i] = values[i]! + Math.fround(delta[i]! * scale);
  if (isF32) return areFinite(new Uint32Array(bytes.buffer), 0x7f800000);
  if (dtype === 'BF16') f32ToBf16(values, bits);
  else f32ToF16(values, bits);
  return areFinite(bits, dtype === 'BF16' ? 0x7f80 : 0x7c00); // what is finite in F32 may be infinite in 16 bits
}

/** Whether none of these floats has the exponent of infinities and NaNs. Plain loops: millions of elements pass here. */
function areFinite(words: Uint16Array | Uint32Array, exponent: number): boolean {
  for (let i = 0; i < words.length; i++) if ((words[i]! & exponent) === exponent) return false;
  return true;
}
