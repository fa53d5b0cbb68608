/** Everything that a run is made of, opened and checked and planned; the weights are not loaded yet. Shared by `train` and `plan`. */
import { createHash } from 'node:crypto';
import { streamBytes } from '../data/batch_stream.js';
import { type BatchLimits, BatchPlan } from '../data/batches.js';
import { mediaOptions } from '../data/media/media_options.js';
import { MediaReader } from '../data/media/media_reader.js';
import { type PrepareProgress, prepareDataset } from '../data/prepare.js';
import { ChatTemplate } from '../data/template.js';
import type { TokenDataset } from '../data/token_dataset.js';
import { Tokenizer } from '../data/tokenizer.js';
import { openDevice, plannedDevice } from '../device.js';
import type { Workers } from '../distributed/workers.js';
import { ACTIVATIONS } from '../dtype.js';
import { VltuneError } from '../errors.js';
import { adaptersOf, newAdapters, TowerAdapters } from '../models/adapters.js';
import type { ModelSpec } from '../models/family.js';
import { FrozenWeights } from '../models/frozen_weights.js';
import { ModelFolder } from '../models/model_folder.js';
import { loraName, Trainables } from '../models/trainables.js';
import { VisionEncoder } from '../models/vision_encoder.js';
import { addon, type Device, dtypeBytes } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { type DownloadProgress, resolveModel } from '../weights/hub.js';
import { type Adapter, readAdapter } from '../weights/lora.js';
import { layerScope, type TrainArgs } from './args.js';
import type { RunIdentity } from './checkpoint.js';
import { leastRecomputed, mayMoveEmbedding } from './embedding_place.js';
import type { Sight } from './media_feed.js';
import { memoryBudget, without } from './memory_limit.js';
import { OptimizerLayout } from './optimizer.js';
import { totalUpdates } from './schedule.js';
import { TrainingStep } from './training_step.js';
import { VisionCache } from './vision_cache.js';

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
  /** How pictures come to the step; undefined where no row has one. */
  readonly sight: Sight | undefined;
  /** Updates in all. */
  readonly totalSteps: number;
  /** What was held before anything was allocated for training: resident memory of the process, or with CUDA what the card holds. */
  readonly baseBytes: number;
  /** The most that resident memory, or with CUDA what the card holds, is expected to reach. */
  readonly plannedBytes: number;
}

/** What Node's heap grows by while a run goes on: batches, events, the log. */
const HEAP_GROWTH = 4 << 20;
/** What the decoders of pictures take for themselves: their code, threads and caches. */
const DECODER_BYTES = 64 << 20;

/** The model's folder, downloaded if it is not here yet. */
export async function findModel({ model, revision }: TrainArgs, { onDownload }: RunHooks): Promise<string> {
  return await resolveModel(model, { revision, ...(onDownload && { onProgress: onDownload }) });
}

export interface RunSettings {
  /** Nothing will be run, so a GPU need not be there. */
  readonly planning?: boolean;
  /** Those that share each update. */
  readonly workers?: Pick<Workers, 'size' | 'ncclBytes'> | undefined;
}

