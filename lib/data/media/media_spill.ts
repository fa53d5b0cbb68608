/**
 * The media of a dataset's rows on disk, beside its tokens: what each row has, where in the row, and the bytes that came with rows
 * rather than in files. In memory stay three numbers for each row that has any.
 */
import type { Grid } from '../../models/grid.js';
import { TemporaryFile } from '../temporary_file.js';
import type { MediaFile, SeenMedia } from './media_reader.js';

/** A picture or video in a row. */
export interface PlacedMedia extends Pick<SeenMedia, 'kind' | 'grid' | 'key' | 'files' | 'list' | 'fps'> {
  /** What errors about it start with. */
  readonly place: string;
  /** The first token of each of its runs: one of a picture, one for each temporal patch of a video. */
  readonly starts: readonly number[];
}

/** As a record has it: bytes are elsewhere in the file. */
type StoredFile = { readonly path: string } | { readonly at: number; readonly length: number; readonly name: string };
type Stored = Omit<PlacedMedia, 'files' | 'grid'> & { readonly grid: Grid; readonly files: readonly StoredFile[] };

/** A picture or video of a row as it is read back: the bytes of its files are read when they are asked for. */
export interface StoredMedia extends Omit<PlacedMedia, 'files'> {
  files(): Promise<readonly MediaFile[]>;
}

export class MediaSpill {
  private readonly file: TemporaryFile;
  /** Rows with media in rising order, and where their records lie. */
  private readonly rows: number[] = [];
  private readonly starts: number[] = [];
  private readonly lengths: number[] = [];

  constructor(folder: string) {
    this.file = new TemporaryFile(folder, 'media');
  }

  /** Adds the media of a row; rows come in rising order. */
  async append(row: number, media: readonly PlacedMedia[]): Promise<void> {
    const stored: Stored[] = [];
    for (const { files, ...rest } of media) {
      const kept: StoredFile[] = [];
      for (const file of files) {
        if ('path' in file) kept.push(file);
        else kept.push({ at: await this.file.append(file.bytes), length: file.bytes.length, name: file.name });
      }
      stored.push({ ...rest, files: kept });
    }
    const record = Buffer.from(JSON.stringify(stored));
    this.rows.push(row);
    this.starts.push(await this.file.append(record));
    this.lengths.push(record.length);
  }

  /** The media of a row, in order. */
  read(row: number): StoredMedia[] {
    const index = this.indexOf(row);
    if (index < 0) return [];
    const record = new Uint8Array(this.lengths[index]!);
    this.file.readSync(this.starts[index]!, record);
    const stored = JSON.parse(Buffer.from(record).toString()) as Stored[];
    return stored.map(({ files, ...media }) => ({
      ...media,
      files: () =>
        Promise.all(
          files.map(async (file): Promise<MediaFile> => {
            if ('path' in file) return file;
            return { bytes: await this.file.read(file.at, file.length), name: file.name };
          }),
        ),
    }));
  }

  close(): void {
    this.file.close();
  }

  /** -1 for a row without media. */
  private indexOf(row: number): number {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle]! < row) low = middle + 1;
      else high = middle;
    }
    return this.rows[low] === row ? low : -1;
  }
}
