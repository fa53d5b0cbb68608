/**
 * A dataset as tokens: rows are read, rendered and tokenised in one stream, and their tokens spill to a file that vanishes with the
 * process; only lengths and offsets stay in memory.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, write as fsWrite, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { VltuneError } from '../errors.js';
import { IGNORE_INDEX } from '../ops/linear_cross_entropy.js';
import { IntBuffer } from './int_buffer.js';
import { type Row, readRowBatches } from './read.js';
import { cancelled, isDocument } from './records.js';
import { Renderer, type Segment, type TextFormat } from './render.js';
import type { ChatTemplate } from './template.js';
import type { Tokenizer } from './tokenizer.js';

export interface PrepareOptions {
  readonly tokenizer: Tokenizer;
  /** Needed for text format `chat`. */
  readonly template?: ChatTemplate | undefined;
  /** Default `chat`. */
  readonly textFormat?: TextFormat | undefined;
  /** Default true. */
  readonly assistantOnlyLoss?: boolean | undefined;
  /** Default true. */
  readonly appendEos?: boolean | undefined;
  /** The most tokens a row may have; longer rows lose their end. Default 2048. */
  readonly maxLength?: number | undefined;
  /** Leave out rows that hold an image or a video. Default false: such a row is an error. */
  readonly skipImages?: boolean | undefined;
  readonly onProgress?: ((progress: PrepareProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Where the tokens spill. Default: the system's folder for temporary files. */
  readonly cacheFolder?: string | undefined;
}

export interface PrepareProgress {
  /** The file being read, bytes read of it, and its size. */
  readonly file: string;
  readonly bytesRead: number;
  readonly bytesTotal: number;
  readonly rows: number;
  readonly tokens: number;
}

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
  /** Tokens of the longest row before truncation. */
  readonly longest: number;
}

/** The tokens of one row. */
export interface TokenRow {
  readonly ids: Int32Array;
  /** Labels as in Hugging Face's trainers, not shifted: the id where it is to be learnt, -100 elsewhere. */
  readonly targets: Int32Array;
}

/** What batches are made from. `TokenDataset` is one on disk; tests and other trainers may bring their own. */
export interface RowSource {
  readonly size: number;
  /** Tokens of each row. */
  readonly lengths: Int32Array;
  /** Labels of each row that are predicted: those at its second token and later. */
  readonly targetCounts: Int32Array;
  read(row: number): TokenRow;
}

/** A row on disk: one int32 a token, the id where it is to be learnt, its complement where not. */
export class TokenDataset implements RowSource {
  readonly size: number;
  readonly lengths: Int32Array;
  readonly targetCounts: Int32Array;
  readonly stats: DatasetStats;
  /** SHA-256 over the rows' tokens and labels in order: equal exactly if training sees the same data. */
  readonly fingerprint: string;
  private readonly offsets: Float64Array;
  private readonly path: string | undefined;
  private descriptor: number | undefined;

  /** For `prepareDataset` only. `path` is set where the system cannot unlink an open file. */
  constructor(parts: {
    lengths: Int32Array;
    targetCounts: Int32Array;
    stats: DatasetStats;
    fingerprint: string;
    descriptor: number;
    path: string | undefined;
  }) {
    this.size = parts.lengths.length;
    this.lengths = parts.lengths;
    this.targetCounts = parts.targetCounts;
    this.stats = parts.stats;
    this.fingerprint = parts.fingerprint;
    this.descriptor = parts.descriptor;
    this.path = parts.path;
    this.offsets = new Float64Array(this.size);
    let offset = 0;
    for (let row = 0; row < this.size; row++) {
      this.offsets[row] = offset;
      offset += this.lengths[row]! * 4;
    }
  }

  /** Tokens and labels of a row. One small read of a file that lies in the page cache. */
  read(row: number): TokenRow {
    if (this.descriptor === undefined) throw new VltuneError('ERR_ARGUMENT', 'the dataset is closed');
    if (!Number.isInteger(row) || row < 0 || row >= this.size)
      throw new VltuneError('ERR_ARGUMENT', `row: expected 0 to ${this.size - 1}, got ${row}`);
    const length = this.lengths[row]!;
    const ids = new Int32Array(length);
    const bytes = new Uint8Array(ids.buffer);
    for (let at = 0; at < bytes.length; ) {
      const got = readSync(this.descriptor, bytes, at, bytes.length - at, this.offsets[row]! + at);
      if (got === 0) throw new VltuneError('ERR_IO', 'the file of tokens was cut off');
      at += got;
    }
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
    return { ids, targets };
  }

