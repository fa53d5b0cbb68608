/**
 * The thread that decodes a Parquet file for `parquet.ts`. It answers each message with the next slice of rows.
 *
 * A thread of its own because a broken file can make the decoder leave a promise rejected that nobody holds, which would end the
 * process: here it ends the thread, and the reader gets an error. It also keeps decompression off the event loop.
 */
import { open } from 'node:fs/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { compressors as portableCompressors } from 'hyparquet-compressors';

/** What the thread is given. */
export interface ParquetTask {
  readonly path: string;
}

export type ParquetAnswer =
  | { readonly kind: 'rows'; readonly rows: readonly unknown[]; readonly firstRow: number; readonly totalRows: number }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly message: string };

/** Node's own codecs where it has them: they are fast, and end on any input. */
const compressors: typeof portableCompressors = {
  ...portableCompressors,
  GZIP: (input, length) => gunzipSync(input, { maxOutputLength: Math.max(1, length) }),
  BROTLI: (input, length) => brotliDecompressSync(input, { maxOutputLength: Math.max(1, length) }),
};

/** A row group is decoded whole up to this size; a larger one in slices, each of which decodes its column chunks again. */
const SLICE_BYTES = 64 * 1024 * 1024;

async function* slices(path: string): AsyncGenerator<ParquetAnswer> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    const file = {
      byteLength: size,
      slice: async (start: number, end: number = size): Promise<ArrayBuffer> => {
        if (!(start >= 0 && start <= end && end <= size))
          throw new Error(`it points outside the file (bytes ${start} to ${end} of ${size})`);
        const view = new Uint8Array(end - start);
        for (let at = 0; at < view.length; ) {
          const { bytesRead } = await handle.read(view, at, view.length - at, start + at);
          if (bytesRead === 0) throw new Error('the file ends early');
          at += bytesRead;
        }
        return view.buffer;
      },
    };
    const metadata = await parquetMetadataAsync(file, { geoparquet: false });
    const totalRows = Number(metadata.num_rows);
    let groupStart = 0;
    for (const group of metadata.row_groups) {
      const groupRows = Number(group.num_rows);
      // Every row of a group takes part of a bit at least: a count beyond that is a lie that would exhaust memory.
      if (!(groupRows >= 0 && groupRows <= size * 65_536)) throw new Error(`a row group claims ${group.num_rows} rows`);
      const count = Math.max(1, Math.ceil(Number(group.total_byte_size) / SLICE_BYTES));
      const rowsASlice = Math.max(1, Math.ceil(groupRows / count));
      for (let first = 0; first < groupRows; first += rowsASlice) {
        const rowStart = groupStart + first;
        const rowEnd = groupStart + Math.min(first + rowsASlice, groupRows);
        const rows = await parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors, utf8: false, geoparquet: false });
        if (rows.length !== rowEnd - rowStart) throw new Error(`rows ${rowStart + 1} to ${rowEnd} are not all there`);
        yield { kind: 'rows', rows, firstRow: rowStart + 1, totalRows };
      }
      groupStart += groupRows;
    }
  } finally {
    await handle.close();
  }
}

const port = parentPort!;
const answers = slices((workerData as ParquetTask).path);
port.on('message', () => {
  answers.next().then(
    ({ done, value }) => port.postMessage(done ? ({ kind: 'end' } satisfies ParquetAnswer) : value),
    (error: Error) => port.postMessage({ kind: 'error', message: error.message } satisfies ParquetAnswer),
  );
});