export async function openRun(
  args: TrainArgs,
  hooks: RunHooks = {},
  { planning = false, workers }: RunSettings = {},
): Promise<Run> {
  const device = planning ? plannedDevice(args.device) : openDevice(args.device);
  if (args.threads !== undefined) addon().setThreads(args.threads);
  const folder = await findModel(args, hooks);
  const model = await ModelFolder.open(folder);
  const cleanup: (() => void)[] = [() => model.close()];
  try {
    if (args.fullFinetuning && model.isQuantized) {
      throw new VltuneError('ERR_USAGE', `--full-finetuning: ${folder} is stored in 4 bits; expected 16-bit or 32-bit weights`);
    }
    const adapter = args.adapter === undefined ? undefined : await readAdapter(args.adapter);
    trainablesOf(args, model, adapter, true); // what is wrong with the options is told before the data are read

    const prepared = async (files: readonly string[], tokenizer: Tokenizer) => {
      const template = args.textFormat === 'chat' ? await ChatTemplate.load(folder, tokenizer) : undefined;
      const { textFormat, assistantOnlyLoss, appendEos, maxLength, skipImages } = args;
      const media = model.spec.vision ? () => MediaReader.load(model, tokenizer, mediaOptions(args)) : undefined;
      const dataset = await prepareDataset(files, {
        tokenizer,
        template,
        textFormat,
        assistantOnlyLoss,
        appendEos,
        maxLength,
        skipImages,
        media,
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
      gradientAccumulationSteps: args.gradientAccumulationSteps * (workers?.size ?? 1),
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
    // Text alone never loads the tower, nor trains what is named of it.
    const trainables = trainablesOf(args, model, adapter, dataset.stats.media > 0);
    const vision = limits.patches > 0 ? model.spec.vision : undefined;
    const media = vision && {
      from: trainsTower(model.spec, trainables) ? ('patches' as const) : ('features' as const),
      maxPatches: limits.patches,
      maxFrames: limits.frames,
    };

    const dtype = ACTIVATIONS[args.dtype];
    const { embedding, head } = model.spec;
    if (args.embeddingOnHost && embedding === head) {
      throw new VltuneError(
        'ERR_USAGE',
        `--embedding-on-host: the output head of ${folder} is the embedding table itself, which the GPU must hold`,
      );
    }
    // An adapter of the tower's that text alone goes on from stays as it is; the pictures of an evaluation are seen with it.
    const towerAdapters = adapter && media?.from === 'features' ? TowerAdapters.of(model.spec, adapter, device) : undefined;
    const optimizer = new OptimizerLayout(trainables.layout, args.optim);
    const hasGpu = device === 'cuda' && addon().cudaInfo().available;
    const { baseBytes, limit } = memoryBudget(device, args.memory, hasGpu, workers?.ncclBytes);
    const built = (embeddingOnHost: boolean) => {
      const frozen = new FrozenWeights(model, {
        device,
        dtype,
        loadIn4bit: args.loadIn4bit && !args.fullFinetuning,
        doubleQuant: true,
        skip: (name) => trainables.layout.get(name) !== undefined,
        vision: vision !== undefined,
        onHost: (name) => embeddingOnHost && name === embedding,
      });
      const encoder =
        vision && media?.from === 'features'
          ? new VisionEncoder(vision, frozen, {
              dtype,
              device,
              maxPatches: limits.mediaPatches,
              maxFrames: limits.mediaFrames,
              ...(towerAdapters && { adapters: towerAdapters }),
            })
          : undefined;
      const step = new TrainingStep(model.spec, frozen, trainables, optimizer, {
        dtype,
        device,
        maxTokens: limits.tokens,
        maxSequences: limits.rows,
        maxTargets: limits.targets,
        ...(media && { media }),
        maxGradNorm: args.maxGradNorm,
        gradientCheckpointing: args.gradientCheckpointing,
        ...(limit && { memoryLimit: without(limit, encoder?.bytes ?? 0) }),
      });
      return { frozen, encoder, step };
    };
    const { frozen, encoder, step } =
      args.embeddingOnHost === undefined && mayMoveEmbedding(model.spec, device)
        ? leastRecomputed(built)
        : built(args.embeddingOnHost ?? false);
    const { weights } = step.memory;
    const total = step.memory.total + (encoder?.bytes ?? 0);
    const hostBytes = HEAP_GROWTH + mediaBytes(model.spec, limits, dtype, encoder ? args.visionCache : 0, [dataset, evalDataset]);
    // On a GPU what loading needs is free again before the rest is allocated.
    const own = device === 'cpu' ? total + frozen.loadingBytes + hostBytes : Math.max(total, weights + frozen.loadingBytes);
    const plannedBytes = baseBytes + own;
    const sight: Sight | undefined = encoder
      ? { from: 'features', encoder, cache: new VisionCache(args.visionCache) }
      : media && { from: 'patches' };
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
      sight,
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
  if (run.sight?.from === 'features') run.sight.encoder.release();
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
  return {
    model: hash.digest('hex'),
    dataset: run.dataset.fingerprint,
    microBatches: run.batches.options.gradientAccumulationSteps,
  };
}

/** `vision`: pictures will be seen, so that what is named of the tower can be trained. */
function trainablesOf(args: TrainArgs, model: ModelFolder, adapter: Adapter | undefined, vision: boolean): Trainables {
  if (args.fullFinetuning) return Trainables.full(model.spec, { vision: vision && args.finetuneVisionLayers !== false });
  if (adapter) return adaptersOf(model.spec, adapter, adapter.config.loraDropout, { vision });
  const trainables = newAdapters(model.spec, {
    r: args.loraR,
    alpha: args.loraAlpha,
    dropout: args.loraDropout,
    useRslora: args.useRslora,
    targetModules: args.targetModules,
    scope: layerScope(args),
    vision,
  });
  if (trainables.layout.parameters.length === 0) {
    throw new VltuneError('ERR_USAGE', '--target-modules: matches layers of the vision tower only, which text does not train');
  }
  return trainables;
}

/** Whether anything of the vision tower is trained. */
function trainsTower({ linears }: ModelSpec, { layout }: Trainables): boolean {
  return linears.some(
    ({ name, part }) => part === 'vision' && (layout.get(loraName(name, 'A')) ?? layout.get(`${name}.weight`)) !== undefined,
  );
}

/** The most that patches decoded ahead and features kept take of the host's memory. */
function mediaBytes(
  { vision }: ModelSpec,
  { patches }: BatchLimits,
  dtype: ActivationDType,
  cache: number,
  datasets: readonly (TokenDataset | undefined)[],
): number {
  if (!vision || patches === 0) return 0;
  const { patchWidth, mergeSize, outSize, deepstackLayers } = vision.shape;
  const all = datasets.reduce((sum, dataset) => sum + (dataset?.patchCounts?.reduce((a, b) => a + b, 0) ?? 0), 0);
  const features = dtypeBytes(dtype, (all / mergeSize ** 2) * outSize * (1 + deepstackLayers.length));
  return DECODER_BYTES + streamBytes(patches, all, patchWidth) + Math.min(cache, features);
}

function largest(train: BatchLimits, evaluation: BatchLimits | undefined): BatchLimits {
  if (!evaluation) return train;
  return {
    tokens: Math.max(train.tokens, evaluation.tokens),
    targets: Math.max(train.targets, evaluation.targets),
    rows: Math.max(train.rows, evaluation.rows),
    rowTokens: Math.max(train.rowTokens, evaluation.rowTokens),
    patches: Math.max(train.patches, evaluation.patches),
    frames: Math.max(train.frames, evaluation.frames),
    mediaPatches: Math.max(train.mediaPatches, evaluation.mediaPatches),
    mediaFrames: Math.max(train.mediaFrames, evaluation.mediaFrames),
  };
}
