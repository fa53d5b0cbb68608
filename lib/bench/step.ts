/** `vltune bench step`: a training step at true size, on random weights that are made in place. */
import { createHash } from 'node:crypto';
import type { Workers } from '../distributed/workers.js';
import { VltuneError } from '../errors.js';
import type { ModelSpec } from '../models/family.js';
import type { Trainables } from '../models/trainables.js';
import { addon, type Device } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { leastRecomputed, mayMoveEmbedding } from '../train/embedding_place.js';
import { memoryBudget } from '../train/memory_limit.js';
import type { MicroBatch } from '../train/micro_batch.js';
import { OptimizerLayout, type OptimizerName } from '../train/optimizer.js';
import { TrainingStep } from '../train/training_step.js';
import { quantile } from './harness.js';
import { normals } from './normals.js';
import { modelOfShape, RandomWeights, recipeAdapters } from './random_model.js';

export interface StepBenchOptions {
  /** One of SHAPE_NAMES. */
  readonly shape: string;
  /** Sequences of `maxLength` tokens in a micro-batch. */
  readonly perDeviceTrainBatchSize: number;
  readonly maxLength: number;
  readonly gradientAccumulationSteps: number;
  readonly loadIn4bit: boolean;
  readonly dtype: ActivationDType;
  readonly device: Device;
  readonly loraR: number;
  readonly optim: OptimizerName;
  readonly gradientCheckpointing: boolean;
  /** Bytes that the plan must fit in. */
  readonly memory: number | undefined;
  /** Updates that are timed, after two that are not. */
  readonly steps: number;
  /** Also measure each op of a micro-step. */
  readonly profile: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Those that train together: each computes as many micro-batches, of rows of its own. */
  readonly workers?: Workers | undefined;
}

export interface StepBenchResult {
  /** By the median step; of all processes together. */
  readonly tokensPerSecond: number;
  readonly processes: number;
  /** Milliseconds of an update: all micro-steps and the optimizer; the median, the least and the most. */
  readonly stepMs: number;
  readonly stepMsSpread: readonly [number, number];
  /** The most that was held: on a GPU as the driver counts it (its own context and every process included), else resident memory. */
  readonly peakMemoryBytes: number;
  /** What vltune planned for weights, parameters, optimizer, activations and inputs. */
  readonly plannedMemoryBytes: number;
  /** Floating-point operations that a token costs at least: forward, and backward into inputs and adapters. */
  readonly flopsPerToken: number;
  /** Milliseconds of an update in which no program ran: batches, writes, bookkeeping. */
  readonly hostMs: number;
  /** Milliseconds of an update in which gradients were added up over all processes, waiting for the slowest included. */
  readonly sumMs: number;
  readonly recompute: string;
  readonly loss: number;
  /** Of every parameter's bytes after the last update: the same options give the same. */
  readonly parametersSha256: string;
  readonly ops?: readonly { readonly op: string; readonly calls: number; readonly milliseconds: number }[];
}

const WARM_UP = 2;

