/** Rows of messages to tokens: rendered, the headers of their media read, and all their texts tokenised at once. */
import { dirname } from 'node:path';
import { mapBounded } from '../async.js';
import { VltuneError } from '../errors.js';
import { expand, type Piece } from './expand.js';
import type { FlatIds } from './join_row.js';
import type { MediaReader, SeenMedia } from './media/media_reader.js';
import { mediaOf } from './message.js';
import { nameOf } from './placeholders.js';
import { type Row, rowPlace } from './read.js';
import { cancelled } from './records.js';
import { Renderer, type Segment, type TextFormat } from './render.js';
import type { ChatTemplate } from './template.js';
import type { Tokenizer } from './tokenizer.js';

export interface EncodeRowsOptions {
  readonly tokenizer: Tokenizer;
  /** Needed for text format `chat`. */
  readonly template?: ChatTemplate | undefined;
  /** Default `chat`. */
  readonly textFormat?: TextFormat | undefined;
  /** Default true. */
  readonly assistantOnlyLoss?: boolean | undefined;
  /** Default true. */
  readonly appendEos?: boolean | undefined;
  /** Opens what reads pictures and videos, when the first row with one is met. Without it such a row is an error. */
  readonly media?: (() => Promise<MediaReader>) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Headers of pictures and videos read at once: more than there are threads for it, so that none waits. */
const HEADERS_AT_ONCE = 8;

/** A row that waits to be joined: its texts are among those of its batch. */
export interface ExpandedRow {
  readonly row: Row;
  readonly pieces: readonly Piece[];
  readonly media: readonly SeenMedia[];
}

export interface EncodedRows {
  readonly rows: readonly ExpandedRow[];
  readonly flat: FlatIds;
}

/** Renders rows, looks at their media and tokenises them. */
export class RowEncoder {
  private readonly renderer: Renderer;
  private readonly options: EncodeRowsOptions;
  private opened: Promise<MediaReader> | undefined;

  constructor(options: EncodeRowsOptions) {
    const { tokenizer, textFormat = 'chat', assistantOnlyLoss = true, appendEos = true } = options;
    const { eosToken, specialTokens } = tokenizer;
    this.options = options;
    this.renderer = new Renderer({
      template: options.template,
      textFormat,
      assistantOnlyLoss,
      appendEos,
      eosToken,
      specialTokens,
    });
  }

  /** What read the media of the rows so far; undefined if there were none. */
  get reader(): Promise<MediaReader> | undefined {
    return this.opened;
  }

  async encode(rows: readonly Row[]): Promise<EncodedRows> {
    const { tokenizer } = this.options;
    // Without media nothing is awaited before the texts are cut.
    const reader = rows.some((row) => mediaOf(row.messages).length > 0) ? await this.open() : undefined;
    const rendered = rows.map((row) => this.render(row, reader));
    const media = reader && (await this.see(rows, reader));
    const expanded = rows.map((row, i): ExpandedRow => {
      const own = media?.[i] ?? [];
      const pieces = reader && own.length > 0 ? expand(rendered[i]!, own, reader.tokens, reader.mergeSize) : rendered[i]!;
      return { row, pieces, media: own };
    });
    const texts = expanded.flatMap(({ pieces }) => pieces.flatMap((piece) => ('id' in piece ? [] : [piece.text])));
    return { rows: expanded, flat: await tokenizer.encodeFlat(texts) };
  }

  private async open(): Promise<MediaReader | undefined> {
    if (this.options.textFormat !== 'plain') this.opened ??= this.options.media?.();
    return this.opened;
  }

  /** The media of each row, their headers read. */
  private async see(rows: readonly Row[], reader: MediaReader): Promise<SeenMedia[][]> {
    const { signal } = this.options;
    const waiting = rows.flatMap((row, i) => mediaOf(row.messages).map((item) => ({ row, i, item })));
    const seen = await mapBounded(waiting, HEADERS_AT_ONCE, ({ row, item }) => {
      if (signal?.aborted) throw cancelled();
      return reader.see(item, dirname(row.file), `${rowPlace(row)}: ${nameOf(item)}`, signal);
    });
    const byRow: SeenMedia[][] = rows.map(() => []);
    for (const [k, { i }] of waiting.entries()) byRow[i]!.push(seen[k]!);
    return byRow;
  }

  private render(row: Row, reader: MediaReader | undefined): Segment[] {
    try {
      return this.renderer.segments(row.messages, reader?.tokens);
    } catch (cause) {
      if (cause instanceof VltuneError && (cause.code === 'ERR_BAD_DATA' || cause.code === 'ERR_UNSUPPORTED'))
        throw new VltuneError(cause.code, `${rowPlace(row)}: ${cause.message}`, { cause });
      throw cause;
    }
  }
}
