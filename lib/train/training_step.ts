/**
 * One model in training: the program of a micro-step (forward and backward), of an evaluation and of an update, their memory
 * planned together, and the calls that run them. It knows batches and numbers, not files or options.
 */
import { VltuneError } from '../errors.js';
import { differentiate } from '../graph/gradient.js';
import { Graph, type Value, valueBytes } from '../graph/graph.js';
import { IoBuffers } from '../graph/io.js';
import { align, type Plan, planMemory } from '../graph/planner.js';
import { type Place, Program } from '../graph/program.js';
import { blockStarts, levelsAt, type RecomputeLevel, recompute } from '../graph/recompute.js';
import type { MediaInputs, ModelSpec, VisionSpec } from '../models/family.js';
import { GraphWeights } from '../models/graph_weights.js';
import type { Grid } from '../models/grid.js';
import type { Trainables } from '../models/trainables.js';
import type { EncodedFeatures } from '../models/vision_encoder.js';
import {
  featureDims,
  featureName,
  featureValues,
  mediaRows,
  type VisionLimits,
  visionDims,
  visionInputs,
  writeVisionInputs,
} from '../models/vision_io.js';
import type { WeightStore } from '../models/weight_store.js';
import { addon, type Device, type Storage } from '../native.js';
import { adamw, gradNorm, SEGMENT_COLUMNS } from '../ops/adamw.js';
import { attention } from '../ops/attention.js';
import type { ActivationDType } from '../ops/builder.js';
import { fill } from '../ops/elementwise.js';
import { GRADIENT_RULES } from '../ops/gradients.js';
import { IGNORE_INDEX, linearCrossEntropy } from '../ops/linear_cross_entropy.js';
import { LossScale } from './loss_scale.js';
import type { OptimizerHyper, OptimizerLayout } from './optimizer.js';

export interface StepOptions {
  readonly dtype: ActivationDType;
  readonly device: Device;
  /** Most tokens and most sequences of a micro-batch. */
  readonly maxTokens: number;
  readonly maxSequences: number;
  /** Most tokens of a micro-batch that have a target. Default: all of them. */
  readonly maxTargets?: number;
  /** Pictures and videos among the text. Absent: none, and the vision tower is not touched. */
  readonly media?: MediaOptions;
  readonly maxGradNorm: number;
  /** What everything may take together; recomputation is chosen to fit. Absent: nothing is recomputed. */
  readonly memoryLimit?: MemoryLimit;
  /** Recompute all but the residual stream, whatever the limit. */
  readonly gradientCheckpointing: boolean;
}

export interface MediaOptions extends VisionLimits {
  /**
   * `patches`: the tower is part of the step, and what of it is trained gets its gradients. `features`: a batch brings what a
   * `VisionEncoder` made of its pictures.
   */
  readonly from: 'patches' | 'features';
}

export interface MemoryLimit {
  readonly bytes: number;
  /** What sets it, for the message of one who cannot keep it: `--memory 8192 MiB`. */
  readonly name: string;
  /** How to have more: `raise --memory`. */
  readonly remedy: string;
}

/** A packed micro-batch: n tokens of several sequences, no padding. */
export interface MicroBatch {
  readonly ids: Int32Array;
  /** The next token of the same sequence, or -100. */
  readonly targets: Int32Array;
  /** [3, n] */
  readonly positions: Int32Array;
  /** Where each sequence begins, and at last n. */
  readonly bounds: Int32Array;
  /** Absent: text alone. */
  readonly media?: MediaBatch | undefined;
}

/** The pictures and videos of a micro-batch, in the order of its tokens. */
export interface MediaBatch {
  /** Ascending: the token that each feature stands for, one for each merge × merge patches. */
  readonly rows: Int32Array;
  readonly grids: readonly Grid[];
  /** f32 [patches, patchWidth], where the step reads patches. */
  readonly patches?: Float32Array | undefined;
  /** Where the step reads features. */
  readonly features?: EncodedFeatures | undefined;
}

