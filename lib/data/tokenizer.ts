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
import { IdBuffer, PieceCache, type TokenizerFile } from './pieces.js';

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
const RUST_BATCH = 256;
const NO_SPECIALS = { addSpecialTokens: false };

function describeToken(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (typeof value === 'object' && value !== null && typeof (value as { content?: unknown }).content === 'string') {
    return (value as { content: string }).content;
  }
  return null;
}

async function readJson(path: string, required: boolean): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' && !required) return {};
    throw new VltuneError(
      'ERR_BAD_CHECKPOINT',
      code === 'ENOENT' ? `${path}: no such file in the model folder` : `${path}: ${message}`,
      { cause },
    );
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('expected an object');
    return value as Record<string, unknown>;
  } catch (cause) {
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: not a JSON object: ${(cause as Error).message}`, { cause });
  }
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
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        code === 'ENOENT' ? `${path}: no such file in the model folder` : `${path}: ${message}`,
        { cause },
      );
    }
    const [config, generation, { default: library }] = await Promise.all([
      readJson(join(folder, 'tokenizer_config.json'), false),
      readJson(join(folder, 'generation_config.json'), false),
      import('@anush008/tokenizers'),
    ]);
    let rust: RustTokenizer;
    let file: TokenizerFile;
    try {
      rust = library.Tokenizer.fromString(text);
      // Padding and truncation of the file are settings of some training run, not of the model.
      rust.disablePadding();
      rust.disableTruncation();
      const { added_tokens, normalizer, pre_tokenizer, model } = JSON.parse(text) as TokenizerFile;
      file = {
        added_tokens: added_tokens ?? [],
        normalizer: normalizer ?? null,
        pre_tokenizer,
        model: { ...(model?.type && { type: model.type }), dropout: model?.dropout ?? null },
      };
    } catch (cause) {
      throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: not a tokenizer: ${(cause as Error).message}`, { cause });
    }
    return new Tokenizer(rust, file, createHash('sha256').update(text).digest('hex'), config, generation);
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
    if (this.pieces === undefined || options.addSpecialTokens) return this.encodeInRust(texts, options);
    const { pieces } = this;
    const result = new Array<Int32Array>(texts.length);
    const buffer = new IdBuffer();
    const incomplete: number[] = [];
    const uncovered: number[] = [];
    const missing = new Set<string>();
    const take = (i: number): boolean => {
      buffer.length = 0;
      if (!pieces.encode(texts[i]!, buffer, missing)) return false;
      result[i] = buffer.ids.slice(0, buffer.length);
      return true;
    };
    for (let i = 0; i < texts.length; i++) {
      if (!pieces.covers(texts[i]!)) uncovered.push(i);
      else if (!take(i)) incomplete.push(i);
    }
    if (missing.size > 0) {
      const fresh = [...missing];
      const ids = await this.encodeInRust(fresh, NO_SPECIALS);
      for (const [i, piece] of fresh.entries()) pieces.add(piece, ids[i]!.length === 1 ? ids[i]![0]! : Array.from(ids[i]!));
      missing.clear();
      // A full table drops its older half while it is filled: what is missing again goes to Rust whole.
      for (const i of incomplete) if (!take(i)) uncovered.push(i);
      pieces.forget(fresh);
    }
    if (uncovered.length > 0) {
      const ids = await this.encodeInRust(
        uncovered.map((i) => texts[i]!),
        options,
      );
      for (const [k, i] of uncovered.entries()) result[i] = ids[k]!;
    }
    return result;
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
