/**
 * A dataset as tokens: rows are read, rendered and tokenised in one stream, and their tokens spill to a file that vanishes with the
 * process; only lengths and offsets stay in memory. Of pictures and videos the headers are read, for the tokens they will take.
 */
import { tmpdir } from 'node:os';
import { VltuneError } from '../errors.js';
import { RowCollector } from './collect.js';
import { type EncodedRows, type EncodeRowsOptions, RowEncoder } from './encode.js';
import { mediaOf } from './message.js';
import { readRowBatches } from './read.js';
import { cancelled } from './records.js';
import type { DatasetStats, TokenDataset } from './token_dataset.js';

export interface PrepareOptions extends EncodeRowsOptions {
  /** The most tokens a row may have; longer rows lose their end, and no picture or video stays in part. Default 2048. */
  readonly maxLength?: number | undefined;
  /** Leave out rows that hold a picture, a video or sound. Default false. */
  readonly skipImages?: boolean | undefined;
  readonly onProgress?: ((progress: PrepareProgress) => void) | undefined;
  /** Where tokens and media spill. Default: the system's folder for temporary files. */
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

/** Rows rendered and tokenised at once. */
const ROWS_A_STEP = 256;
/** The same where there are media: what comes from the network is held in memory until its row is on disk. */
const MEDIA_ROWS_A_STEP = 32;

/**
 * Reads, renders and tokenises dataset files. Memory is flat in the number of bytes (16 bytes a row stay, and 40 more a row with media).
 *
 * Errors: those of `readRows`; those of opening a picture or video, named by its row; ERR_BAD_DATA where no row has any target; ERR_IO
 * where tokens cannot be spilled; ERR_CANCELLED.
 */
export async function prepareDataset(files: readonly string[], options: PrepareOptions): Promise<TokenDataset> {
  const { maxLength = 2048 } = options;
  if (!Number.isInteger(maxLength) || maxLength < 1)
    throw new VltuneError('ERR_USAGE', `maxLength: expected a whole number of at least 1, got ${maxLength}`);
  // What fails in one step ends what is under way in the other.
  const stop = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal;
  const encoder = new RowEncoder({ ...options, signal });
  const collector = new RowCollector(options.cacheFolder ?? tmpdir(), maxLength);
  const { stats } = collector;
  try {
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
    // Two steps are under way: while Rust encodes new words of one, and headers are read, this thread cuts the texts of the next.
    let underWay: Promise<EncodedRows> | undefined;
    const finish = async (): Promise<void> => {
      if (underWay === undefined) return;
      if (signal.aborted) throw cancelled();
      await collector.add(await underWay);
    };
    for await (const batch of batches) {
      const step = batch.some(({ messages }) => mediaOf(messages).length > 0) ? MEDIA_ROWS_A_STEP : ROWS_A_STEP;
      for (let at = 0; at < batch.length; at += step) {
        const next = encoder.encode(batch.slice(at, at + step));
        next.catch(() => undefined); // seen by whoever awaits it, should an error elsewhere come first
        await finish();
        underWay = next;
      }
      options.onProgress?.({ ...progress, rows: stats.rows, tokens: stats.tokens });
    }
    await finish();
    if (stats.rows === 0) throw noTargets(files, stats, maxLength);
    return await collector.finish(await encoder.reader);
  } catch (cause) {
    stop.abort();
    collector.close();
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
  const lost =
    stats.lostMedia > 0
      ? `; ${stats.lostMedia} of them hold images or videos that do not fit whole, the first is ${stats.firstLostMedia}`
      : '';
  return new VltuneError(
    'ERR_BAD_DATA',
    `${names}: nothing to learn: none of ${stats.dropped} rows has a target within the first ${maxLength} tokens (the longest has ` +
      `${stats.longest}; see --max-length)${lost}`,
  );
}
