/** Everything that a run is made of, opened and checked and planned; the weights are not loaded yet. Shared by `train` and `plan`. */
import { createHash } from 'node:crypto';
import { type BatchLimits, BatchPlan } from '../data/batches.js';
import { type PrepareProgress, prepareDataset, type TokenDataset } from '../data/prepare.js';
import { ChatTemplate } from '../data/template.js';
import { Tokenizer } from '../data/tokenizer.js';
import { openDevice, plannedDevice } from '../device.js';
import { ACTIVATIONS } from '../dtype.js';
import { VltuneError } from '../errors.js';
import { adaptersOf, newAdapters } from '../models/adapters.js';
import { FrozenWeights } from '../models/frozen_weights.js';
import { ModelFolder } from '../models/model_folder.js';
import { Trainables } from '../models/trainables.js';
import { addon, type Device } from '../native.js';
import { type DownloadProgress, resolveModel } from '../weights/hub.js';
import { type Adapter, readAdapter } from '../weights/lora.js';
import type { TrainArgs } from './args.js';
import type { RunIdentity } from './checkpoint.js';
import { memoryBudget } from './memory_limit.js';
import { OptimizerLayout } from './optimizer.js';
import { totalUpdates } from './schedule.js';
import { TrainingStep } from './training_step.js';

