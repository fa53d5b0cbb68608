/** A prepared dataset: the tokens of its rows on disk, and what its rows hold besides. */
import { VltuneError } from '../errors.js';
import type { Grid } from '../models/grid.js';
import type { MediaRun } from '../models/rope_positions.js';
import { IGNORE_INDEX } from '../ops/linear_cross_entropy.js';
import type { MediaReader } from './media/media_reader.js';
import type { MediaSpill, StoredMedia } from './media/media_spill.js';
import type { TemporaryFile } from './temporary_file.js';

export interface DatasetStats {
  /** Rows kept. */
  readonly rows: number;
  readonly tokens: number;
  /** Tokens that are predicted and learnt: labels of a row, its first token's aside. */
  readonly targetTokens: number;
  /** Rows that were longer than the maximum and lost their end. */
  readonly truncated: number;
  /** Rows left out because they hold an image or a video. */
  readonly skippedImages: number;
  /** Rows left out because no target is left in them (after truncation). */
  readonly dropped: number;
  /** Pictures and videos in the rows kept. */
  readonly media: number;
  /** Rows that lost a picture or video, with all that follows, because it does not fit in the maximum whole; and the first of them. */
  readonly lostMedia: number;
  readonly firstLostMedia: string | undefined;
  /** Tokens of the longest row before truncation. */
  readonly longest: number;
}

/** A picture or video of a row. */
export interface RowMedia {
  readonly kind: 'image' | 'video';
  /** Patches along time, height and width. */
  readonly grid: Grid;
  /** Equal for equal files. */
  readonly key: string;
  /** The tokens that stand for its features: one run of a picture, one for each temporal patch of a video. */
  readonly runs: readonly MediaRun[];
  /** Numbers in a patch. */
  readonly patchLength: number;
  /** Decodes it: f32 [t·h·w, patchLength]. ERR_BAD_DATA for a file that is broken or has changed, naming the row; ERR_CANCELLED. */
  patches(signal?: AbortSignal): Promise<Float32Array>;
  /** Takes the memory of what `patches` gave for others; the array is empty from then on. */
  recycle?(patches: Float32Array): void;
}

/** The tokens of one row. */
export interface TokenRow {
  readonly ids: Int32Array;
  /** Labels as in Hugging Face's trainers, not shifted: the id where it is to be learnt, -100 elsewhere. */
  readonly targets: Int32Array;
  /** Its pictures and videos in order. */
  readonly media?: readonly RowMedia[];
}

export interface MediaSize {
  readonly patches: number;
  readonly frames: number;
}

/** What batches are made from. `TokenDataset` is one on disk; tests and other trainers may bring their own. */
export interface RowSource {
  readonly size: number;
  /** Tokens of each row. */
  readonly lengths: Int32Array;
  /** Labels of each row that are predicted: those at its second token and later. */
  readonly targetCounts: Int32Array;
  /** Patches of the media of each row, and their frames: one of a picture, one for each temporal patch of a video. Absent without media. */
  readonly patchCounts?: Int32Array | undefined;
  readonly frameCounts?: Int32Array | undefined;
  /** Of any one of its media, the most patches and the most frames. */
  readonly largestMedia?: MediaSize | undefined;
  read(row: number): TokenRow;
}

/** What `prepareDataset` made. */
export interface DatasetParts {
  readonly lengths: Int32Array;
  readonly targetCounts: Int32Array;
  readonly stats: DatasetStats;
  readonly fingerprint: string;
  /** A row: one int32 a token, the id where it is to be learnt, its complement where not. */
  readonly tokens: TemporaryFile;
  /** Set if any row has media. */
  readonly media?: DatasetMedia | undefined;
}

export interface DatasetMedia {
  readonly spill: MediaSpill;
  readonly reader: MediaReader;
  readonly patchCounts: Int32Array;
  readonly frameCounts: Int32Array;
  readonly largest: MediaSize;
}

/** Rows on disk; memory holds some numbers for each. */
export class TokenDataset implements RowSource {
  readonly size: number;
  readonly lengths: Int32Array;
  readonly targetCounts: Int32Array;
  readonly patchCounts: Int32Array | undefined;
  readonly frameCounts: Int32Array | undefined;
  readonly largestMedia: MediaSize | undefined;
  readonly stats: DatasetStats;
  /** SHA-256 over the rows' tokens, labels and media in order: equal exactly if training sees the same data. */
  readonly fingerprint: string;
  private readonly offsets: Float64Array;
  private readonly tokens: TemporaryFile;
  private readonly media: DatasetMedia | undefined;

  /** For `prepareDataset` only. */
  constructor(parts: DatasetParts) {
    this.size = parts.lengths.length;
    this.lengths = parts.lengths;
    this.targetCounts = parts.targetCounts;
    this.patchCounts = parts.media?.patchCounts;
    this.frameCounts = parts.media?.frameCounts;
    this.largestMedia = parts.media?.largest;
    this.stats = parts.stats;
    this.fingerprint = parts.fingerprint;
    this.tokens = parts.tokens;
    this.media = parts.media;
    this.offsets = new Float64Array(this.size);
    let offset = 0;
    for (let row = 0; row < this.size; row++) {
      this.offsets[row] = offset;
      offset += this.lengths[row]! * 4;
    }
  }

  /** Tokens, labels and media of a row. Small reads of files that lie in the page cache; nothing is decoded. */
  read(row: number): TokenRow {
    if (!Number.isInteger(row) || row < 0 || row >= this.size)
      throw new VltuneError('ERR_ARGUMENT', `row: expected 0 to ${this.size - 1}, got ${row}`);
    const length = this.lengths[row]!;
    const ids = new Int32Array(length);
    this.tokens.readSync(this.offsets[row]!, new Uint8Array(ids.buffer));
    const targets = new Int32Array(length);
    for (let i = 0; i < length; i++) {
      const code = ids[i]!;
      if (code < 0) {
        ids[i] = ~code;
        targets[i] = IGNORE_INDEX;
      } else {
        targets[i] = code;
      }
    }
    const { media } = this;
    if (media === undefined) return { ids, targets };
    return { ids, targets, media: media.spill.read(row).map((stored) => rowMedia(stored, media.reader)) };
  }

  /** Frees its files. Closing twice is harmless. */
  close(): void {
    this.tokens.close();
    this.media?.spill.close();
  }
}

function rowMedia(stored: StoredMedia, reader: MediaReader): RowMedia {
  const { kind, grid, key, starts, place, files } = stored;
  const [, height, width] = grid;
  return {
    kind,
    grid,
    key,
    runs: starts.map((start) => ({ start, height: height / reader.mergeSize, width: width / reader.mergeSize })),
    patchLength: reader.patchLength,
    patches: async (signal) => reader.patches({ ...stored, files: await files() }, place, signal),
    recycle: (patches) => reader.recycle(patches),
  };
}
