/** How a training step fits into memory: its programs with the least recomputation that a limit allows, and what each kind takes. */
import { VltuneError } from '../errors.js';
import { type Graph, valueBytes } from '../graph/graph.js';
import { IoBuffers } from '../graph/io.js';
import { align } from '../graph/planner.js';
import { levelsAt, type RecomputeLevel } from '../graph/recompute.js';
import type { OptimizerLayout } from './optimizer.js';
import {
  buildEvaluatePass,
  buildTrainPass,
  buildUpdate,
  type Pass,
  type PassOptions,
  type StepModel,
  type TrainPass,
} from './passes.js';

export interface StepOptions extends PassOptions {
  readonly maxGradNorm: number;
  /** What everything may take together; recomputation is chosen to fit. Absent: nothing is recomputed. */
  readonly memoryLimit?: MemoryLimit;
  /** Recompute all but the residual stream, whatever the limit. */
  readonly gradientCheckpointing: boolean;
}

export interface MemoryLimit {
  readonly bytes: number;
  /** What sets it, for the message of one who cannot keep it: `--memory 8192 MiB`. */
  readonly name: string;
  /** How to have `needed` bytes: `raise --memory to 9000MiB`. */
  remedy(needed: number): string;
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

/** The programs of a step, their inputs, and what they take together. */
export interface StepPlan {
  readonly train: TrainPass;
  readonly evaluate: Pass;
  readonly update: Pass;
  readonly io: IoBuffers;
  readonly memory: MemoryPlan;
}

/** Steps in which a micro-batch that fits is looked for. */
const TOKEN_STEP = 64;

/** The plan with the least recomputation that fits the limit. ERR_OUT_OF_MEMORY if none does. */
export function planStep(model: StepModel, optimizer: OptimizerLayout, options: StepOptions): StepPlan {
  return new StepPlanner(model, optimizer, options).choose();
}

class StepPlanner {
  readonly #model: StepModel;
  readonly #optimizer: OptimizerLayout;
  readonly #options: StepOptions;
  readonly #evaluate: Pass;
  readonly #update: Pass;

  constructor(model: StepModel, optimizer: OptimizerLayout, options: StepOptions) {
    this.#model = model;
    this.#optimizer = optimizer;
    this.#options = options;
    this.#evaluate = buildEvaluatePass(model, options);
    const { device, maxGradNorm, dtype } = options;
    this.#update = buildUpdate(model.trainables, optimizer, { device, maxGradNorm, scaled: dtype === 'f16' });
  }

  choose(): StepPlan {
    const { gradientCheckpointing, device, memoryLimit } = this.#options;
    const limit = memoryLimit?.bytes ?? Number.POSITIVE_INFINITY;
    const unchanged = this.#at(0);
    const { blocks } = unchanged.train;
    const most = (device === 'cpu' ? 2 : 3) * blocks;
    let below = gradientCheckpointing ? 2 * blocks : 0;
    const least = below === 0 ? unchanged : this.#at(below);
    if (least.memory.total <= limit) return least;
    // Memory falls with the setting: the first that fits lies between one that does not and one that does.
    let [at, fits] = [most, this.#at(most)];
    if (memoryLimit && fits.memory.total > limit) throw this.#tooLarge(fits.memory, memoryLimit, most);
    while (at - below > 1) {
      const middle = Math.floor((below + at) / 2);
      const plan = this.#at(middle);
      if (plan.memory.total <= limit) [at, fits] = [middle, plan];
      else below = middle;
    }
    return fits;
  }

  /** `setting`: how much is recomputed (`levelsAt`). */
  #at(setting: number): StepPlan {
    return this.#together(buildTrainPass(this.#model, this.#options, setting), this.#evaluate, setting);
  }

  #together(train: TrainPass, evaluate: Pass, setting: number): StepPlan {
    const update = this.#update;
    const io = new IoBuffers([train.graph, evaluate.graph, update.graph]);
    const { frozen, trainables } = this.#model;
    const params = trainables.layout.elements * 4;
    const parts = {
      weights: frozen.bytes,
      params,
      grads: params,
      state: this.#optimizer.bytes,
      arena: Math.max(train.plan.arenaBytes, evaluate.plan.arenaBytes, update.plan.arenaBytes),
      io: io.bytes,
    };
    const levels = levelsAt(setting, train.blocks);
    const blocksAt = (level: RecomputeLevel) => levels.filter((each) => each === level).length;
    const memory = {
      ...parts,
      total: Object.values(parts).reduce((sum, bytes) => sum + bytes, 0),
      host: frozen.hostBytes + hostBytes(train.graph),
      recompute: levels[0] ?? 'none', // the first blocks go furthest
      recomputedBlocks: {
        elementwise: blocksAt('elementwise'),
        layers: blocksAt('layers'),
        host: blocksAt('host'),
        of: levels.length,
      },
    };
    return { train, evaluate, update, io, memory };
  }

  /** The most tokens of a micro-step that fit the limit, in steps of 64; 0 if none do. */
  #mostTokens(limit: number, setting: number): number {
    const fits = (steps: number): boolean => {
      const options = { ...this.#options, maxTokens: steps * TOKEN_STEP };
      const train = buildTrainPass(this.#model, options, setting);
      return this.#together(train, buildEvaluatePass(this.#model, options), setting).memory.total <= limit;
    };
    let [most, above] = [0, Math.ceil(this.#options.maxTokens / TOKEN_STEP)];
    while (above - most > 1) {
      const middle = Math.floor((most + above) / 2);
      if (fits(middle)) most = middle;
      else above = middle;
    }
    return most * TOKEN_STEP;
  }

  /** What to say of a plan that recomputes everything (`setting`) and does not fit. */
  #tooLarge({ total, weights, arena }: MemoryPlan, limit: MemoryLimit, setting: number): VltuneError {
    const { maxTokens, media } = this.#options;
    const tokens = this.#mostTokens(limit.bytes, setting);
    const shrink = media ? ', lower --image-max-pixels' : '';
    const lower =
      tokens > 0
        ? `Lower --max-length or --per-device-train-batch-size (now ${maxTokens} tokens a micro-step; ${tokens} fit)${shrink}`
        : `Not even ${TOKEN_STEP} tokens a micro-step fit (now ${maxTokens}): lowering --max-length or --per-device-train-batch-size is not enough; take a smaller model${shrink}`;
    return new VltuneError(
      'ERR_OUT_OF_MEMORY',
      `${limit.name}: the least that trains this is ${mib(total)} (weights ${mib(weights)}, activations ${mib(arena)}, ` +
        `with everything recomputed). ${lower}, or ${limit.remedy(total)}.`,
    );
  }
}

/** Bytes of what a program puts down in the host's memory. */
export function hostBytes({ values, dims }: Graph): number {
  return values.reduce((sum, value) => sum + (value.kind === 'host' ? align(valueBytes(value, dims)) : 0), 0);
}

export function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}