export interface RunHooks {
  readonly onDownload?: ((progress: DownloadProgress) => void) | undefined;
  readonly onPrepare?: ((progress: PrepareProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Run {
  readonly args: TrainArgs;
  readonly device: Device;
  readonly model: ModelFolder;
  readonly dataset: TokenDataset;
  readonly evalDataset: TokenDataset | undefined;
  readonly batches: BatchPlan;
  readonly evalBatches: BatchPlan | undefined;
  readonly limits: BatchLimits;
  readonly adapter: Adapter | undefined;
  readonly trainables: Trainables;
  readonly frozen: FrozenWeights;
  readonly optimizer: OptimizerLayout;
  readonly step: TrainingStep;
  /** Updates in all. */
  readonly totalSteps: number;
  /** What was held before anything was allocated for training: resident memory of the process, or with CUDA what the card holds. */
  readonly baseBytes: number;
  /** The most that resident memory, or with CUDA what the card holds, is expected to reach. */
  readonly plannedBytes: number;
}

/** What Node's heap grows by while a run goes on: batches, events, the log. */
const HEAP_GROWTH = 4 << 20;

/** `planning`: nothing will be run, so a GPU need not be there. */
export async function openRun(args: TrainArgs, hooks: RunHooks = {}, planning: boolean = false): Promise<Run> {
  const device = planning ? plannedDevice(args.device) : openDevice(args.device);
  if (args.threads !== undefined) addon().setThreads(args.threads);
  const folder = await resolveModel(args.model, {
    revision: args.revision,
    ...(hooks.onDownload && { onProgress: hooks.onDownload }),
  });
  const model = await ModelFolder.open(folder);
  const cleanup: (() => void)[] = [() => model.close()];
  try {
    if (args.fullFinetuning && model.isQuantized) {
      throw new VltuneError('ERR_USAGE', `--full-finetuning: ${folder} is stored in 4 bits; expected 16-bit or 32-bit weights`);
    }
    const adapter = args.adapter === undefined ? undefined : await readAdapter(args.adapter);
    const trainables = trainablesOf(args, model, adapter);

    const prepared = async (files: readonly string[], tokenizer: Tokenizer) => {
      const template = args.textFormat === 'chat' ? await ChatTemplate.load(folder, tokenizer) : undefined;
      const { textFormat, assistantOnlyLoss, appendEos, maxLength, skipImages } = args;
      const dataset = await prepareDataset(files, {
        tokenizer,
        template,
        textFormat,
        assistantOnlyLoss,
        appendEos,
        maxLength,
        skipImages,
        onProgress: hooks.onPrepare,
        signal: hooks.signal,
      });
      cleanup.push(() => dataset.close());
      return dataset;
    };
    const tokenizer = await Tokenizer.load(folder);
    const { vocabSize, maxPositions } = model.spec.text;
    if (tokenizer.vocabSize > vocabSize) {
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${folder}: tokenizer.json has ids up to ${tokenizer.vocabSize - 1}, config.json a vocab_size of ${vocabSize}`,
      );
    }
    if (args.maxLength > maxPositions) {
      throw new VltuneError(
        'ERR_USAGE',
        `--max-length: expected at most ${maxPositions}, the model's max_position_embeddings, got ${args.maxLength}`,
      );
    }
    const dataset = await prepared(args.dataset, tokenizer);
    const evalDataset = args.evalDataset.length > 0 ? await prepared(args.evalDataset, tokenizer) : undefined;

    const { maxLength, packing, seed } = args;
    const batches = new BatchPlan(dataset, {
      batchSize: args.perDeviceTrainBatchSize,
      maxLength,
      gradientAccumulationSteps: args.gradientAccumulationSteps,
      packing,
      shuffle: args.shuffle,
      seed,
    });
    const evalBatches =
      evalDataset &&
      new BatchPlan(evalDataset, {
        batchSize: args.perDeviceTrainBatchSize,
        maxLength,
        gradientAccumulationSteps: 1,
        packing,
        shuffle: false,
        seed,
      });
    const totalSteps = totalUpdates(args, batches.updatesPerEpoch);
    const limits = largest(batches.limits(totalSteps / batches.updatesPerEpoch), evalBatches?.limits(1));

    const dtype = ACTIVATIONS[args.dtype];
    const { embedding, head } = model.spec;
    if (args.embeddingOnHost && embedding === head) {
      throw new VltuneError(
        'ERR_USAGE',
        `--embedding-on-host: the output head of ${folder} is the embedding table itself, which the GPU must hold`,
      );
    }
    const optimizer = new OptimizerLayout(trainables.layout, args.optim);
    const { baseBytes, limit } = memoryBudget(device, args.memory, device === 'cuda' && addon().cudaInfo().available);
    const built = (embeddingOnHost: boolean) => {
      const frozen = new FrozenWeights(model, {
        device,
        dtype,
        loadIn4bit: args.loadIn4bit && !args.fullFinetuning,
        doubleQuant: true,
        skip: (name) => trainables.layout.get(name) !== undefined,
        onHost: (name) => embeddingOnHost && name === embedding,
      });
      const step = new TrainingStep(model.spec, frozen, trainables, optimizer, {
        dtype,
        device,
        maxTokens: limits.tokens,
        maxSequences: limits.rows,
        maxTargets: limits.targets,
        maxGradNorm: args.maxGradNorm,
        gradientCheckpointing: args.gradientCheckpointing,
        ...(limit && { memoryLimit: limit }),
      });
      return { frozen, step };
    };
    const mayMove = device !== 'cpu' && embedding !== head && args.embeddingOnHost === undefined;
    const { frozen, step } = mayMove ? leastRecomputed(built) : built(args.embeddingOnHost ?? false);
    const { total, weights } = step.memory;
    // On a GPU what loading needs is free again before the rest is allocated.
    const own = device === 'cpu' ? total + frozen.loadingBytes + HEAP_GROWTH : Math.max(total, weights + frozen.loadingBytes);
    const plannedBytes = baseBytes + own;
    return {
      args,
      device,
      model,
      dataset,
      evalDataset,
      batches,
      evalBatches,
      limits,
      adapter,
      trainables,
      frozen,
      optimizer,
      step,
      totalSteps,
      baseBytes,
      plannedBytes,
    };
  } catch (error) {
    for (const close of cleanup) close();
    throw error;
  }
}

export function closeRun(run: Run): void {
  run.step.release();
  run.frozen.release();
  run.dataset.close();
  run.evalDataset?.close();
  run.model.close();
}

/** What tells one run's model and data from another's. */
export function identityOf(run: Run): RunIdentity {
  const hash = createHash('sha256').update(JSON.stringify(run.model.config));
  for (const tensor of run.model.checkpoint.tensors.values()) {
    hash.update(`${tensor.name} ${tensor.dtype} ${tensor.shape.join('x')}\n`);
    // The first bytes of each tensor tell two trainings of one architecture apart without reading gigabytes.
    const sample = new Uint8Array(Math.min(tensor.bytes, 4096));
    run.model.checkpoint.read(tensor, 0, sample);
    hash.update(sample);
  }
  return { model: hash.digest('hex'), dataset: run.dataset.fingerprint };
}

/** With the embedding table on the GPU if that costs nothing else; its rows are read faster from the host than a layer is made again. */
function leastRecomputed<T extends { readonly step: TrainingStep }>(built: (embeddingOnHost: boolean) => T): T {
  let onDevice: T | undefined;
  try {
    onDevice = built(false);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_OUT_OF_MEMORY') throw error;
  }
  if (onDevice?.step.memory.recompute === 'none') return onDevice;
  const onHost = built(true);
  const recomputed = ({ step }: T): number => {
    const { elementwise, layers, host } = step.memory.recomputedBlocks;
    return elementwise + 2 * layers + 3 * host;
  };
  return onDevice && recomputed(onDevice) <= recomputed(onHost) ? onDevice : onHost;
}

function trainablesOf(args: TrainArgs, model: ModelFolder, adapter: Adapter | undefined): Trainables {
  if (args.fullFinetuning) return Trainables.full(model.spec);
  if (adapter) return adaptersOf(model.spec, adapter, adapter.config.loraDropout);
  const trainables = newAdapters(model.spec, {
    r: args.loraR,
    alpha: args.loraAlpha,
    dropout: args.loraDropout,
    useRslora: args.useRslora,
    targetModules: args.targetModules,
  });
  if (trainables.layout.parameters.length === 0) {
    throw new VltuneError('ERR_USAGE', '--target-modules: matches layers of the vision tower only, which text does not train');
  }
  return trainables;
}

function largest(train: BatchLimits, evaluation: BatchLimits | undefined): BatchLimits {
  if (!evaluation) return train;
  return {
    tokens: Math.max(train.tokens, evaluation.tokens),
    targets: Math.max(train.targets, evaluation.targets),
    rows: Math.max(train.rows, evaluation.rows),
    rowTokens: Math.max(train.rowTokens, evaluation.rowTokens),
  };
}