/** Bytes by kind, known before anything is allocated. */
export interface MemoryPlan {
  readonly weights: number;
  readonly params: number;
  readonly grads: number;
  readonly state: number;
  readonly arena: number;
  readonly io: number;
  /** Of the device. */
  readonly total: number;
  /** Pinned memory of the host, beside the total: weights and activations that a GPU leaves there. */
  readonly host: number;
  /** The furthest that any block goes. */
  readonly recompute: RecomputeLevel;
  /** How many of the forward pass's blocks (attention and feed-forward of a layer are one each) are made again how far. */
  readonly recomputedBlocks: {
    readonly elementwise: number;
    readonly layers: number;
    readonly host: number;
    readonly of: number;
  };
}

interface Built {
  readonly graph: Graph;
  readonly plan: Plan;
  /** Of a training pass: what recomputation is chosen by. */
  readonly blocks: number;
}

/** Steps in which a micro-batch that fits is looked for. */
const TOKEN_STEP = 64;

/** A way to train, with what it takes. */
interface Candidate {
  readonly train: Built;
  readonly io: IoBuffers;
  readonly memory: MemoryPlan;
}

export class TrainingStep {
  readonly memory: MemoryPlan;
  /** What losses are scaled by beside what a caller says: in f16 alone. */
  readonly scaler: LossScale | undefined;
  readonly #spec: ModelSpec;
  readonly #frozen: WeightStore;
  readonly #trainables: Trainables;
  readonly #optimizer: OptimizerLayout;
  readonly #options: StepOptions;
  readonly #train: Built;
  readonly #evaluate: Built;
  readonly #update: Built;
  readonly #io: IoBuffers;
  #programs: { train: Program; evaluate: Program; update: Program } | undefined;
  #storages: { params: Storage; grads: Storage; state: Storage; arena: Storage; host: Storage } | undefined;

  /** Builds and plans the programs; allocates nothing. ERR_OUT_OF_MEMORY if no plan fits the limit. */
  constructor(spec: ModelSpec, frozen: WeightStore, trainables: Trainables, optimizer: OptimizerLayout, options: StepOptions) {
    this.#spec = spec;
    this.#frozen = frozen;
    this.#trainables = trainables;
    this.#optimizer = optimizer;
    this.#options = options;
    this.scaler = options.dtype === 'f16' ? new LossScale() : undefined;
    this.#evaluate = this.#buildPass('evaluate', 0);
    this.#update = this.#buildUpdate();

    const chosen = this.#choose();
    this.#train = chosen.train;
    this.#io = chosen.io;
    this.memory = chosen.memory;
  }

