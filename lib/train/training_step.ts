/**
 * One model in training: the program of a micro-step (forward and backward), of an evaluation and of an update, their memory
 * planned together, and the calls that run them. It knows batches and numbers, not files or options.
 */
import { createHash } from 'node:crypto';
import { VltuneError } from '../errors.js';
import { type Value, valueBytes } from '../graph/graph.js';
import type { IoBuffers } from '../graph/io.js';
import { align } from '../graph/planner.js';
import { type Place, Program } from '../graph/program.js';
import type { ModelSpec } from '../models/family.js';
import type { Trainables } from '../models/trainables.js';
import type { WeightStore } from '../models/weight_store.js';
import { addon, type Device, type Storage } from '../native.js';
import { LossScale } from './loss_scale.js';
import { type MediaForm, type MicroBatch, writeMicroBatch } from './micro_batch.js';
import type { OptimizerHyper, OptimizerLayout } from './optimizer.js';
import { type Pass, visionOf } from './passes.js';
import { hostBytes, type MemoryPlan, mib, planStep, type StepOptions, type StepPlan } from './step_plan.js';

const SAMPLE_BYTES = 4096;

export class TrainingStep {
  readonly memory: MemoryPlan;
  /** What losses are scaled by beside what a caller says: in f16 alone. */
  readonly scaler: LossScale | undefined;
  readonly #frozen: WeightStore;
  readonly #trainables: Trainables;
  readonly #optimizer: OptimizerLayout;
  readonly #device: Device;
  /** What the step reads of pictures; undefined: it is built for text. */
  readonly #media: MediaForm | undefined;
  readonly #plan: StepPlan;
  #programs: { train: Program; evaluate: Program; update: Program } | undefined;
  #storages: { params: Storage; grads: Storage; state: Storage; arena: Storage; host: Storage } | undefined;

  /** Builds and plans the programs; allocates nothing. ERR_OUT_OF_MEMORY if no plan fits the limit. */
  constructor(spec: ModelSpec, frozen: WeightStore, trainables: Trainables, optimizer: OptimizerLayout, options: StepOptions) {
    const { dtype, device, media } = options;
    this.#frozen = frozen;
    this.#trainables = trainables;
    this.#optimizer = optimizer;
    this.#device = device;
    this.#media = media && { from: media.from, shape: visionOf(spec).shape, dtype };
    this.scaler = dtype === 'f16' ? new LossScale() : undefined;
    this.#plan = planStep({ spec, frozen, trainables }, optimizer, options);
    this.memory = this.#plan.memory;
  }

  /**
   * Allocates all memory and compiles the programs. The frozen weights are loaded before. ERR_OUT_OF_MEMORY with the plan's numbers if
   * there is less than was planned for.
   */
  allocate(): void {
    const device = this.#device;
    const { train, evaluate, update, io } = this.#plan;
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
        host: take(hostBytes(train.graph), device === 'cpu' ? 'cpu' : 'pinned'),
      };
      io.allocate(device);
    } catch (error) {
      for (const storage of taken) addon().release(storage);
      throw this.#withPlan(error);
    }
    this.#storages = storages;
    const compile = (pass: Pass) => Program.compile(pass.graph, pass.plan, storages.arena, this.#places(pass));
    this.#programs = { train: compile(train), evaluate: compile(evaluate), update: compile(update) };
    io.write('segments', this.#optimizer.segments);
    io.write('loss', new Float32Array(1));
  }

  /** Forward and backward of one micro-batch: gradients and `lossScale` times the summed loss accumulate until the next update. */
  async microStep(
    batch: MicroBatch,
    lossScale: number,
    dropoutKey: readonly [number, number],
    signal?: AbortSignal,
  ): Promise<void> {
    const lengths = writeMicroBatch(this.#io, batch, lossScale * this.#gradScale, this.#media);
    this.#io.write('rng', Int32Array.from(dropoutKey));
    this.#io.flush();
    await this.#compiled().train.run(lengths, signal);
  }

  /** The summed loss of a batch, times `lossScale`. Call it between updates: it uses the same accumulator. */
  async evaluate(batch: MicroBatch, lossScale: number, signal?: AbortSignal): Promise<number> {
    const lengths = writeMicroBatch(this.#io, batch, lossScale, this.#media);
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

  /** All gradients that have accumulated, f32 in one piece: what processes that train together add up before an update. */
  get gradients(): { readonly storage: Storage; readonly bytes: number } {
    return { storage: this.#allocated().grads, bytes: this.memory.grads };
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

  /** SHA-256 of the first bytes of every parameter and of the optimizer's state: enough to tell two runs apart. */
  sampleDigest(): string {
    const hash = createHash('sha256');
    for (const { name, numel } of this.#trainables.layout.parameters) {
      const sample = new Float32Array(Math.min(numel, SAMPLE_BYTES / 4));
      this.readParameterPart(name, 0, sample);
      hash.update(sample);
    }
    for (const { name } of this.#optimizer.arrays) {
      const sample = new Uint8Array(Math.min(this.#optimizer.slot(name).bytes, SAMPLE_BYTES));
      this.readStatePart(name, 0, sample);
      hash.update(sample);
    }
    return hash.digest('hex');
  }

  /** Where a parameter lies, for loading it from a mapped file. */
  parameterPlace(name: string): Place {
    return { storage: this.#allocated().params, offset: this.#parameter(name).offset * 4 };
  }

  /** Fills `into` with an array of optimizer state (see `OptimizerLayout.arrays`) from byte `from` of it. */
  readStatePart(name: string, from: number, into: Uint8Array): void {
    const { offset, bytes } = this.#optimizer.slot(name);
    checkPart(name, bytes, from, into.length);
    addon().read(this.#allocated().state, offset + from, into);
  }

  writeStatePart(name: string, from: number, data: Uint8Array): void {
    const { offset, bytes } = this.#optimizer.slot(name);
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

  get #io(): IoBuffers {
    return this.#plan.io;
  }

  /** What losses, and so gradients, are multiplied by until the next update: a power of two. */
  get #gradScale(): number {
    return this.scaler?.state.scale ?? 1;
  }

  #places({ graph }: Pass): Map<Value, Place> {
    const { params, grads, state, host } = this.#allocated();
    const places = new Map<Value, Place>();
    let hostOffset = 0;
    for (const value of graph.values) {
      const flat = value.name === 'flat';
      const offset = () => (flat ? 0 : this.#parameter(value.name).offset * 4);
      if (value.kind === 'io') places.set(value, this.#io.place(value));
      else if (value.kind === 'weight') places.set(value, this.#frozen.place(value.name));
      else if (value.kind === 'param') places.set(value, { storage: params, offset: offset() });
      else if (value.kind === 'grad') places.set(value, { storage: grads, offset: offset() });
      else if (value.kind === 'state') places.set(value, { storage: state, offset: this.#optimizer.slot(value.name).offset });
      else if (value.kind === 'host') {
        places.set(value, { storage: host, offset: hostOffset });
        hostOffset += align(valueBytes(value, graph.dims));
      }
    }
    return places;
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

function checkPart(name: string, size: number, from: number, length: number): void {
  if (from < 0 || from + length > size)
    throw new VltuneError('ERR_SHAPE', `${name}: ${from} to ${from + length} is out of its ${size}`);
}
