/** Parquet files as records, a slice of a row group at a time. Every codec of the format is read; binary columns stay bytes. */
import { VltuneError } from '../errors.js';
import { cancelled, openInput, type RecordOptions } from './records.js';

/** A row group is decoded whole up to this size; a larger one in slices, each of which decodes its column chunks again. */
const SLICE_BYTES = 64 * 1024 * 1024;

export interface ParquetRecord {
  readonly value: unknown;
  /** 1-based row; `line` is the same number. */
  readonly row: number;
  readonly line: number;
}

export async function* parquetRecords(path: string, options: RecordOptions = {}): AsyncGenerator<ParquetRecord[]> {
  const { handle, size } = await openInput(path);
  try {
    const [{ parquetMetadataAsync, parquetReadObjects }, { compressors }] = await Promise.all([
      import('hyparquet'),
      import('hyparquet-compressors'),
    ]);
    const file = {
      byteLength: size,
      slice: async (start: number, end: number = size): Promise<ArrayBuffer> => {
        const bytes = new ArrayBuffer(Math.max(0, end - start));
        const view = new Uint8Array(bytes);
        for (let at = 0; at < view.length; ) {
          const { bytesRead } = await handle.read(view, at, view.length - at, start + at);
          if (bytesRead === 0) throw new Error('the file ends early');
          at += bytesRead;
        }
        return bytes;
      },
    };
    const read = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
      try {
        return await work();
      } catch (cause) {
        throw new VltuneError('ERR_BAD_DATA', `${path}: ${what}: ${(cause as Error).message}`, { cause });
      }
    };
    const metadata = await read('not a Parquet file, or a broken one', () => parquetMetadataAsync(file, { geoparquet: false }));
    let groupStart = 0;
    for (const group of metadata.row_groups) {
      const groupEnd = groupStart + Number(group.num_rows);
      const slices = Math.max(1, Math.ceil(Number(group.total_byte_size) / SLICE_BYTES));
      const rowsASlice = Math.max(1, Math.ceil(Number(group.num_rows) / slices));
      for (let rowStart = groupStart; rowStart < groupEnd; rowStart += rowsASlice) {
        if (options.signal?.aborted) throw cancelled();
        const rowEnd = Math.min(rowStart + rowsASlice, groupEnd);
        const rows = await read(`rows ${rowStart + 1} to ${rowEnd} cannot be read`, () =>
          parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors, utf8: false, geoparquet: false }),
        );
        yield rows.map((value, i) => ({ value, row: rowStart + i + 1, line: rowStart + i + 1 }));
        options.onBytes?.(Math.round((size * rowEnd) / Number(metadata.num_rows)), size);
      }
      groupStart = groupEnd;
    }
  } finally {
    await handle.close();
  }
}
