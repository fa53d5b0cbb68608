/**
 * The model's tokenizer: tokenizer.json through the Rust library of Hugging Face, with a cache of pieces in front of it for long runs.
 *
 * Text is encoded as `AutoTokenizer` does: what looks like an added token becomes that token. Nothing is put around the text unless
 * `addSpecialTokens` is given.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Tokenizer as RustTokenizer } from '@anush008/tokenizers';
import { VltuneError } from '../errors.js';
import { IntBuffer } from './int_buffer.js';
import { MissingPieces, PieceCache, type TokenizerFile } from './pieces.js';

export interface EncodeOptions {
  /** Let the post-processor add what it adds around a whole text (Qwen's adds nothing). Default false. */
  readonly addSpecialTokens?: boolean;
}

/** Turns ids into text one by one; what is not yet a whole character is held back. */
export interface DecodeStream {
  /** The text that this id completes; often ''. */
  push(id: number): Promise<string>;
  /** What was held back, with U+FFFD for characters that never became whole. */
  end(): Promise<string>;
}

/** Texts sent to Rust at once: its encodings are large objects, freed only by garbage collection. */
const RUST_BATCH = 1024;

function describeToken(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (typeof value === 'object' && value !== null && typeof (value as { content?: unknown }).content === 'string') {
    return (value as { content: string }).content;
  }
  return null;
}

/** A JSON object in a file; an empty one where there is no file. */
async function readJson(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return {};
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: ${message}`, { cause });
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('expected an object');
    return value as Record<string, unknown>;
  } catch (cause) {
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: not a JSON object: ${(cause as Error).message}`, { cause });
  }
}

async function readBytes(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new VltuneError(
      'ERR_BAD_CHECKPOINT',
      code === 'ENOENT' ? `${path}: no such file in the model folder` : `${path}: ${message}`,
      { cause },
    );
  }
}

/**
 * tokenizer.json without its vocabulary and merges, which Rust has read. They come last in every file that Hugging Face's library
 * writes, and parsing them here as well would cost more memory than the rest of a run; a file in another order is parsed whole.
 */
function settingsOf(bytes: Buffer): TokenizerFile {
  const vocabulary = bytes.indexOf('"vocab"');
  const head = bytes.toString('utf8', 0, Math.max(0, vocabulary)).replace(/,\s*$/, '');
  try {
    const file = JSON.parse(`${head}}}`) as TokenizerFile;
    if (file.model !== undefined && file.pre_tokenizer !== undefined && file.added_tokens !== undefined) return file;
  } catch {
    // another order, or "vocab" in an added token
  }
  const { added_tokens, normalizer, pre_tokenizer, model } = JSON.parse(bytes.toString('utf8')) as TokenizerFile;
  return {
    added_tokens: added_tokens ?? [],
    normalizer: normalizer ?? null,
    pre_tokenizer,
    model: { type: model?.type ?? '', dropout: model?.dropout ?? null },
  };
}

export class Tokenizer {
  /** Entries of the vocabulary, added tokens included: one more than the largest id. */
  readonly vocabSize: number;
  /** Text and id of the special tokens that tokenizer_config.json names; null where it names none. */
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly padToken: string | null;
  readonly unkToken: string | null;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly padId: number | null;
  /** Ids that end a generation: generation_config.json's, else the eos token's. */
  readonly stopIds: readonly number[];
  /** Contents of all added tokens marked special. */
  readonly specialTokens: readonly string[];
  /** SHA-256 of tokenizer.json, in hex. */
  readonly fingerprint: string;
  private readonly rust: RustTokenizer;
  private readonly pieces: PieceCache | undefined;

  private constructor(
    rust: RustTokenizer,
    file: TokenizerFile,
    fingerprint: string,
    config: Record<string, unknown>,
    generation: Record<string, unknown>,
  ) {
    this.rust = rust;
    this.fingerprint = fingerprint;
    this.pieces = PieceCache.forTokenizer(file);
    let largest = rust.getVocabSize(false) - 1;
    for (const { id } of file.added_tokens ?? []) largest = Math.max(largest, id);
    this.vocabSize = largest + 1;
    this.specialTokens = (file.added_tokens ?? [])
      .filter((token) => (token as { special?: boolean }).special)
      .map((token) => token.content);
    this.bosToken = describeToken(config.bos_token);
    this.eosToken = describeToken(config.eos_token);
    this.padToken = describeToken(config.pad_token);
    this.unkToken = describeToken(config.unk_token);
    const idOf = (token: string | null, name: string): number | null => {
      if (token === null) return null;
      const id = this.tokenToId(token);
      if (id === null)
        throw new VltuneError(
          'ERR_BAD_CHECKPOINT',
          `tokenizer_config.json: ${name} is ${JSON.stringify(token)}, which is no token of tokenizer.json`,
        );
      return id;
    };
    this.bosId = idOf(this.bosToken, 'bos_token');
    this.eosId = idOf(this.eosToken, 'eos_token');
    this.padId = idOf(this.padToken, 'pad_token');
    this.stopIds = this.stops(generation.eos_token_id);
  }

