/** Parquet files as records, a slice of a row group at a time. Every codec of the format is read; binary columns stay bytes. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { VltuneError } from '../errors.js';
import type { ParquetAnswer, ParquetTask } from './parquet_worker.js';
import { cancelled, openInput, type RecordOptions } from './records.js';

export interface ParquetRecord {
  readonly value: unknown;
  /** 1-based row; `line` is the same number. */
  readonly row: number;
  readonly line: number;
}

/** Errors: those of opening a file, ERR_BAD_DATA for a file that is no Parquet or a broken one, ERR_CANCELLED. */
export async function* parquetRecords(path: string, options: RecordOptions = {}): AsyncGenerator<ParquetRecord[]> {
  const { handle, size } = await openInput(path);
  await handle.close();
  const worker = new Worker(new URL('./parquet_worker.js', import.meta.url), { workerData: { path } satisfies ParquetTask });
  try {
    for (;;) {
      if (options.signal?.aborted) throw cancelled();
      const answer = await nextSlice(worker).catch((cause: Error) => ({ kind: 'error' as const, message: cause.message }));
      if (answer.kind === 'end') return;
      if (answer.kind === 'error')
        throw new VltuneError('ERR_BAD_DATA', `${path}: not a Parquet file, or a broken one: ${answer.message}`);
      const { rows, firstRow, totalRows } = answer;
      yield rows.map((value, i) => ({ value, row: firstRow + i, line: firstRow + i }));
      options.onBytes?.(Math.min(size, Math.round((size * (firstRow + rows.length - 1)) / Math.max(1, totalRows))), size);
    }
  } finally {
    await worker.terminate();
  }
}

async function nextSlice(worker: Worker): Promise<ParquetAnswer> {
  worker.postMessage('next');
  // An uncaught error in the thread, the end of its memory included, comes as an `error` event, which rejects.
  const [answer] = (await once(worker, 'message')) as [ParquetAnswer];
  return answer;
}
