/**
 * Which rows a micro-batch holds, for every update of every epoch, and the batch itself.
 *
 * The plan is a pure function of the rows' lengths and the options: a run that resumes asks for update u of epoch e and reads nothing
 * of what came before.
 */
import { once } from '../async.js';
import { VltuneError } from '../errors.js';
import { writeRopePositions } from '../models/rope_positions.js';
import { IGNORE_INDEX } from '../ops/linear_cross_entropy.js';
import { identity, randperm } from './order.js';
import { type Packing, packFirstFit, placeRows } from './pack.js';
import type { RowMedia, RowSource } from './token_dataset.js';

export interface BatchPlanOptions {
  /** Rows of a micro-batch (no packing), or its capacity in units of `maxLength` tokens (packing). */
  readonly batchSize: number;
  /** The most tokens a row may have. */
  readonly maxLength: number;
  readonly gradientAccumulationSteps: number;
  readonly packing: boolean;
  readonly shuffle: boolean;
  readonly seed: number;
}

/** A picture or video of a batch. */
export interface BatchMedia extends Pick<RowMedia, 'kind' | 'grid' | 'key' | 'patchLength' | 'recycle'> {
  /** [t·h·w / mergeSize²] The tokens of the batch in whose place its features stand, in their order. */
  readonly tokens: Int32Array;
  /** Its patches, f32 [t·h·w, patchLength]: decoded at the first call, which `signal` may end; held as long as the batch, or until it is recycled. */
  patches(signal?: AbortSignal): Promise<Float32Array>;
}

/** Rows side by side, without padding; n tokens in S rows. */
export interface Batch {
  /** [n] */
  readonly ids: Int32Array;
  /** [n] The label of the next token of the same row; -100 where it is not learnt and at each row's end. */
  readonly targets: Int32Array;
  /** [3 × n] Position in the row, from 0, on each of the three axes (time, height, width) of M-RoPE. */
  readonly positions: Int32Array;
  /** [S + 1] First token of each row, and n. */
  readonly bounds: Int32Array;
  /** Pictures and videos of the rows, in order: their tokens rise from the first to the last. */
  readonly media: readonly BatchMedia[];
  readonly numTokens: number;
  /** Targets that are not -100. */
  readonly numTargets: number;
  /** Tokens of the longest row. */
  readonly maxRow: number;
}

/** The largest micro-batch of a run, each figure by itself: what memory is planned for. */
export interface BatchLimits {
  readonly tokens: number;
  readonly targets: number;
  readonly rows: number;
  /** Tokens of the longest row. */
  readonly rowTokens: number;
  /** Patches of pictures and videos, and frames: one of a picture, one for each temporal patch of a video. */
  readonly patches: number;
  readonly frames: number;
  /** Of any one picture or video. */
  readonly mediaPatches: number;
  readonly mediaFrames: number;
}

/** One that is trained on, and the next, whose first batches are made ready. */
const EPOCHS_CACHED = 2;

function checkPositive(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1)
    throw new VltuneError('ERR_USAGE', `${name}: expected a whole number of at least 1, got ${value}`);
}

export class BatchPlan {
  readonly options: BatchPlanOptions;
  /** Rows in the dataset. */
  readonly rows: number;
  readonly microBatchesPerEpoch: number;
  /** `len // accumulation`, one more for a remainder, at least 1: the last, partial accumulation is a full update. */
  readonly updatesPerEpoch: number;
  private readonly source: RowSource;
  private readonly packing: Packing | undefined;
  /** Of the last epochs asked for. */
  private readonly cached = new Map<number, readonly Int32Array[]>();

  constructor(source: RowSource, options: BatchPlanOptions) {
    checkPositive('batchSize', options.batchSize);
    checkPositive('maxLength', options.maxLength);
    checkPositive('gradientAccumulationSteps', options.gradientAccumulationSteps);
    if (source.size === 0) throw new VltuneError('ERR_BAD_DATA', 'the dataset holds no rows');
    this.source = source;
    this.options = options;
    this.rows = source.size;
    if (options.packing) this.packing = packFirstFit(source.lengths, options.batchSize * options.maxLength);
    this.microBatchesPerEpoch = this.packing?.fills.length ?? Math.ceil(source.size / options.batchSize);
    this.updatesPerEpoch = Math.ceil(this.microBatchesPerEpoch / options.gradientAccumulationSteps);
  }

  /** Rows of each micro-batch of an epoch (0, 1, …), in order. Without packing: `batchSize` rows each, as torch's sampler orders them. */
  microBatches(epoch: number): readonly Int32Array[] {
    let batches = this.cached.get(epoch);
    if (batches === undefined) {
      batches = this.build(epoch);
      this.cached.set(epoch, batches);
      for (const older of this.cached.keys()) if (this.cached.size > EPOCHS_CACHED) this.cached.delete(older);
    }
    return batches;
  }