  /** Frees the file of tokens. Closing twice is harmless. */
  close(): void {
    if (this.descriptor === undefined) return;
    closeSync(this.descriptor);
    this.descriptor = undefined;
    if (this.path !== undefined) rmSync(this.path, { force: true });
  }
}

const SPILL_BYTES = 1 << 20;
const write = promisify(fsWrite);

/** Appends to the file of tokens and hashes what it appends. */
class Spill {
  private readonly descriptor: number;
  private readonly hash = createHash('sha256');
  private readonly block = new Int32Array(SPILL_BYTES / 4);
  private used = 0;

  constructor(descriptor: number) {
    this.descriptor = descriptor;
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
    try {
      for (let at = 0; at < bytes.length; ) at += (await write(this.descriptor, bytes, at)).bytesWritten;
    } catch (cause) {
      throw new VltuneError('ERR_IO', `the file of tokens cannot be written: ${(cause as Error).message}`, { cause });
    }
    this.used = 0;
  }

  /** Hash of all tokens and of the rows' lengths. */
  digest(lengths: Int32Array): string {
    return this.hash.update(new Uint8Array(lengths.buffer, lengths.byteOffset, lengths.byteLength)).digest('hex');
  }
}

/** Opens a file of tokens in a folder. `path` is set where the system cannot unlink an open file. */
function openSpill(folder: string): { descriptor: number; path: string | undefined } {
  const path = join(folder, `vltune-${process.pid}-${randomBytes(8).toString('hex')}.tokens`);
  let descriptor: number;
  try {
    descriptor = openSync(path, 'wx+', 0o600);
  } catch (cause) {
    throw new VltuneError('ERR_IO', `${path}: cannot be written: ${(cause as Error).message}`, { cause });
  }
  try {
    // An unlinked file lives as long as its descriptor: not even a killed process leaves it behind.
    rmSync(path);
    return { descriptor, path: undefined };
  } catch {
    return { descriptor, path };
  }
}

function place(row: Row): string {
  return isDocument(row.file) ? `${row.file}, row ${row.row} (line ${row.line})` : `${row.file}, line ${row.line}`;
}

function renderRow(renderer: Renderer, row: Row): Segment[] {
  try {
    return renderer.segments(row.messages);
  } catch (cause) {
    if (cause instanceof VltuneError && cause.code === 'ERR_BAD_DATA')
      throw new VltuneError('ERR_BAD_DATA', `${place(row)}: ${cause.message}`, { cause });
    throw cause;
  }
}

/** Rows rendered and tokenised at once. */
const ROWS_A_STEP = 256;

type FlatIds = Awaited<ReturnType<Tokenizer['encodeFlat']>>;

/** Rows that are being tokenised. */
interface Step {
  readonly rows: readonly (readonly Segment[])[];
  readonly encoding: Promise<FlatIds>;
}

function startStep(renderer: Renderer, tokenizer: Tokenizer, rows: readonly Row[]): Step {
  const rendered = rows.map((row) => renderRow(renderer, row));
  const encoding = tokenizer.encodeFlat(rendered.flatMap((segments) => segments.map((segment) => segment.text)));
  encoding.catch(() => undefined); // seen by whoever awaits it, should an error elsewhere come first
  return { rows: rendered, encoding };
}

/**
 * Reads, renders and tokenises dataset files. Memory is flat in the number of bytes (16 bytes a row stay).
 *
 * Errors: those of `readRows`; ERR_BAD_DATA where no row has any target; ERR_IO where tokens cannot be spilled; ERR_CANCELLED.
 */