  private stops(given: unknown): number[] {
    if (given === undefined || given === null) return this.eosId === null ? [] : [this.eosId];
    const ids: unknown[] = Array.isArray(given) ? given : [given];
    for (const id of ids) {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
        throw new VltuneError(
          'ERR_BAD_CHECKPOINT',
          `generation_config.json: eos_token_id: expected a token id or a list of them, got ${JSON.stringify(given)}`,
        );
      }
    }
    return ids as number[];
  }

  /**
   * Loads tokenizer.json, and tokenizer_config.json and generation_config.json where they are, from a model folder.
   * Throws ERR_BAD_CHECKPOINT for a missing or broken file.
   */
  static async load(folder: string): Promise<Tokenizer> {
    const path = join(folder, 'tokenizer.json');
    const [bytes, config, generation, { default: library }] = await Promise.all([
      readBytes(path),
      readJson(join(folder, 'tokenizer_config.json')),
      readJson(join(folder, 'generation_config.json')),
      import('@anush008/tokenizers'),
    ]);
    let rust: RustTokenizer;
    let file: TokenizerFile;
    try {
      rust = library.Tokenizer.fromFile(path);
      // Padding and truncation of the file are settings of some training run, not of the model.
      rust.disablePadding();
      rust.disableTruncation();
      file = settingsOf(bytes);
    } catch (cause) {
      throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: not a tokenizer: ${(cause as Error).message}`, { cause });
    }
    return new Tokenizer(rust, file, createHash('sha256').update(bytes).digest('hex'), config, generation);
  }

  tokenToId(token: string): number | null {
    return this.rust.tokenToId(token) ?? null;
  }

  idToToken(id: number): string | null {
    return this.rust.idToToken(id) ?? null;
  }

  /** Ids of a text. */
  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    return (await this.encodeBatch([text], options))[0]!;
  }

  /** Ids of each text. */
  async encodeBatch(texts: readonly string[], options: EncodeOptions = {}): Promise<Int32Array[]> {
    if (options.addSpecialTokens) return this.encodeInRust(texts, options);
    const { ids, bounds } = await this.encodeFlat(texts);
    return texts.map((_, i) => ids.slice(bounds[i]!, bounds[i + 1]!));
  }

  /** Ids of all texts in one array; text i has `ids[bounds[i]]` to `ids[bounds[i + 1] - 1]`. For many short texts. */
  async encodeFlat(texts: readonly string[]): Promise<{ ids: Int32Array; bounds: Int32Array }> {
    const { pieces } = this;
    const missing = new MissingPieces();
    const buffer = new IntBuffer();
    const bounds = new Int32Array(texts.length + 1);
    for (const [i, text] of texts.entries()) {
      if (pieces?.covers(text)) pieces.encode(text, buffer, missing);
      else if (text !== '') buffer.push(missing.standIn(text));
      bounds[i + 1] = buffer.length;
    }
    if (missing.pieces.length === 0) return { ids: buffer.toArray(), bounds };
    const fresh = await this.encodeInRust(missing.pieces, {});
    // A text that Rust took whole stands in the same list; it is longer than what is kept, or a piece like any other.
    if (pieces !== undefined)
      for (const [k, piece] of missing.pieces.entries()) if (pieces.covers(piece)) pieces.add(piece, fresh[k]!);
    const ids = new IntBuffer();
    for (let i = 0, at = 0; i < texts.length; i++) {
      for (; at < bounds[i + 1]!; at++) {
        const id = buffer.items[at]!;
        if (id >= 0) ids.push(id);
        else ids.pushAll(fresh[~id]!, 0, fresh[~id]!.length);
      }
      bounds[i + 1] = ids.length;
    }
    return { ids: ids.toArray(), bounds };
  }

  private async encodeInRust(texts: readonly string[], options: EncodeOptions): Promise<Int32Array[]> {
    const result: Int32Array[] = [];
    const settings = { addSpecialTokens: options.addSpecialTokens ?? false };
    for (let at = 0; at < texts.length; at += RUST_BATCH) {
      const encodings = await this.rust.encodeBatch(texts.slice(at, at + RUST_BATCH), settings);
      for (const encoding of encodings) result.push(Int32Array.from(encoding.getIds()));
    }
    return result;
  }

  /** Text of ids. Special tokens are left out unless `skipSpecial` is false. */
  async decode(ids: ArrayLike<number>, options: { readonly skipSpecial?: boolean } = {}): Promise<string> {
    return this.rust.decode(Array.from(ids), options.skipSpecial ?? true);
  }

  /** A decoder for ids that come one by one. */
  decodeStream(options: { readonly skipSpecial?: boolean } = {}): DecodeStream {
    // Decoders may look at the token before (a space, the bytes of a character), so the fresh text is the difference of two decodings
    // of a window that starts where the text before last became whole.
    let window: number[] = [];
    let whole = 0; // ids of the window whose text was given already
    const fresh = async (): Promise<string> => {
      const given = await this.decode(window.slice(0, whole), options);
      const text = await this.decode(window, options);
      return text.slice(given.length);
    };
    return {
      push: async (id) => {
        window.push(id);
        const text = await fresh();
        if (text === '' || text.endsWith('\ufffd')) return '';
        window = window.slice(whole);
        whole = window.length;
        return text;
      },
      end: async () => {
        const text = await fresh();
        window = [];
        whole = 0;
        return text;
      },
    };
  }
}
