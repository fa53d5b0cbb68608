/** Encoded rows to a dataset: each joined and cut to the maximum, counted, and put on disk. */
import { createHash } from 'node:crypto';
import { patchesOf } from '../models/grid.js';
import type { EncodedRows, ExpandedRow } from './encode.js';
import { IntBuffer } from './int_buffer.js';
import { joinRow } from './join_row.js';
import type { MediaReader } from './media/media_reader.js';
import { MediaSpill } from './media/media_spill.js';
import { mediaOf } from './message.js';
import { nameOf } from './placeholders.js';
import { rowPlace } from './read.js';
import { TemporaryFile } from './temporary_file.js';
import { type MediaSize, TokenDataset } from './token_dataset.js';

const SPILL_TOKENS = 1 << 18;

/** Appends to the file of tokens and hashes what it appends. */
class TokenSpill {
  readonly file: TemporaryFile;
  private readonly hash = createHash('sha256');
  private readonly block = new Int32Array(SPILL_TOKENS);
  private used = 0;

  constructor(folder: string) {
    this.file = new TemporaryFile(folder, 'tokens');
  }

  async append(codes: Int32Array): Promise<void> {
    for (let at = 0; at < codes.length; ) {
      if (this.used === this.block.length) await this.flush();
      const part = codes.subarray(at, at + this.block.length - this.used);
      this.block.set(part, this.used);
      this.used += part.length;
      at += part.length;
    }
  }

  async flush(): Promise<void> {
    const bytes = new Uint8Array(this.block.buffer, 0, this.used * 4);
    this.hash.update(bytes);
    await this.file.append(bytes);
    this.used = 0;
  }

  /** Hash of all tokens, of the rows' lengths, and of `rest`. */
  digest(lengths: Int32Array, rest: string): string {
    return this.hash
      .update(new Uint8Array(lengths.buffer, lengths.byteOffset, lengths.byteLength))
      .update(rest)
      .digest('hex');
  }
}

/** The media of the rows kept so far. */
class MediaCollector {
  readonly spill: MediaSpill;
  readonly patchCounts = new IntBuffer();
  readonly frameCounts = new IntBuffer();
  largest: MediaSize = { patches: 0, frames: 0 };
  private readonly hash = createHash('sha256');

  constructor(folder: string) {
    this.spill = new MediaSpill(folder);
  }

  async add(index: number, { row, media }: ExpandedRow, starts: readonly (readonly number[])[]): Promise<void> {
    let patches = 0;
    let frames = 0;
    const place = rowPlace(row);
    const items = mediaOf(row.messages);
    const placed = starts.map((runs, i) => {
      const { fingerprint, timestamps: _, ...seen } = media[i]!;
      const { kind, grid } = seen;
      const size = patchesOf([grid]);
      patches += size;
      frames += grid[0];
      this.largest = { patches: Math.max(this.largest.patches, size), frames: Math.max(this.largest.frames, grid[0]) };
      this.hash.update(`${index} ${kind} ${grid.join(' ')} ${fingerprint}\n`);
      return { ...seen, place: `${place}: ${nameOf(items[i]!)}`, starts: runs };
    });
    // Rows without media have no patches.
    while (this.patchCounts.length < index) {
      this.patchCounts.push(0);
      this.frameCounts.push(0);
    }
    this.patchCounts.push(patches);
    this.frameCounts.push(frames);
    await this.spill.append(index, placed);
  }

  /** Counts for all of `rows`. */
  counts(rows: number): { patchCounts: Int32Array; frameCounts: Int32Array } {
    const whole = (counts: IntBuffer): Int32Array => {
      const all = new Int32Array(rows);
      all.set(counts.toArray());
      return all;
    };
    return { patchCounts: whole(this.patchCounts), frameCounts: whole(this.frameCounts) };
  }

  digest(): string {
    return this.hash.digest('hex');
  }
}

/** The rows of a dataset that are kept. */
export class RowCollector {
  readonly stats = {
    rows: 0,
    tokens: 0,
    targetTokens: 0,
    truncated: 0,
    skippedImages: 0,
    dropped: 0,
    media: 0,
    lostMedia: 0,
    firstLostMedia: undefined as string | undefined,
    longest: 0,
  };
  private readonly spill: TokenSpill;
  private readonly folder: string;
  private readonly lengths = new IntBuffer();
  private readonly targetCounts = new IntBuffer();
  private readonly codes: Int32Array;
  private media: MediaCollector | undefined;

  constructor(folder: string, maxLength: number) {
    this.folder = folder;
    this.spill = new TokenSpill(folder);
    this.codes = new Int32Array(maxLength);
  }

  async add({ rows, flat }: EncodedRows): Promise<void> {
    const { stats } = this;
    let text = 0;
    for (const expanded of rows) {
      const { length, targets, total, starts, lostMedia } = joinRow(expanded.pieces, flat, text, this.codes);
      for (const piece of expanded.pieces) if (!('id' in piece)) text++;
      stats.longest = Math.max(stats.longest, total);
      if (lostMedia) {
        stats.lostMedia++;
        stats.firstLostMedia ??= `${rowPlace(expanded.row)}, of ${total} tokens`;
      }
      if (targets === 0) {
        stats.dropped++;
        continue;
      }
      if (total > length) stats.truncated++;
      if (starts.length > 0) {
        this.media ??= new MediaCollector(this.folder);
        await this.media.add(stats.rows, expanded, starts);
        stats.media += starts.length;
      }
      stats.rows++;
      stats.tokens += length;
      stats.targetTokens += targets;
      this.lengths.push(length);
      this.targetCounts.push(targets);
      await this.spill.append(this.codes.subarray(0, length));
    }
  }

  async finish(reader: MediaReader | undefined): Promise<TokenDataset> {
    await this.spill.flush();
    const { media, stats } = this;
    const lengths = this.lengths.toArray();
    return new TokenDataset({
      lengths,
      targetCounts: this.targetCounts.toArray(),
      stats,
      fingerprint: this.spill.digest(lengths, media?.digest() ?? ''),
      tokens: this.spill.file,
      media: media && reader && { spill: media.spill, reader, largest: media.largest, ...media.counts(stats.rows) },
    });
  }

  close(): void {
    this.spill.file.close();
    this.media?.spill.close();
  }
}
