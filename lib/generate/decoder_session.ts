/**
 * A model that reads tokens one run after another: its program over a KV cache, its memory, and nothing of text or sampling.
 */
import { VltuneError } from '../errors.js';
import { Graph, type Value, valueBytes } from '../graph/graph.js';
import { IoBuffers } from '../graph/io.js';
import { align, planMemory } from '../graph/planner.js';
import { type Place, Program } from '../graph/program.js';
import type { ModelSpec } from '../models/family.js';
import type { FrozenWeights } from '../models/frozen_weights.js';
import { GraphWeights } from '../models/graph_weights.js';
import type { Trainables } from '../models/trainables.js';
import { addon, type Device, type Storage } from '../native.js';
import { attentionCached } from '../ops/attention.js';
import type { ActivationDType } from '../ops/builder.js';
import { cast, selectRows } from '../ops/elementwise.js';
import { linear } from '../ops/linear.js';

/** Tokens of a prompt that are read in one run. */
const PREFILL_TOKENS = 512;

export interface SessionOptions {
  readonly dtype: ActivationDType;
  readonly device: Device;
  /** Tokens the cache has room for. */
  readonly capacity: number;
}

export class DecoderSession {
  readonly capacity: number;
  readonly #vocabSize: number;
  readonly #io: IoBuffers;
  readonly #program: Program;
  readonly #storages: Storage[];
  #length = 0;

  /** `params` holds the adapters in the layout of `trainables`. */
  constructor(spec: ModelSpec, frozen: FrozenWeights, trainables: Trainables, params: Storage, options: SessionOptions) {
    const { dtype, device, capacity } = options;
    const { text } = spec;
    this.capacity = capacity;
    this.#vocabSize = text.vocabSize;

    const graph = new Graph({ tokens: Math.min(PREFILL_TOKENS, capacity) });
    const input = (name: string, ioDtype: 'i32' | 'f32', ...shape: (number | string)[]) =>
      graph.value('io', name, ioDtype, shape);
    const weights = new GraphWeights(graph, frozen, trainables, null);
    const past = input('past', 'i32', 1);
    const heads = { heads: text.heads, kvHeads: text.kvHeads, headDim: text.headDim, causal: true };
    const cache = (name: string) => ({ into: graph.value('state', name, dtype, [capacity, text.kvHeads * text.headDim]) });
    const hidden = spec.forward(graph, weights, {
      ids: input('ids', 'i32', 'tokens'),
      positions: input('positions', 'i32', 3, 'tokens'),
      dtype,
      attend: (layer, q, k, v) =>
        attentionCached(graph, q, k, v, past, { k: cache(`${layer}.k`), v: cache(`${layer}.v`) }, heads),
    });
    const last = selectRows(graph, hidden, input('row', 'i32', 1));
    const logits = linear(graph, last, { weight: weights.tensor(spec.head) }).y;
    cast(graph, logits, { into: input('logits', 'f32', 1, text.vocabSize) });

    const plan = planMemory(graph, device);
    this.#io = new IoBuffers([graph]);
    this.#io.allocate(device);
    const states = graph.values.filter((value) => value.kind === 'state');
    const cacheStorage = addon().allocate(
      states.reduce((sum, value) => sum + align(valueBytes(value, graph.dims)), 0),
      device,
    );
    const arena = addon().allocate(plan.arenaBytes, device);
    this.#storages = [cacheStorage, arena];

    const places = new Map<Value, Place>();
    let offset = 0;
    for (const value of graph.values) {
      if (value.kind === 'io') places.set(value, this.#io.place(value));
      else if (value.kind === 'weight') places.set(value, frozen.place(value.name));
      else if (value.kind === 'param')
        places.set(value, { storage: params, offset: trainables.layout.get(value.name)!.offset * 4 });
      else if (value.kind === 'state') {
        places.set(value, { storage: cacheStorage, offset });
        offset += align(valueBytes(value, graph.dims));
      }
    }
    this.#program = Program.compile(graph, plan, arena, places);
  }

  /** Tokens read so far. */
  get length(): number {
    return this.#length;
  }

  /** Forgets all tokens. */
  reset(): void {
    this.#length = 0;
  }

  /** Reads tokens after those read before. Returns the logits of the token that follows them, f32 [V]. */
  async read(ids: ArrayLike<number>, signal?: AbortSignal): Promise<Float32Array> {
    if (ids.length === 0) throw new VltuneError('ERR_USAGE', 'the prompt holds no token');
    if (this.#length + ids.length > this.capacity) {
      throw new VltuneError(
        'ERR_INTERNAL',
        `the cache has room for ${this.capacity} tokens, not for ${this.#length + ids.length}`,
      );
    }
    for (let at = 0; at < ids.length; at += PREFILL_TOKENS) {
      const chunk = Int32Array.from({ length: Math.min(PREFILL_TOKENS, ids.length - at) }, (_, i) => ids[at + i]!);
      const n = chunk.length;
      this.#io.write('ids', chunk);
      this.#io.write(
        'positions',
        Int32Array.from({ length: 3 * n }, (_, i) => this.#length + (i % n)),
      );
      this.#io.write('past', Int32Array.of(this.#length));
      this.#io.write('row', Int32Array.of(n - 1));
      this.#io.flush();
      await this.#program.run({ tokens: n }, signal);
      this.#length += n;
    }
    return this.#io.read('logits', new Float32Array(this.#vocabSize));
  }

  release(): void {
    this.#program.release();
    for (const storage of this.#storages) addon().release(storage);
    this.#io.release();
  }
}
