/**
 * A vision tower by itself: pictures in, features out, to be kept in the host's memory. Whoever trains or generates with features
 * that are made once runs this first, and a program of the language model that reads them.
 */
import { VltuneError } from '../errors.js';
import { Graph, type Value } from '../graph/graph.js';
import { IoBuffers } from '../graph/io.js';
import { type Plan, planMemory } from '../graph/planner.js';
import { type Place, Program } from '../graph/program.js';
import { addon, type Device, dtypeBytes, type Storage } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { cast } from '../ops/elementwise.js';
import type { VisionSpec } from './family.js';
import { GraphWeights } from './graph_weights.js';
import { Trainables } from './trainables.js';
import {
  featureName,
  featureValues,
  type VisionBatch,
  type VisionLimits,
  visionDims,
  visionInputs,
  writeVisionInputs,
} from './vision_io.js';
import type { WeightStore } from './weight_store.js';

export interface EncoderAdapters {
  readonly trainables: Trainables;
  place(name: string): Place;
  readonly bytes?: number;
  allocate?(): void;
  release?(): void;
}

export interface VisionEncoderOptions extends VisionLimits {
  readonly device: Device;
  readonly dtype: ActivationDType;
  /** Adapters in the tower, and where their numbers lie; those that bring memory of their own get it with the encoder. */
  readonly adapters?: EncoderAdapters;
}

/** Features of pictures, as bytes of the activations' dtype: [features, hidden] each, the embeddings first, then DeepStack's. */
export type EncodedFeatures = readonly Uint8Array[];

export class VisionEncoder {
  readonly #vision: VisionSpec;
  readonly #frozen: WeightStore;
  readonly #options: VisionEncoderOptions;
  readonly #graph: Graph;
  readonly #plan: Plan;
  readonly #io: IoBuffers;
  #running: { program: Program; arena: Storage } | undefined;

  /** Builds and plans; allocates nothing. `frozen` holds the tower. */
  constructor(vision: VisionSpec, frozen: WeightStore, options: VisionEncoderOptions) {
    this.#vision = vision;
    this.#frozen = frozen;
    this.#options = options;
    const { dtype, device } = options;
    const { shape } = vision;
    this.#graph = new Graph(visionDims(shape, options));
    const weights = new GraphWeights(this.#graph, frozen, options.adapters?.trainables ?? Trainables.none(), null);
    const made = vision.forward(this.#graph, weights, visionInputs(this.#graph, shape, dtype));
    const kept = featureValues(this.#graph, shape, dtype);
    const copy = (from: Value, into: Value) => cast(this.#graph, from, { into });
    copy(made.embeddings, kept.embeddings);
    made.deepstack.forEach((feature, i) => {
      copy(feature, kept.deepstack[i]!);
    });
    this.#plan = planMemory(this.#graph, device);
    this.#io = new IoBuffers([this.#graph]);
  }

  /** Bytes beside the weights. */
  get bytes(): number {
    return this.#plan.arenaBytes + this.#io.bytes + (this.#options.adapters?.bytes ?? 0);
  }

  /** Allocates and compiles; the weights are loaded before. ERR_OUT_OF_MEMORY: nothing is held then. */
  allocate(): void {
    const { device, adapters } = this.#options;
    let arena: Storage;
    try {
      this.#io.allocate(device);
      adapters?.allocate?.();
      arena = addon().allocate(this.#plan.arenaBytes, device);
    } catch (error) {
      this.#io.release();
      adapters?.release?.();
      throw error;
    }
    const places = new Map<Value, Place>();
    for (const value of this.#graph.values) {
      if (value.kind === 'io') places.set(value, this.#io.place(value));
      else if (value.kind === 'weight') places.set(value, this.#frozen.place(value.name));
      else if (value.kind === 'param') places.set(value, adapters!.place(value.name));
    }
    this.#running = { program: Program.compile(this.#graph, this.#plan, arena, places), arena };
  }

  /** ERR_SHAPE for more than the limits; ERR_CANCELLED. */
  async encode(batch: VisionBatch, signal?: AbortSignal): Promise<EncodedFeatures> {
    if (!this.#running) throw new VltuneError('ERR_INTERNAL', 'the vision encoder is not allocated');
    const { shape } = this.#vision;
    const lengths = writeVisionInputs(this.#io, shape, batch);
    this.#io.flush();
    await this.#running.program.run(lengths, signal);
    const bytes = dtypeBytes(this.#options.dtype, lengths.features! * shape.outSize);
    return Array.from({ length: 1 + shape.deepstackLayers.length }, (_, i) =>
      this.#io.read(featureName(i), new Uint8Array(bytes)),
    );
  }

  release(): void {
    this.#running?.program.release();
    if (this.#running) addon().release(this.#running.arena);
    this.#running = undefined;
    this.#io.release();
    this.#options.adapters?.release?.();
  }
}
