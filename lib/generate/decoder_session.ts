/**
 * A model that reads tokens one run after another: its program over a KV cache, its memory, and nothing of text or sampling.
 */
import { VltuneError } from '../errors.js';
import { fuse } from '../graph/fuse.js';
import { Graph, type Value, valueBytes } from '../graph/graph.js';
import { IoBuffers } from '../graph/io.js';
import { align, type Plan, planMemory } from '../graph/planner.js';
import { type Place, Program } from '../graph/program.js';
import type { MediaInputs, ModelSpec, VisionShape } from '../models/family.js';
import { GraphWeights } from '../models/graph_weights.js';
import type { Trainables } from '../models/trainables.js';
import type { EncodedFeatures } from '../models/vision_encoder.js';
import { featureName, featureValues, mediaRows } from '../models/vision_io.js';
import type { WeightStore } from '../models/weight_store.js';
import { addon, type Device, dtypeBytes, type Storage } from '../native.js';
import { attentionCached } from '../ops/attention.js';
import type { ActivationDType } from '../ops/builder.js';
import { cast, selectRows } from '../ops/elementwise.js';
import { linear } from '../ops/linear.js';
import { MOST_CANDIDATES, sampleToken } from '../ops/sample.js';
import type { Sampling } from './sampler.js';

/** Tokens of a prompt that are read in one run. */
const PREFILL_TOKENS: Readonly<Record<Device, number>> = { cpu: 512, cuda: 2048 };

/** The most tokens that `decode` makes without a word from the host. */
const DECODE_STEPS = 32;

export interface SessionOptions {
  readonly dtype: ActivationDType;
  readonly device: Device;
  /** Tokens the cache has room for. */
  readonly capacity: number;
  /** Whether prompts hold pictures. Default false. */
  readonly media?: boolean;
}

/** The pictures of a prompt, as its tokens see them. */
export interface PromptMedia {
  /** i32 [3, n]: the positions of all its tokens, and that of the token which follows. */
  readonly positions: Int32Array;
  readonly next: number;
  /** Ascending: the tokens of the prompt that features stand for. */
  readonly rows: Int32Array;
  readonly features: EncodedFeatures;
}

interface Built {
  readonly graph: Graph;
  readonly plan: Plan;
}

/** Inputs of a graph by name, with what its runs of one token leave for the next. */
interface Inputs {
  readonly ids: Value;
  readonly positions: Value;
  readonly past: Value;
}

export class DecoderSession {
  readonly capacity: number;
  readonly #spec: ModelSpec;
  readonly #weights: WeightStore;
  readonly #trainables: Trainables;
  readonly #options: SessionOptions;
  readonly #io: IoBuffers;
  /** `prefill` reads tokens; `first` chooses one by its logits; `decode` reads the one chosen and chooses the next. */
  readonly #programs: { prefill: Program; first: Program; decode: Program };
  readonly #storages: Storage[];
  #length = 0;
  /** Of the token that follows: less than the length where pictures stand at fewer places than they have tokens. */
  #position = 0;

