/** What a run saves and takes up again: adapter or model, and the optimizer's state. */
import { join } from 'node:path';
import { VltuneError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { initialA } from '../models/adapters.js';
import { Staging } from '../models/staging.js';
import { loraName } from '../models/trainables.js';
import { addon } from '../native.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../weights/float16.js';
import { isJsonObject, type JsonObject } from '../weights/json.js';
import { readAdapter, writeAdapter } from '../weights/lora.js';
import { copyOtherFiles } from '../weights/model_files.js';
import { readTensorPieces, type TensorEntry, type TensorInfo, writeCheckpoint } from '../weights/safetensors.js';
import { isScoped } from '../weights/target_modules.js';
import { layerScope } from './args.js';
import { OPTIMIZER_FILE, type SavedCheckpoint } from './checkpoint.js';
import type { LossScale } from './loss_scale.js';
import { stateBytes } from './optimizer.js';
import type { Run } from './run.js';

/** Sets the trainable parameters as a new run starts with them. */
export async function initializeParameters(run: Run): Promise<void> {
  const { trainables, adapter, step, args, model } = run;
  if (trainables.mode === 'full') {
    const staging = new Staging(run.device);
    try {
      for (const { name, shape } of trainables.layout.parameters) {
        const source = { ...model.checkpoint.ref(name), dtype: model.dtypeOf(name), shape };
        await staging.cast(source, { ...step.parameterPlace(name), dtype: 'f32', shape });
        addon().adviseUnneeded(source.storage, source.offset, model.checkpoint.get(name).bytes);
      }
    } finally {
      staging.release();
    }
    return;
  }
  for (const [name, module] of trainables.lora) {
    if (!trainables.layout.get(loraName(name, 'A'))) continue;
    const given = adapter?.tensors.get(name);
    step.writeParameter(loraName(name, 'A'), given?.a ?? initialA(module.spec, module.rank, args.seed));
    if (given) step.writeParameter(loraName(name, 'B'), given.b);
  }
}

/** Writes the adapter (or with full fine-tuning the model) into a folder. */
export async function saveWeights(run: Run, folder: string): Promise<void> {
  if (run.trainables.mode === 'full') await saveModel(run, folder);
  else await saveAdapter(run, folder);
}

async function saveAdapter(run: Run, folder: string): Promise<void> {
  const { trainables, adapter, args, step } = run;
  const modules = [...trainables.lora.values()].map(({ spec, rank }) => {
    const given = adapter?.tensors.get(spec.name);
    // Text leaves adapters of the vision tower as they were.
    if (!trainables.layout.get(loraName(spec.name, 'A'))) {
      return {
        name: spec.name,
        rank,
        a: given?.a ?? initialA(spec, rank, args.seed),
        b: given?.b ?? new Float32Array(spec.out * rank),
      };
    }
    return {
      name: spec.name,
      rank,
      a: step.readParameter(loraName(spec.name, 'A')),
      b: step.readParameter(loraName(spec.name, 'B')),
    };
  });
  const config = adapter?.config;
  await writeAdapter(folder, {
    baseModel: args.model,
    r: config?.r ?? args.loraR,
    loraAlpha: config?.loraAlpha ?? args.loraAlpha,
    loraDropout: config?.loraDropout ?? args.loraDropout,
    useRslora: config?.useRslora ?? args.useRslora,
    // A narrowed choice is written out: PEFT has no words for it.
    targetModules: config?.targetModules ?? (isScoped(layerScope(args)) ? [...trainables.lora.keys()] : args.targetModules),
    ...(config && { excludeModules: config.excludeModules, rankPattern: config.rankPattern, alphaPattern: config.alphaPattern }),
    modules,
  });
}

const STORED = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' } as const;

/** A whole model, every tensor and the config in the dtype of the run, and every other file of the folder. */
async function saveModel(run: Run, folder: string): Promise<void> {
  const { model, trainables, args, step } = run;
  const dtype = STORED[args.dtype];
  const values = new Float32Array(PIECE_ELEMENTS);
  const halves = new Uint16Array(PIECE_ELEMENTS);
  /** Fills `into` with a tensor's numbers from element `from` of it. */
  const read = (tensor: TensorInfo, from: number, into: Float32Array): void => {
    if (trainables.layout.get(tensor.name)) {
      step.readParameterPart(tensor.name, from, into);
    } else if (tensor.dtype === 'F32') {
      model.checkpoint.read(tensor, from * 4, bytesOf(into));
    } else {
      const stored = halves.subarray(0, into.length);
      model.checkpoint.read(tensor, from * 2, bytesOf(stored));
      (tensor.dtype === 'BF16' ? bf16ToF32 : f16ToF32)(stored, into);
    }
  };
  const entries = [...model.checkpoint.tensors.values()].map(
    (tensor): TensorEntry => ({
      name: tensor.name,
      dtype,
      shape: tensor.shape,
      data: async (sink) => {
        for (const { from, length } of pieces(
          tensor.shape.reduce((product, size) => product * size, 1),
          PIECE_ELEMENTS,
        )) {
          const piece = values.subarray(0, length);
          read(tensor, from, piece);
          const stored = dtype === 'F32' ? piece : halves.subarray(0, length);
          if (stored instanceof Uint16Array) (dtype === 'BF16' ? f32ToBf16 : f32ToF16)(piece, stored);
          await sink.write(bytesOf(stored));
        }
      },
    }),
  );
  await writeCheckpoint(folder, entries);
  await copyOtherFiles(model.folder, folder, ['config.json']);
  await writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(withDtype(model.config, args.dtype), null, 2)}\n`);
}

/** Numbers that are held in memory beside the run's own while it is saved or taken up again: 4 MiB of them. */
const PIECE_ELEMENTS = 1 << 20;
const PIECE_BYTES = 4 * PIECE_ELEMENTS;

function* pieces(total: number, size: number): Generator<{ from: number; length: number }> {
  for (let from = 0; from < total; from += size) yield { from, length: Math.min(size, total - from) };
}

function bytesOf(array: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** A config that says which dtype its weights are in, wherever it said so before (`torch_dtype` in older files). */
function withDtype(config: JsonObject, dtype: string): JsonObject {
  const entries = Object.entries(config).map(([key, value]) => {
    if (key === 'dtype' || key === 'torch_dtype') return [key, dtype];
    return [key, isJsonObject(value) ? withDtype(value, dtype) : value];
  });
  return Object.fromEntries(entries);
}

/** The optimizer's state; with full fine-tuning also the parameters in f32, since the model's file may round them. */
export function stateTensors(run: Run): TensorEntry[] {
  const { step, optimizer, trainables } = run;
  const masters = trainables.mode === 'full' ? trainables.layout.parameters : [];
  return [
    ...masters.map(
      (parameter): TensorEntry => ({
        name: MASTER + parameter.name,
        dtype: 'F32',
        shape: parameter.shape,
        data: async (sink) => {
          const values = new Float32Array(Math.min(PIECE_ELEMENTS, parameter.numel));
          for (const { from, length } of pieces(parameter.numel, PIECE_ELEMENTS)) {
            const piece = values.subarray(0, length);
            step.readParameterPart(parameter.name, from, piece);
            await sink.write(bytesOf(piece));
          }
        },
      }),
    ),
    ...lossScaleTensors(step.scaler),
    ...optimizer.arrays.map(
      (array): TensorEntry => ({
        name: array.name,
        dtype: array.dtype === 'u8' ? 'U8' : 'F32',
        shape: [array.elements],
        data: async (sink) => {
          const total = stateBytes(array);
          const bytes = new Uint8Array(Math.min(PIECE_BYTES, total));
          for (const { from, length } of pieces(total, PIECE_BYTES)) {
            const piece = bytes.subarray(0, length);
            step.readStatePart(array.name, from, piece);
            await sink.write(piece);
          }
        },
      }),
    ),
  ];
}

const MASTER = 'master.';
const LOSS_SCALE = 'loss_scale';

/** The loss scale, the updates made since it was moved, and those that were not made in all. */
function lossScaleTensors(scaler: LossScale | undefined): TensorEntry[] {
  if (!scaler) return [];
  const { scale, made, skipped } = scaler.state;
  return [{ name: LOSS_SCALE, dtype: 'F32', shape: [3], data: bytesOf(Float32Array.of(scale, made, skipped)) }];
}

/** Takes up what `saveWeights` and `stateTensors` saved in a checkpoint. ERR_BAD_CHECKPOINT if something is missing or misshapen. */
export async function restoreState(run: Run, checkpoint: SavedCheckpoint): Promise<void> {
  const { step, optimizer, trainables } = run;
  const read = async (name: string, bytes: number, take: (piece: Uint8Array, from: number) => void): Promise<void> => {
    const tensor = checkpoint.optimizer.get(name);
    if (!tensor || tensor.bytes !== bytes) {
      const found = tensor ? `${tensor.bytes} bytes` : 'nothing';
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${join(checkpoint.folder, OPTIMIZER_FILE)}: tensor ${name}: expected ${bytes} bytes, found ${found}`,
      );
    }
    await readTensorPieces(tensor, PIECE_BYTES, take);
  };
  if (trainables.mode === 'full') {
    for (const { name, numel } of trainables.layout.parameters) {
      await read(MASTER + name, numel * 4, (piece, from) =>
        step.writeParameterPart(name, from / 4, new Float32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4)),
      );
    }
  } else {
    const saved = await readAdapter(checkpoint.folder);
    for (const [name, module] of trainables.lora) {
      if (!trainables.layout.get(loraName(name, 'A'))) continue;
      const tensors = saved.tensors.get(name);
      if (!tensors || tensors.rank !== module.rank) {
        throw new VltuneError(
          'ERR_BAD_CHECKPOINT',
          `${checkpoint.folder}: adapter of ${name}: expected rank ${module.rank}, found ${tensors?.rank ?? 'none'}`,
        );
      }
      step.writeParameter(loraName(name, 'A'), tensors.a);
      step.writeParameter(loraName(name, 'B'), tensors.b);
    }
  }
  const { scaler } = step;
  if (scaler) {
    await read(LOSS_SCALE, 12, (piece) => {
      const [scale, made, skipped] = new Float32Array(piece.buffer, piece.byteOffset, 3);
      if (!(scale! > 0 && made! >= 0 && skipped! >= 0)) {
        throw new VltuneError(
          'ERR_BAD_CHECKPOINT',
          `${join(checkpoint.folder, OPTIMIZER_FILE)}: tensor ${LOSS_SCALE}: expected a scale and two counts, found ${scale}, ${made} and ${skipped}`,
        );
      }
      scaler.state = { scale: scale!, made: made!, skipped: skipped! };
    });
  }
  for (const array of optimizer.arrays)
    await read(array.name, stateBytes(array), (piece, from) => step.writeStatePart(array.name, from, piece));
}
