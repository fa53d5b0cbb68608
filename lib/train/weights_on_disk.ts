/** What a run saves and takes up again: adapter or model, and the optimizer's state. */
import { join } from 'node:path';
import { VltuneError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { initialA } from '../models/adapters.js';
import { loraName } from '../models/trainables.js';
import { addon } from '../native.js';
import { bf16ToF32, f16ToF32, f32ToBf16 } from '../weights/float16.js';
import { isJsonObject, type JsonObject } from '../weights/json.js';
import { readAdapter, writeAdapter } from '../weights/lora.js';
import { copyOtherFiles } from '../weights/model_files.js';
import { readTensor, type TensorEntry, type TensorInfo, writeCheckpoint } from '../weights/safetensors.js';
import { OPTIMIZER_FILE, type SavedCheckpoint } from './checkpoint.js';
import type { Run } from './run.js';

/** Sets the trainable parameters as a new run starts with them. */
export async function initializeParameters(run: Run): Promise<void> {
  const { trainables, adapter, step, args, model } = run;
  if (trainables.mode === 'full') {
    for (const parameter of trainables.layout.parameters) {
      const source = { ...model.checkpoint.ref(parameter.name), dtype: model.dtypeOf(parameter.name), shape: parameter.shape };
      await addon().callAsync(
        'cast',
        [source],
        [{ ...step.parameterPlace(parameter.name), dtype: 'f32', shape: parameter.shape }],
        {},
      );
      addon().adviseUnneeded(source.storage, source.offset, model.checkpoint.get(parameter.name).bytes);
    }
    return;
  }
  for (const [name, module] of trainables.lora) {
    if (module.spec.part === 'vision') continue;
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
    if (spec.part === 'vision') {
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
    targetModules: config?.targetModules ?? args.targetModules,
    ...(config && { excludeModules: config.excludeModules, rankPattern: config.rankPattern, alphaPattern: config.alphaPattern }),
    modules,
  });
}

/** A whole model, every tensor and the config in the dtype of the run, and every other file of the folder. */
async function saveModel(run: Run, folder: string): Promise<void> {
  const { model, trainables, args, step } = run;
  const dtype = args.dtype === 'bfloat16' ? 'BF16' : 'F32';
  const valuesOf = (tensor: TensorInfo): Float32Array => {
    if (trainables.layout.get(tensor.name)) return step.readParameter(tensor.name);
    const bytes = model.checkpoint.bytes(tensor.name);
    const values = new Float32Array(bytes.byteLength / (tensor.dtype === 'F32' ? 4 : 2));
    if (tensor.dtype === 'F32') new Uint8Array(values.buffer).set(bytes);
    else (tensor.dtype === 'BF16' ? bf16ToF32 : f16ToF32)(new Uint16Array(bytes.buffer, bytes.byteOffset, values.length), values);
    return values;
  };
  const entries = [...model.checkpoint.tensors.values()].map(
    (tensor): TensorEntry => ({
      name: tensor.name,
      dtype,
      shape: tensor.shape,
      data: async (sink) => {
        const values = valuesOf(tensor);
        const stored = dtype === 'BF16' ? new Uint16Array(values.length) : values;
        if (stored instanceof Uint16Array) f32ToBf16(values, stored);
        await sink.write(new Uint8Array(stored.buffer));
      },
    }),
  );
  await writeCheckpoint(folder, entries);
  await copyOtherFiles(model.folder, folder, ['config.json']);
  await writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(withDtype(model.config, args.dtype), null, 2)}\n`);
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
        data: async (sink) => sink.write(new Uint8Array(step.readParameter(parameter.name).buffer)),
      }),
    ),
    ...optimizer.arrays.map(
      (array): TensorEntry => ({
        name: array.name,
        dtype: array.dtype === 'u8' ? 'U8' : 'F32',
        shape: [array.elements],
        data: async (sink) => sink.write(step.readState(array.name)),
      }),
    ),
  ];
}

const MASTER = 'master.';

/** Takes up what `saveWeights` and `stateTensors` saved in a checkpoint. ERR_BAD_CHECKPOINT if something is missing or misshapen. */
export async function restoreState(run: Run, checkpoint: SavedCheckpoint): Promise<void> {
  const { step, optimizer, trainables } = run;
  const read = async (name: string, bytes: number): Promise<Uint8Array<ArrayBuffer>> => {
    const tensor = checkpoint.optimizer.get(name);
    if (!tensor || tensor.bytes !== bytes) {
      const found = tensor ? `${tensor.bytes} bytes` : 'nothing';
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${join(checkpoint.folder, OPTIMIZER_FILE)}: tensor ${name}: expected ${bytes} bytes, found ${found}`,
      );
    }
    return readTensor(tensor);
  };
  if (trainables.mode === 'full') {
    for (const { name, numel } of trainables.layout.parameters) {
      step.writeParameter(name, new Float32Array((await read(MASTER + name, numel * 4)).buffer));
    }
  } else {
    const saved = await readAdapter(checkpoint.folder);
    for (const [name, module] of trainables.lora) {
      if (module.spec.part === 'vision') continue;
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
  for (const array of optimizer.arrays)
    step.writeState(array.name, await read(array.name, array.elements * (array.dtype === 'u8' ? 1 : 4)));
}