  /** `params` holds the adapters in the layout of `trainables`. */
  constructor(spec: ModelSpec, weights: WeightStore, trainables: Trainables, params: Storage, options: SessionOptions) {
    const { device, capacity } = options;
    this.capacity = capacity;
    this.#spec = spec;
    this.#weights = weights;
    this.#trainables = trainables;
    this.#options = options;

    const tokens = Math.min(PREFILL_TOKENS[device], capacity);
    const prefill = this.#built(new Graph({ tokens, ...(options.media && { features: tokens }) }), (graph) => {
      const inputs = {
        ids: graph.value('io', 'ids', 'i32', ['tokens']),
        positions: graph.value('io', 'positions', 'i32', [3, 'tokens']),
        past: graph.value('io', 'past', 'i32', [1]),
      };
      this.#logits(graph, inputs, options.media ? this.#mediaInputs(graph) : undefined);
    });
    const next = (graph: Graph): Inputs => ({
      ids: graph.value('io', 'next_ids', 'i32', [1]),
      positions: graph.value('io', 'next_positions', 'i32', [3, 1]),
      past: graph.value('io', 'past', 'i32', [1]),
    });
    const first = this.#built(new Graph({}), (graph) => {
      this.#choose(graph, graph.value('io', 'logits', 'f32', [1, spec.text.vocabSize]), next(graph));
    });
    const decode = this.#built(new Graph({}), (graph) => {
      const inputs = next(graph);
      this.#choose(graph, this.#logits(graph, inputs), inputs);
      if (device === 'cuda') fuse(graph);
    });

    const all = [prefill, first, decode];
    this.#io = new IoBuffers(all.map(({ graph }) => graph));
    const offsets = new Map<string, number>();
    let cacheBytes = 0;
    for (const value of prefill.graph.values) {
      if (value.kind !== 'state') continue;
      offsets.set(value.name, cacheBytes);
      cacheBytes += align(valueBytes(value, {}));
    }
    const storages: Storage[] = [];
    try {
      this.#io.allocate(device);
      storages.push(addon().allocate(cacheBytes, device));
      storages.push(addon().allocate(Math.max(...all.map(({ plan }) => plan.arenaBytes)), device));
    } catch (error) {
      for (const storage of storages) addon().release(storage);
      this.#io.release();
      throw error;
    }
    const [cache, arena] = storages as [Storage, Storage];
    this.#storages = storages;
    const compile = ({ graph, plan }: Built): Program => {
      const places = new Map<Value, Place>();
      for (const value of graph.values) {
        if (value.kind === 'io') places.set(value, this.#io.place(value));
        else if (value.kind === 'weight') places.set(value, weights.place(value.name));
        else if (value.kind === 'param')
          places.set(value, { storage: params, offset: trainables.layout.get(value.name)!.offset * 4 });
        else if (value.kind === 'state') places.set(value, { storage: cache, offset: offsets.get(value.name)! });
      }
      return Program.compile(graph, plan, arena, places);
    };
    this.#programs = { prefill: compile(prefill), first: compile(first), decode: compile(decode) };
  }

  /** Tokens read so far. */
  get length(): number {
    return this.#length;
  }

  /** Forgets all tokens. */
  reset(): void {
    this.#length = 0;
    this.#position = 0;
  }

  /** Reads tokens after those read before. Returns the logits of the token that follows them, f32 [V]. */
  async read(ids: ArrayLike<number>, signal?: AbortSignal): Promise<Float32Array> {
    await this.prefill(ids, signal);
    return this.logits();
  }

  /** The logits of the token that follows those read, f32 [V]. */
  logits(): Float32Array {
    return this.#io.read('logits', new Float32Array(this.#spec.text.vocabSize));
  }

  /** Reads tokens after those read before, and leaves the logits where they are. A prompt with pictures is the first that is read. */
  async prefill(ids: ArrayLike<number>, signal?: AbortSignal, media?: PromptMedia): Promise<void> {
    if (ids.length === 0) throw new VltuneError('ERR_USAGE', 'the prompt holds no token');
    this.#checkRoom(ids.length);
    const most = PREFILL_TOKENS[this.#options.device];
    const start = this.#position;
    if (media && (start !== 0 || media.positions.length !== 3 * ids.length)) {
      throw new VltuneError(
        'ERR_INTERNAL',
        `a prompt with pictures is read first and has 3 x ${ids.length} positions; ${start} were read, ${media.positions.length} given`,
      );
    }
    for (let at = 0; at < ids.length; at += most) {
      const chunk = Int32Array.from({ length: Math.min(most, ids.length - at) }, (_, i) => ids[at + i]!);
      const n = chunk.length;
      this.#io.write('ids', chunk);
      const positionOf = (axis: number, i: number) => media?.positions[axis * ids.length + at + i] ?? start + at + i;
      this.#io.write(
        'positions',
        Int32Array.from({ length: 3 * n }, (_, i) => positionOf(Math.floor(i / n), i % n)),
      );
      const features = this.#options.media ? { features: this.#writeMedia(media, at, n) } : {};
      this.#io.write('past', Int32Array.of(this.#length));
      this.#io.write('row', Int32Array.of(n - 1));
      this.#io.flush();
      await this.#programs.prefill.run({ tokens: n, ...features }, signal);
      this.#length += n;
      this.#position = media && at + n === ids.length ? media.next : start + at + n;
    }
  }

  /** Whether `decode` can choose in this way. Sampling from all words of a vocabulary is the host's. */
  canDecode({ temperature, topK }: Sampling): boolean {
    return temperature === 0 || (topK >= 1 && topK <= MOST_CANDIDATES);
  }

  /** Prepares `decode`: the token after those read is chosen by `sampling`; `seen` are the ids that have occurred. */
  startDecoding(sampling: Sampling, seen: Iterable<number>): void {
    const { temperature, topK, topP, repetitionPenalty } = sampling;
    const occurred = new Uint8Array(this.#spec.text.vocabSize);
    for (const id of seen) occurred[id] = 1;
    this.#io.write('sampling', Float32Array.of(temperature, topK, topP, repetitionPenalty));
    this.#io.write('seen', occurred);
    // The step to the first token makes these what they should be.
    const before = this.#position - 1;
    this.#io.write('next_positions', Int32Array.of(before, before, before));
    this.#io.write('past', Int32Array.of(this.#length - 1));
  }

  /**
   * Chooses the next tokens, at most 32 and as many as there are draws (numbers in 0..1), reading each but the last chosen before.
   * `isFirst`: none was chosen since `startDecoding`.
   */
  async decode(draws: Float32Array, isFirst: boolean, signal?: AbortSignal): Promise<Int32Array> {
    const steps = Math.min(draws.length, DECODE_STEPS);
    const reads = isFirst ? steps - 1 : steps;
    this.#checkRoom(reads);
    this.#io.write('uniform', draws.subarray(0, steps));
    this.#io.write('count', Int32Array.of(0));
    this.#io.flush();
    if (isFirst) await this.#programs.first.run({}, signal);
    if (reads > 0) await this.#programs.decode.run({}, signal, reads);
    this.#length += reads;
    this.#position += reads;
    return this.#io.read('tokens', new Int32Array(steps));
  }

  /** Measure each op of the tokens to come, or no longer (on the CPU they always are). */
  measureOps(on: boolean): void {
    this.#programs.decode.measureOps(on);
  }

  /** Where the time of all tokens that were measured went, by op. */
  profile(): ReturnType<Program['profile']> {
    return this.#programs.decode.profile();
  }

  release(): void {
    for (const program of Object.values(this.#programs)) program.release();
    for (const storage of this.#storages) addon().release(storage);
    this.#io.release();
  }

  #built(graph: Graph, build: (graph: Graph) => void): Built {
    build(graph);
    return { graph, plan: planMemory(graph, this.#options.device) };
  }

  /** The model over the cache: the logits of the token that follows the last (of several the one `row` names). */
  #logits(graph: Graph, { ids, positions, past }: Inputs, media?: MediaInputs<Value>): Value {
    const { dtype, capacity } = this.#options;
    const { heads, kvHeads, headDim, vocabSize } = this.#spec.text;
    const weights = new GraphWeights(graph, this.#weights, this.#trainables, null);
    const shape = { heads, kvHeads, headDim, causal: true };
    const cache = (name: string) => ({ into: graph.value('state', name, dtype, [capacity, kvHeads * headDim]) });
    const hidden = this.#spec.forward(graph, weights, {
      ids,
      positions,
      dtype,
      attend: (layer, q, k, v) =>
        attentionCached(graph, q, k, v, past, { k: cache(`${layer}.k`), v: cache(`${layer}.v`) }, shape),
      media,
    });
    const last = ids.shape[0] === 1 ? hidden : selectRows(graph, hidden, graph.value('io', 'row', 'i32', [1]));
    const logits = linear(graph, last, { weight: weights.tensor(this.#spec.head) }).y;
    const read = graph.value('io', 'logits', 'f32', [1, vocabSize]);
    if (ids.shape[0] !== 1) cast(graph, logits, { into: read });
    return ids.shape[0] === 1 ? logits : read;
  }

  #mediaInputs(graph: Graph): MediaInputs<Value> {
    return { rows: mediaRows(graph), ...featureValues(graph, this.#vision(), this.#options.dtype) };
  }

  /** Writes the features of `n` tokens from token `at` of the prompt on; returns how many there are. */
  #writeMedia(media: PromptMedia | undefined, at: number, n: number): number {
    if (!media) return 0;
    const { rows, features } = media;
    const before = (token: number) => rows.findLastIndex((row) => row < token) + 1;
    const [first, end] = [before(at), before(at + n)];
    const width = dtypeBytes(this.#options.dtype, this.#vision().outSize);
    this.#io.write(
      'media_rows',
      rows.subarray(first, end).map((row) => row - at),
    );
    features.forEach((bytes, i) => {
      this.#io.write(featureName(i), bytes.subarray(first * width, end * width));
    });
    return end - first;
  }

  #vision(): VisionShape {
    if (!this.#spec.vision) throw new VltuneError('ERR_UNSUPPORTED', `${this.#spec.modelType} models read no pictures`);
    return this.#spec.vision.shape;
  }

  #choose(graph: Graph, logits: Value, { ids, positions, past }: Inputs): void {
    const io = (name: string, dtype: 'i32' | 'f32' | 'u8', length: number) => graph.value('io', name, dtype, [length]);
    sampleToken(
      graph,
      { logits, sampling: io('sampling', 'f32', 4), uniform: io('uniform', 'f32', DECODE_STEPS) },
      {
        seen: { into: io('seen', 'u8', this.#spec.text.vocabSize) },
        ids: { into: ids },
        positions: { into: positions },
        past: { into: past },
        tokens: { into: io('tokens', 'i32', DECODE_STEPS) },
        count: { into: io('count', 'i32', 1) },
      },
    );
  }

  #checkRoom(tokens: number): void {
    if (this.#length + tokens > this.capacity) {
      throw new VltuneError('ERR_INTERNAL', `the cache has room for ${this.capacity} tokens, not for ${this.#length + tokens}`);
    }
  }
}