export async function prepareDataset(files: readonly string[], options: PrepareOptions): Promise<TokenDataset> {
  const { tokenizer, maxLength = 2048, textFormat = 'chat', assistantOnlyLoss = true, appendEos = true, signal } = options;
  if (!Number.isInteger(maxLength) || maxLength < 1)
    throw new VltuneError('ERR_USAGE', `maxLength: expected a whole number of at least 1, got ${maxLength}`);
  const { eosToken, specialTokens } = tokenizer;
  const renderer = new Renderer({
    template: options.template,
    textFormat,
    assistantOnlyLoss,
    appendEos,
    eosToken,
    specialTokens,
  });
  const { descriptor, path } = openSpill(options.cacheFolder ?? tmpdir());
  try {
    const spill = new Spill(descriptor);
    const lengths = new IntBuffer();
    const targetCounts = new IntBuffer();
    const stats = { rows: 0, tokens: 0, targetTokens: 0, truncated: 0, skippedImages: 0, dropped: 0, longest: 0 };
    const code = new Int32Array(maxLength);

    const joinRow = (
      segments: readonly Segment[],
      { ids, bounds }: FlatIds,
      first: number,
    ): { length: number; targets: number; total: number } => {
      let length = 0;
      let targets = 0;
      for (const [k, { learn }] of segments.entries()) {
        const start = bounds[first + k]!;
        const kept = Math.min(bounds[first + k + 1]! - start, maxLength - length);
        for (let i = 0; i < kept; i++) code[length + i] = learn ? ids[start + i]! : ~ids[start + i]!;
        if (learn) targets += length === 0 ? Math.max(0, kept - 1) : kept;
        length += kept;
      }
      return { length, targets, total: bounds[first + segments.length]! - bounds[first]! };
    };

    const finish = async ({ rows, encoding }: Step): Promise<void> => {
      if (signal?.aborted) throw cancelled();
      const flat = await encoding;
      let first = 0;
      for (const segments of rows) {
        const { length, targets, total } = joinRow(segments, flat, first);
        first += segments.length;
        stats.longest = Math.max(stats.longest, total);
        if (targets === 0) {
          stats.dropped++;
          continue;
        }
        if (total > length) stats.truncated++;
        stats.rows++;
        stats.tokens += length;
        stats.targetTokens += targets;
        lengths.push(length);
        targetCounts.push(targets);
        await spill.append(code.subarray(0, length));
      }
    };

    const progress = { file: files[0] ?? '', bytesRead: 0, bytesTotal: 0 };
    const batches = readRowBatches(files, {
      skipImages: options.skipImages,
      signal,
      onSkip: () => {
        stats.skippedImages++;
      },
      onBytes: (file, read, total) => {
        progress.file = file;
        progress.bytesRead = read;
        progress.bytesTotal = total;
      },
    });
    // Two steps are under way: while Rust encodes new words of one, this thread cuts the texts of the next.
    let underWay: Step | undefined;
    for await (const batch of batches) {
      for (let at = 0; at < batch.length; at += ROWS_A_STEP) {
        const next = startStep(renderer, tokenizer, batch.slice(at, at + ROWS_A_STEP));
        if (underWay !== undefined) await finish(underWay);
        underWay = next;
      }
      options.onProgress?.({ ...progress, rows: stats.rows, tokens: stats.tokens });
    }
    if (underWay !== undefined) await finish(underWay);
    if (stats.rows === 0) throw noTargets(files, stats, maxLength);
    await spill.flush();
    const kept = lengths.toArray();
    const fingerprint = spill.digest(kept);
    return new TokenDataset({ lengths: kept, targetCounts: targetCounts.toArray(), stats, fingerprint, descriptor, path });
  } catch (cause) {
    closeSync(descriptor);
    if (path !== undefined) rmSync(path, { force: true });
    throw cause;
  }
}

function noTargets(files: readonly string[], stats: DatasetStats, maxLength: number): VltuneError {
  const names = files.join(', ');
  if (stats.skippedImages > 0 && stats.dropped === 0) {
    return new VltuneError(
      'ERR_BAD_DATA',
      `${names}: nothing is left to learn: all ${stats.skippedImages} rows hold images and were skipped`,
    );
  }
  return new VltuneError(
    'ERR_BAD_DATA',
    `${names}: nothing to learn: none of ${stats.dropped} rows has a target within the first ${maxLength} tokens (the longest has ${stats.longest}; see --max-length)`,
  );
}