  /**
   * Allocates all memory and compiles the programs. The frozen weights are loaded before. ERR_OUT_OF_MEMORY with the plan's numbers if
   * there is less than was planned for.
   */
  allocate(): void {
    const { device } = this.#options;
    const { params, grads, state, arena } = this.memory;
    const taken: Storage[] = [];
    const take = (bytes: number, where: Device | 'pinned' = device): Storage => {
      taken.push(addon().allocate(bytes, where));
      return taken.at(-1)!;
    };
    let storages: { params: Storage; grads: Storage; state: Storage; arena: Storage; host: Storage };
    try {
      storages = {
        params: take(params),
        grads: take(grads),
        state: take(state),
        arena: take(arena),
        host: take(hostBytes(this.#train.graph), device === 'cpu' ? 'cpu' : 'pinned'),
      };
      this.#io.allocate(device);
    } catch (error) {
      for (const storage of taken) addon().release(storage);
      throw this.#withPlan(error);
    }
    this.#storages = storages;
    const compile = (built: Built) => Program.compile(built.graph, built.plan, storages.arena, this.#places(built));
    this.#programs = { train: compile(this.#train), evaluate: compile(this.#evaluate), update: compile(this.#update) };
    this.#io.write('segments', this.#optimizer.segments);
    this.#io.write('loss', new Float32Array(1));
  }

  /** Forward and backward of one micro-batch: gradients and `lossScale` times the summed loss accumulate until the next update. */
  async microStep(
    batch: MicroBatch,
    lossScale: number,
    dropoutKey: readonly [number, number],
    signal?: AbortSignal,
  ): Promise<void> {
    const lengths = this.#writeBatch(batch, lossScale * this.#gradScale);
    this.#io.write('rng', Int32Array.from(dropoutKey));
    this.#io.flush();
    await this.#compiled().train.run(lengths, signal);
  }

  /** The summed loss of a batch, times `lossScale`. Call it between updates: it uses the same accumulator. */
  async evaluate(batch: MicroBatch, lossScale: number, signal?: AbortSignal): Promise<number> {
    const lengths = this.#writeBatch(batch, lossScale);
    this.#io.write('loss', new Float32Array(1));
    this.#io.flush();
    await this.#compiled().evaluate.run(lengths, signal);
    const loss = this.#io.read('loss', new Float32Array(1))[0]!;
    this.#io.write('loss', new Float32Array(1));
    return loss;
  }

  /**
   * Clips, updates every parameter, clears the gradients. Returns what accumulated since the last update. Where the gradient's norm is
   * not finite nothing is updated; in f16 the loss scale then moves.
   */
  async update(hyper: OptimizerHyper): Promise<{ loss: number; gradNorm: number }> {
    const { learningRate, beta1, beta2, epsilon, weightDecay, step } = hyper;
    this.#io.write('hyper', Float32Array.of(learningRate, beta1, beta2, epsilon, weightDecay, step, 0, 0));
    if (this.scaler) this.#io.write('grad_scale', Float32Array.of(this.#gradScale));
    this.#io.flush();
    await this.#compiled().update.run({});
    const loss = this.#io.read('loss', new Float32Array(1))[0]! / this.#gradScale;
    const gradNormValue = this.#io.read('grad_norm', new Float32Array(1))[0]!;
    this.#io.write('loss', new Float32Array(1));
    this.scaler?.record(gradNormValue);
    return { loss, gradNorm: gradNormValue };
  }

  /** A parameter's numbers. */
  readParameter(name: string): Float32Array {
    return this.#readFlat(name, this.#allocated().params);
  }

  /** A parameter's gradient as accumulated since the last update. */
  readGradient(name: string): Float32Array {
    return this.#readFlat(name, this.#allocated().grads).map((value) => value / this.#gradScale);
  }

  /** Fills `into` with a parameter's numbers from element `from` of it. */
  readParameterPart(name: string, from: number, into: Float32Array): void {
    const parameter = this.#parameter(name);
    checkPart(name, parameter.numel, from, into.length);
    addon().read(this.#allocated().params, (parameter.offset + from) * 4, into);
  }

  writeParameter(name: string, data: Float32Array): void {
    const parameter = this.#parameter(name);
    if (data.length !== parameter.numel) {
      throw new VltuneError('ERR_SHAPE', `${name}: expected ${parameter.numel} elements, got ${data.length}`);
    }
    addon().write(this.#allocated().params, parameter.offset * 4, data);
  }

  writeParameterPart(name: string, from: number, data: Float32Array): void {
    const parameter = this.#parameter(name);
    checkPart(name, parameter.numel, from, data.length);
    addon().write(this.#allocated().params, (parameter.offset + from) * 4, data);
  }

  /** Where a parameter lies, for loading it from a mapped file. */
  parameterPlace(name: string): Place {
    return { storage: this.#allocated().params, offset: this.#parameter(name).offset * 4 };
  }

  /** Fills `into` with an array of optimizer state (see `OptimizerLayout.arrays`) from byte `from` of it. */
  readStatePart(name: string, from: number, into: Uint8Array): void {
    const { offset, bytes } = this.#stateSlot(name);
    checkPart(name, bytes, from, into.length);
    addon().read(this.#allocated().state, offset + from, into);
  }

  writeStatePart(name: string, from: number, data: Uint8Array): void {
    const { offset, bytes } = this.#stateSlot(name);
    checkPart(name, bytes, from, data.length);
    addon().write(this.#allocated().state, offset + from, data);
  }

  /** Measure each op of the micro-steps to come, or no longer (on the CPU they always are). */
  measureOps(on: boolean): void {
    this.#compiled().train.measureOps(on);
  }

  /** Where the time of all micro-steps that were measured went, by op. */
  profile(): ReturnType<Program['profile']> {
    return this.#compiled().train.profile();
  }

  release(): void {
    for (const program of Object.values(this.#programs ?? {})) program.release();
    for (const storage of Object.values(this.#storages ?? {})) addon().release(storage);
    this.#programs = undefined;
    this.#storages = undefined;
    this.#io.release();
  }

  /** An error of allocation with what was planned and what to do. */
  #withPlan(error: unknown): unknown {
    if ((error as { code?: string }).code !== 'ERR_OUT_OF_MEMORY') return error;
    const { total, weights, arena } = this.memory;
    return new VltuneError(
      'ERR_OUT_OF_MEMORY',
      `${(error as Error).message}; the plan is ${mib(total)} in all (weights ${mib(weights)}, activations ${mib(arena)}). ` +
        'Something else took memory after the plan was made: end it, or give --memory less than what is free, and the plan will fit.',
      { cause: error },
    );
  }

  /** What losses, and so gradients, are multiplied by until the next update: a power of two. */
  get #gradScale(): number {
    return this.scaler?.state.scale ?? 1;
  }

  // ---- Programs

  /** The least recomputation that fits the limit. ERR_OUT_OF_MEMORY if none does. */
  #choose(): Candidate {
    const { gradientCheckpointing, device } = this.#options;
    const memoryLimit = this.#options.memoryLimit?.bytes ?? Number.POSITIVE_INFINITY;
    const unchanged = this.#candidate(0);
    const { blocks } = unchanged.train;
    const most = (device === 'cpu' ? 2 : 3) * blocks;
    let below = gradientCheckpointing ? 2 * blocks : 0;
    const least = below === 0 ? unchanged : this.#candidate(below);
    if (least.memory.total <= memoryLimit) return least;
    // Memory falls with the setting: the first that fits lies between one that does not and one that does.
    let [at, fits] = [most, this.#checked(this.#candidate(most), most)];
    while (at - below > 1) {
      const middle = Math.floor((below + at) / 2);
      const candidate = this.#candidate(middle);
      if (candidate.memory.total <= memoryLimit) [at, fits] = [middle, candidate];
      else below = middle;
    }
    return fits;
  }

  #candidate(setting: number): Candidate {
    return this.#with(this.#buildPass('train', setting), this.#evaluate, setting);
  }

  #with(train: Built, evaluate: Built, setting: number): Candidate {
    const io = new IoBuffers([train.graph, evaluate.graph, this.#update.graph]);
    return { train, io, memory: this.#memoryOf(train, evaluate, io, setting) };
  }

  /** The most tokens of a micro-step that fit the limit with everything recomputed, in steps of 64; 0 if none do. */
  #mostTokens(limit: number, setting: number): number {
    const fits = (steps: number): boolean => {
      const tokens = steps * TOKEN_STEP;
      return (
        this.#with(this.#buildPass('train', setting, tokens), this.#buildPass('evaluate', 0, tokens), setting).memory.total <=
        limit
      );
    };
    let [most, above] = [0, Math.ceil(this.#options.maxTokens / TOKEN_STEP)];
    while (above - most > 1) {
      const middle = Math.floor((most + above) / 2);
      if (fits(middle)) most = middle;
      else above = middle;
    }
    return most * TOKEN_STEP;
  }

  /** A candidate that recomputes everything (`setting`), if it fits. */
  #checked(candidate: Candidate, setting: number): Candidate {
    const { memoryLimit, maxTokens } = this.#options;
    const { total, weights, arena } = candidate.memory;
    if (memoryLimit === undefined || total <= memoryLimit.bytes) return candidate;
    const tokens = this.#mostTokens(memoryLimit.bytes, setting);
    const lower =
      tokens > 0
        ? `Lower --max-length or --per-device-train-batch-size (now ${maxTokens} tokens a micro-step; ${tokens} fit)`
        : `Not even ${TOKEN_STEP} tokens a micro-step fit (now ${maxTokens}): lowering --max-length or --per-device-train-batch-size is not enough; take a smaller model`;
    throw new VltuneError(
      'ERR_OUT_OF_MEMORY',
      `${memoryLimit.name}: the least that trains this is ${mib(total)} (weights ${mib(weights)}, activations ${mib(arena)}, ` +
        `with everything recomputed). ${lower}, or ${memoryLimit.remedy}.`,
    );
  }

  /** `setting`: how much is recomputed (`levelsAt`). */
  #buildPass(mode: 'train' | 'evaluate', setting: number, tokens: number = this.#options.maxTokens): Built {
    const { dtype, device, maxSequences, maxTargets = tokens } = this.#options;
    const text = this.#spec.text;
    const graph = new Graph({
      tokens,
      bounds: maxSequences + 1,
      targets: Math.min(maxTargets, tokens),
      ...this.#mediaDims(),
    });
    const input = (name: string, ioDtype: 'i32' | 'f32', ...shape: (number | string)[]) =>
      graph.value('io', name, ioDtype, shape);
    const bounds = input('bounds', 'i32', 'bounds');
    const weights = new GraphWeights(graph, this.#frozen, this.#trainables, mode === 'train' ? input('rng', 'i32', 2) : null);
    const heads = { heads: text.heads, kvHeads: text.kvHeads, headDim: text.headDim, causal: true };
    const hidden = this.#spec.forward(graph, weights, {
      ids: input('ids', 'i32', 'tokens'),
      positions: input('positions', 'i32', 3, 'tokens'),
      dtype,
      attend: (_layer, q, k, v) => attention(graph, q, k, v, bounds, heads).o,
      media: this.#media(graph, weights),
    });
    linearCrossEntropy(
      graph,
      {
        x: hidden,
        weight: weights.tensor(this.#spec.head),
        targets: input('targets', 'i32', 'tokens'),
        lossScale: input('loss_scale', 'f32', 1),
        rows: input('rows', 'i32', 'targets'),
      },
      { into: input('loss', 'f32', 1) },
    );
    let blocks = 0;
    if (mode === 'train') {
      const forwardOps = graph.ops.length;
      const gradients = new Map<Value, Value>();
      for (const [name, value] of weights.entries()) {
        if (value.kind === 'param') gradients.set(value, graph.value('grad', name, 'f32', value.shape));
      }
      differentiate(graph, gradients, GRADIENT_RULES);
      blocks = blockStarts(graph.ops.slice(0, forwardOps), graph.ops.slice(forwardOps)).length;
      recompute(graph, forwardOps, levelsAt(setting, blocks));
    }
    return { graph, plan: planMemory(graph, device), blocks };
  }

  #mediaDims(): Record<string, number> {
    const { media } = this.#options;
    if (!media) return {};
    const { shape } = this.#vision();
    return media.from === 'patches' ? visionDims(shape, media) : featureDims(shape, media.maxPatches);
  }

  /** Pictures as the language model reads them: out of the tower, or as a batch brings them. */
  #media(graph: Graph, weights: GraphWeights): MediaInputs<Value> | undefined {
    const { media, dtype } = this.#options;
    if (!media) return undefined;
    const vision = this.#vision();
    const rows = mediaRows(graph);
    if (media.from === 'features') return { rows, ...featureValues(graph, vision.shape, dtype) };
    return { rows, ...vision.forward(graph, weights, visionInputs(graph, vision.shape, dtype)) };
  }

  #vision(): VisionSpec {
    if (!this.#spec.vision) throw new VltuneError('ERR_UNSUPPORTED', `${this.#spec.modelType} models read no pictures`);
    return this.#spec.vision;
  }

  #buildUpdate(): Built {
    const graph = new Graph({});
    const { elements } = this.#trainables.layout;
    const { arrays, segmentCount, variant } = this.#optimizer;
    const grads = graph.value('grad', 'flat', 'f32', [elements]);
    const clip = graph.value('io', 'clip', 'f32', [1]);
    const scale = this.scaler ? graph.value('io', 'grad_scale', 'f32', [1]) : null;
    gradNorm(
      graph,
      { grads, scale },
      { into: graph.value('io', 'grad_norm', 'f32', [1]) },
      { into: clip },
      this.#options.maxGradNorm,
    );
    const state = arrays.map((array) => graph.value('state', array.name, array.dtype, [array.elements]));
    adamw(
      graph,
      {
        grads,
        clip,
        hyper: graph.value('io', 'hyper', 'f32', [8]),
        segments: graph.value('io', 'segments', 'i32', [segmentCount, SEGMENT_COLUMNS]),
      },
      { into: graph.value('param', 'flat', 'f32', [elements]) },
      { m8: state[0]!, v8: state[1]!, m8Absmax: state[2]!, v8Absmax: state[3]!, m32: state[4]!, v32: state[5]! },
      variant,
    );
    fill(graph, { into: grads }, 0);
    return { graph, plan: planMemory(graph, this.#options.device), blocks: 0 };
  }

  #memoryOf(train: Built, evaluate: Built, io: IoBuffers, setting: number): MemoryPlan {
    const params = this.#trainables.layout.elements * 4;
    const parts = {
      weights: this.#frozen.bytes,
      params,
      grads: params,
      state: this.#stateBytes(),
      arena: Math.max(train.plan.arenaBytes, evaluate.plan.arenaBytes, this.#update.plan.arenaBytes),
      io: io.bytes,
    };
    const levels = levelsAt(setting, train.blocks);
    const blocksAt = (level: RecomputeLevel) => levels.filter((each) => each === level).length;
    return {
      ...parts,
      total: Object.values(parts).reduce((sum, bytes) => sum + bytes, 0),
      host: this.#frozen.hostBytes + hostBytes(train.graph),
      recompute: levels[0] ?? 'none', // the first blocks go furthest
      recomputedBlocks: {
        elementwise: blocksAt('elementwise'),
        layers: blocksAt('layers'),
        host: blocksAt('host'),
        of: levels.length,
      },
    };
  }

  #places(built: Built): Map<Value, Place> {
    const { params, grads, state, host } = this.#allocated();
    const places = new Map<Value, Place>();
    let hostOffset = 0;
    for (const value of built.graph.values) {
      const flat = value.name === 'flat';
      const offset = () => (flat ? 0 : this.#parameter(value.name).offset * 4);
      if (value.kind === 'io') places.set(value, this.#io.place(value));
      else if (value.kind === 'weight') places.set(value, this.#frozen.place(value.name));
      else if (value.kind === 'param') places.set(value, { storage: params, offset: offset() });
      else if (value.kind === 'grad') places.set(value, { storage: grads, offset: offset() });
      else if (value.kind === 'state') places.set(value, { storage: state, offset: this.#stateSlot(value.name).offset });
      else if (value.kind === 'host') {
        places.set(value, { storage: host, offset: hostOffset });
        hostOffset += align(valueBytes(value, built.graph.dims));
      }
    }
    return places;
  }

  // ---- Memory

  #stateSlot(name: string): { offset: number; bytes: number } {
    let offset = 0;
    for (const array of this.#optimizer.arrays) {
      const bytes = valueBytes({ dtype: array.dtype, shape: [array.elements] }, {});
      if (array.name === name) return { offset, bytes };
      offset += align(bytes);
    }
    throw new VltuneError('ERR_INTERNAL', `there is no optimizer state named ${name}`);
  }

  #stateBytes(): number {
    return this.#optimizer.arrays.reduce(
      (sum, array) => sum + align(valueBytes({ dtype: array.dtype, shape: [array.elements] }, {})),
      0,
    );
  }

  /** Returns the lengths of the named dimensions. */
  #writeBatch(batch: MicroBatch, lossScale: number): Record<string, number> {
    this.#io.write('ids', batch.ids);
    this.#io.write('targets', batch.targets);
    this.#io.write('positions', batch.positions);
    this.#io.write('bounds', batch.bounds);
    this.#io.write('loss_scale', Float32Array.of(lossScale));
    const rows = rowsWithTarget(batch.targets);
    this.#io.write('rows', rows);
    return {
      tokens: batch.ids.length,
      bounds: batch.bounds.length,
      targets: rows.length,
      ...this.#writeMedia(batch.media),
    };
  }

  #writeMedia(batch: MediaBatch | undefined): Record<string, number> {
    const { media } = this.#options;
    if (!media) {
      if (batch && batch.rows.length > 0)
        throw new VltuneError('ERR_INTERNAL', 'the training step is built for text, and was given pictures');
      return {};
    }
    const { shape } = this.#vision();
    const { rows, grids, patches, features } = batch ?? NO_MEDIA;
    this.#io.write('media_rows', rows);
    if (media.from === 'patches') {
      if (!patches) throw new VltuneError('ERR_INTERNAL', 'the training step reads patches, and was given none');
      const lengths = writeVisionInputs(this.#io, shape, { grids, patches });
      if (rows.length !== lengths.features)
        throw new VltuneError('ERR_SHAPE', `${rows.length} tokens stand for pictures that have ${lengths.features} features`);
      return lengths;
    }
    features?.forEach((bytes, i) => {
      this.#io.write(featureName(i), bytes);
    });
    return { features: rows.length };
  }

  #readFlat(name: string, storage: Storage): Float32Array {
    const parameter = this.#parameter(name);
    const data = new Float32Array(parameter.numel);
    addon().read(storage, parameter.offset * 4, data);
    return data;
  }

  #parameter(name: string) {
    const parameter = this.#trainables.layout.get(name);
    if (!parameter) throw new VltuneError('ERR_INTERNAL', `there is no parameter named ${name}`);
    return parameter;
  }

  #allocated() {
    if (!this.#storages) throw new VltuneError('ERR_INTERNAL', 'the training step is not allocated');
    return this.#storages;
  }

  #compiled() {
    if (!this.#programs) throw new VltuneError('ERR_INTERNAL', 'the training step is not allocated');
    return this.#programs;
  }
}

const NO_MEDIA: MediaBatch = { rows: new Int32Array(0), grids: [], patches: new Float32Array(0), features: [] };

/** Bytes of what a program puts down in the host's memory. */
function hostBytes({ values, dims }: Graph): number {
  return values.reduce((sum, value) => sum + (value.kind === 'host' ? align(valueBytes(value, dims)) : 0), 0);
}

function rowsWithTarget(targets: Int32Array): Int32Array {
  const rows = new Int32Array(targets.length);
  let count = 0;
  for (let row = 0; row < targets.length; row++) if (targets[row] !== IGNORE_INDEX) rows[count++] = row;
  return rows.subarray(0, count);
}

export function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}

function checkPart(name: string, size: number, from: number, length: number): void {
  if (from < 0 || from + length > size)
    throw new VltuneError('ERR_SHAPE', `${name}: ${from} to ${from + length} is out of its ${size}`);
}