  private build(epoch: number): Int32Array[] {
    const { batchSize, shuffle, seed } = this.options;
    const order = shuffle ? randperm(this.rows, seed + epoch) : identity(this.rows);
    if (this.packing === undefined) {
      return Array.from({ length: this.microBatchesPerEpoch }, (_, i) => order.slice(i * batchSize, (i + 1) * batchSize));
    }
    const { starts, places } = this.packing;
    const rowOfPlace = placeRows(this.source.lengths, order);
    const bins = Array.from(this.packing.fills, (_, bin) =>
      Int32Array.from(places.subarray(starts[bin]!, starts[bin + 1]!), (place) => rowOfPlace[place]!),
    );
    if (shuffle) return Array.from(randperm(bins.length, seed + epoch), (bin) => bins[bin]!);
    // In the file's order as far as packing allows: bins by their first row, and rows within them.
    for (const bin of bins) bin.sort();
    return bins.sort((a, b) => a[0]! - b[0]!);
  }

  /** Rows of each micro-batch of one update (0 to `updatesPerEpoch` - 1) of an epoch. */
  update(epoch: number, update: number): readonly Int32Array[] {
    if (!Number.isInteger(update) || update < 0 || update >= this.updatesPerEpoch) {
      throw new VltuneError('ERR_ARGUMENT', `update: expected 0 to ${this.updatesPerEpoch - 1}, got ${update}`);
    }
    const { gradientAccumulationSteps } = this.options;
    return this.microBatches(epoch).slice(update * gradientAccumulationSteps, (update + 1) * gradientAccumulationSteps);
  }

  /** The micro-batches of one update, read. */
  read(epoch: number, update: number): Batch[] {
    return this.update(epoch, update).map((rows) => buildBatch(this.source, rows));
  }

  /** The largest micro-batch of the first `epochs` epochs (a fraction counts as a whole one). */
  limits(epochs: number): BatchLimits {
    const { lengths, targetCounts, patchCounts, frameCounts, largestMedia } = this.source;
    const most = {
      tokens: 0,
      targets: 0,
      rows: 0,
      rowTokens: 0,
      patches: 0,
      frames: 0,
      mediaPatches: largestMedia?.patches ?? 0,
      mediaFrames: largestMedia?.frames ?? 0,
    };
    const sum = (counts: Int32Array, rows: Int32Array): number => rows.reduce((total, row) => total + counts[row]!, 0);
    const last = Math.max(1, Math.ceil(epochs));
    for (let epoch = 0; epoch < last; epoch++) {
      for (const rows of this.microBatches(epoch)) {
        for (const row of rows) if (lengths[row]! > most.rowTokens) most.rowTokens = lengths[row]!;
        most.tokens = Math.max(most.tokens, sum(lengths, rows));
        most.targets = Math.max(most.targets, sum(targetCounts, rows));
        most.rows = Math.max(most.rows, rows.length);
        if (patchCounts) most.patches = Math.max(most.patches, sum(patchCounts, rows));
        if (frameCounts) most.frames = Math.max(most.frames, sum(frameCounts, rows));
      }
      if (!this.options.shuffle) break; // every epoch is the same
    }
    return most;
  }
}

/** Lays rows side by side. */
export function buildBatch(source: RowSource, rows: ArrayLike<number>): Batch {
  const bounds = new Int32Array(rows.length + 1);
  for (let s = 0; s < rows.length; s++) bounds[s + 1] = bounds[s]! + source.lengths[rows[s]!]!;
  const n = bounds[rows.length]!;
  const ids = new Int32Array(n);
  const targets = new Int32Array(n).fill(IGNORE_INDEX);
  const positions = new Int32Array(3 * n);
  const media: BatchMedia[] = [];
  let numTargets = 0;
  let maxRow = 0;
  for (let s = 0; s < rows.length; s++) {
    const start = bounds[s]!;
    const { ids: rowIds, targets: labels, media: rowMedia = [] } = source.read(rows[s]!);
    const length = rowIds.length;
    maxRow = Math.max(maxRow, length);
    ids.set(rowIds, start);
    const runs = rowMedia.flatMap((item) => item.runs);
    writeRopePositions({ positions, total: n }, start, length, runs);
    for (const item of rowMedia) media.push(batchMedia(item, start));
    for (let i = 1; i < length; i++) {
      const label = labels[i]!;
      targets[start + i - 1] = label;
      if (label !== IGNORE_INDEX) numTargets++;
    }
  }
  return { ids, targets, positions, bounds, media, numTokens: n, numTargets, maxRow };
}

/** A picture or video of a row that begins at token `start` of the batch. */
function batchMedia({ kind, grid, key, patchLength, runs, patches, recycle }: RowMedia, start: number): BatchMedia {
  const tokens = runs.flatMap((run) => Array.from({ length: run.height * run.width }, (_, i) => start + run.start + i));
  return { kind, grid, key, patchLength, tokens: Int32Array.from(tokens), patches: once(patches), ...(recycle && { recycle }) };
}