/** Runs the benchmark. ERR_OUT_OF_MEMORY if no plan fits. */
export async function benchStep(options: StepBenchOptions): Promise<StepBenchResult> {
  const { shape, device, dtype, maxLength, perDeviceTrainBatchSize: rows, gradientAccumulationSteps, signal, workers } = options;
  const [rank, processes] = workers ? [workers.rank, workers.size] : [0, 1];
  const spec = modelOfShape(shape);
  const trainables = recipeAdapters(spec, options.loraR);
  const { limit } = memoryBudget(device, options.memory, true, workers?.ncclBytes);
  const optimizer = new OptimizerLayout(trainables.layout, options.optim);
  const built = (embeddingOnHost: boolean) => {
    const weights = new RandomWeights(spec, dtype, options.loadIn4bit, (name) => embeddingOnHost && name === spec.embedding);
    const step = new TrainingStep(spec, weights, trainables, optimizer, {
      dtype,
      device,
      maxTokens: rows * maxLength,
      maxSequences: rows,
      maxTargets: rows * maxLength,
      maxGradNorm: 1,
      gradientCheckpointing: options.gradientCheckpointing,
      ...(limit && { memoryLimit: limit }),
    });
    return { weights, step };
  };
  const { weights, step } = mayMoveEmbedding(spec, device) ? leastRecomputed(built) : built(false);
  try {
    await weights.load(device);
    step.allocate();
    for (const { name, numel, shape: dims } of trainables.layout.parameters) {
      // As after some training: B is no longer zero.
      step.writeParameter(name, normals(numel, 1 / Math.sqrt(dims[1]!)));
    }
    const times: number[] = [];
    const hostTimes: number[] = [];
    const sumTimes: number[] = [];
    const lossScale = 1 / (rows * (maxLength - 1) * gradientAccumulationSteps * processes);
    // No two micro-batches of a run are the same rows.
    const batchOf = (index: number) => randomBatch(spec, rows, maxLength, index * processes + rank);
    let loss = 0;
    let batch = batchOf(gradientAccumulationSteps);
    for (let t = 1; t <= WARM_UP + options.steps; t++) {
      const started = performance.now();
      let inPrograms = 0;
      for (let micro = 0; micro < gradientAccumulationSteps; micro++) {
        const begun = performance.now();
        const running = step.microStep(batch, lossScale, [t, micro * processes + rank], signal);
        // The next batch is made while native code works on this one, as the trainer reads it.
        const next = batchOf(t * gradientAccumulationSteps + micro + 1);
        await running;
        inPrograms += performance.now() - begun;
        batch = next;
      }
      const hyper = { learningRate: 2e-5, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, step: t };
      const begun = performance.now();
      await workers?.sum(step.gradients);
      const summed = performance.now();
      loss = (await step.update(hyper)).loss;
      const ended = performance.now();
      inPrograms += ended - begun;
      const passed = ended - started;
      if (t > WARM_UP) {
        times.push(passed);
        hostTimes.push(passed - inPrograms);
        sumTimes.push(summed - begun);
      }
    }
    if (workers) loss = await workers.total(loss);
    const peakMemoryBytes = device === 'cpu' ? process.resourceUsage().maxRSS * 1024 : usedOnDevice();
    let ops: StepBenchResult['ops'];
    if (options.profile) {
      step.measureOps(true);
      await step.microStep(randomBatch(spec, rows, maxLength, 0), 1e-6, [0, 0], signal);
      ops = step.profile();
    }
    const digest = createHash('sha256');
    for (const { name } of trainables.layout.parameters) digest.update(step.readParameter(name));
    const parametersSha256 = digest.digest('hex');
    if (workers && new Set(await workers.gather(parametersSha256)).size > 1) {
      throw new VltuneError('ERR_INTERNAL', 'the processes have other parameters after the last update');
    }
    const stepMs = quantile(times, 0.5);
    return {
      tokensPerSecond: (rows * maxLength * gradientAccumulationSteps * processes * 1000) / stepMs,
      processes,
      stepMs,
      stepMsSpread: [Math.min(...times), Math.max(...times)],
      peakMemoryBytes,
      plannedMemoryBytes: step.memory.total,
      flopsPerToken: flopsPerToken(spec, trainables, maxLength),
      hostMs: quantile(hostTimes, 0.5),
      sumMs: quantile(sumTimes, 0.5),
      recompute: step.memory.recompute,
      loss,
      parametersSha256,
      ...(ops && { ops }),
    };
  } finally {
    step.release();
    weights.release();
  }
}

function usedOnDevice(): number {
  const { free, total } = addon().deviceMemory();
  return total - free;
}

/** Full sequences of random tokens, each but the last of which is a target. */
function randomBatch(spec: ModelSpec, rows: number, length: number, seed: number): MicroBatch {
  let state = seed >>> 0;
  const tokens = rows * length;
  const ids = Int32Array.from({ length: tokens }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * spec.text.vocabSize);
  });
  return {
    ids,
    targets: Int32Array.from({ length: tokens }, (_, i) => (i % length === length - 1 ? -100 : ids[i + 1]!)),
    positions: Int32Array.from({ length: 3 * tokens }, (_, i) => i % length),
    bounds: Int32Array.from({ length: rows + 1 }, (_, i) => i * length),
  };
}

/** Forward and backward: two products a frozen weight (its own gradient is not wanted), three an adapter's factor, causal attention. */
export function flopsPerToken(spec: ModelSpec, trainables: Trainables, length: number): number {
  const { layers, heads, headDim, hiddenSize, vocabSize } = spec.text;
  let products = 2 * vocabSize * hiddenSize * 2;
  for (const linear of spec.linears) if (linear.part === 'language') products += 2 * linear.in * linear.out * 2;
  for (const { spec: linear, rank } of trainables.lora.values()) products += 2 * rank * (linear.in + linear.out) * 3;
  const attention = layers * heads * headDim * length * 2 * 3.5;
  return products + attention;
}
