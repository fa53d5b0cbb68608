/**
 * Batches in order, with those that follow made ready while one is in use: their rows read, and the pictures and videos in them decoded
 * on the threads of Node's pool. How far ahead is bounded by the memory that decoded patches take, so it does not grow with the dataset.
 */
import { Limiter, once } from '../async.js';
import { patchesOf } from '../models/grid.js';
import { type Batch, type BatchMedia, buildBatch } from './batches.js';
import { PatchArrays } from './media/patch_arrays.js';
import { cancelled } from './records.js';
import type { RowSource } from './token_dataset.js';

export interface BatchStreamOptions {
  /** Most batches that are ready or being made ready besides the one in use. Default 4. */
  readonly ahead?: number | undefined;
  /** Beyond the next batch, none is begun while decoded patches take this much. Default 128 MiB. */
  readonly bytes?: number | undefined;
  /** Whether a picture or video will have to be decoded. Default: each one. What is not wanted ahead may be asked for all the same. */
  readonly wanted?: ((media: BatchMedia) => boolean) | undefined;
  /** Ends what is being decoded, as `close` does. */
  readonly signal?: AbortSignal | undefined;
}

interface Ready {
  readonly batch: Batch;
  /** Of its patches, decoded ahead. */
  readonly bytes: number;
}

const AHEAD = 4;
const BYTES = 128 << 20;
/**
 * Pictures and videos that are decoded at once, whatever batch they are of: each holds its pixels, which may be many times its patches.
 * One fewer than Node's pool has threads, since the step needs one too and would wait behind them.
 */
const DECODED_AT_ONCE = Math.max(1, (Number(process.env.UV_THREADPOOL_SIZE) || 4) - 1);

export class BatchStream {
  readonly #source: RowSource;
  readonly #rows: Iterator<Int32Array>;
  readonly #options: BatchStreamOptions;
  readonly #ready: Ready[] = [];
  readonly #decoders = new Limiter(DECODED_AT_ONCE);
  readonly #underWay = new Set<Promise<unknown>>();
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  #ended = false;
  #failure: unknown;

  /** `batches`: the rows of each. */
  constructor(source: RowSource, batches: Iterable<Int32Array>, options: BatchStreamOptions = {}) {
    this.#source = source;
    this.#rows = batches[Symbol.iterator]();
    this.#options = options;
    this.#signal = options.signal ? AbortSignal.any([options.signal, this.#stop.signal]) : this.#stop.signal;
  }

  /** The next batch; undefined after the last. Those that follow are read when the caller next waits for something. */
  next(): Batch | undefined {
    if (this.#ready.length === 0 && this.#failure === undefined) this.#readOne();
    if (this.#ready.length === 0 && this.#failure !== undefined) throw this.#failure;
    const next = this.#ready.shift();
    if (!this.#ended) setImmediate(() => this.#fill());
    return next?.batch;
  }

  /** Begins nothing more, and resolves when nothing is being decoded any longer: then the source may be closed. Never rejects. */
  async close(): Promise<void> {
    this.#ended = true;
    this.#ready.length = 0;
    this.#stop.abort();
    await Promise.allSettled(this.#underWay);
  }

  #fill(): void {
    const { ahead = AHEAD, bytes = BYTES } = this.#options;
    try {
      while (!this.#ended && this.#failure === undefined && this.#ready.length < ahead) {
        const held = this.#ready.reduce((sum, ready) => sum + ready.bytes, 0);
        if (this.#ready.length > 0 && held >= bytes) return;
        this.#readOne();
      }
    } catch (error) {
      this.#failure = error; // for the caller of `next` who comes to this batch
    }
  }

  #readOne(): void {
    if (this.#ended) return;
    const rows = this.#rows.next();
    if (rows.done) {
      this.#ended = true;
      return;
    }
    const batch = this.#decoding(buildBatch(this.#source, rows.value));
    const wanted = this.#options.wanted ? batch.media.filter(this.#options.wanted) : batch.media;
    this.#ready.push({ batch, bytes: wanted.reduce((sum, media) => sum + patchBytes(media), 0) });
    // An error is told to whoever asks for the patches.
    for (const media of wanted) media.patches().catch(() => undefined);
  }

  /** A batch whose media take their turn among those of all batches, and are given up when the stream is closed. */
  #decoding(batch: Batch): Batch {
    const media = batch.media.map((item) => ({ ...item, patches: once(() => this.#decode(item)) }));
    return { ...batch, media };
  }

  #decode(media: BatchMedia): Promise<Float32Array> {
    const decoded = this.#decoders.run(async () => {
      if (this.#signal.aborted) throw cancelled();
      return await media.patches(this.#signal);
    });
    const settled = () => this.#underWay.delete(decoded);
    this.#underWay.add(decoded);
    decoded.then(settled, settled);
    return decoded;
  }
}

/** What the patches of a picture or video take in memory. */
export function patchBytes({ grid, patchLength }: Pick<BatchMedia, 'grid' | 'patchLength'>): number {
  return patchesOf([grid]) * patchLength * Float32Array.BYTES_PER_ELEMENT;
}

/**
 * The most that a stream's patches take: those of the batch in use, of up to `batch` patches, of what is ready, and what is held for others to
 * come, out of `all`.
 */
export function streamBytes(batch: number, all: number, patchLength: number): number {
  const bytes = (patches: number): number => patches * patchLength * Float32Array.BYTES_PER_ELEMENT;
  return bytes(batch) + Math.min(bytes(all), BYTES + bytes(batch)) + Math.min(bytes(all), PatchArrays.MOST_HELD);
}
