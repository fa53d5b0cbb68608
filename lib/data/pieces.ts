/**
 * A cache in front of the Rust tokenizer that makes long runs over text five to ten times faster.
 *
 * A byte-level BPE tokenizer cuts a text at its added tokens, then into pieces by one regular expression, and merges inside each piece
 * alone: a piece has the same ids wherever it stands. So texts are cut here, pieces seen before come from a table, and only new ones
 * go to Rust. The cut must be the very one that Rust makes; the cache therefore serves only
 * - tokenizers whose normalizer, pre-tokenizer, model and added tokens are the known kinds (`forTokenizer` returns undefined for others),
 * - texts of code points whose letter, number and space properties have been the same in every Unicode version since 9
 *   (`covers`; a test compares all of them with Rust).
 * Everything else takes the Rust path.
 */

/** Splitting expressions by their Oniguruma source. `\s` differs in U+0085 and U+FEFF, which `covers` leaves out. */
const SPLITTERS: ReadonlyMap<string, RegExp> = new Map([
  [
    // Qwen2, Qwen2.5, Qwen3
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    /'(?:[sSſtTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu,
  ],
]);

const COVERED =
  // biome-ignore lint/suspicious/noMisleadingCharacterClass: combining marks and joiners stand for themselves
  /^[\0-\x84\x86-\u052f\u0590-\u06ff\u0900-\u097f\u0e00-\u0e7f\u1100-\u11ff\u1e00-\u218f\u2190-\u2bff\u2e00-\u30ff\u3200-\u33ff\u3400-\u4db5\u4e00-\u9fd5\uac00-\ud7a3\uf900-\ufaff\ufe00-\ufe0f\uff00-\uffef\u{1f000}-\u{1faff}]*$/u;
const NEEDS_NO_NORMALIZER = /^[\0-\u02ff]*$/;

/** Pieces held in each of the two generations of the table. */
const GENERATION = 1 << 16;
/** Longer pieces are rare and cost memory: they are never kept. */
const LONGEST_KEPT = 64;

type Ids = number | readonly number[];

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly normalized?: boolean;
}

/** The parts of tokenizer.json that decide how a text is cut. */
export interface TokenizerFile {
  readonly added_tokens?: readonly AddedToken[];
  readonly normalizer?: { readonly type: string } | null;
  readonly pre_tokenizer?: unknown;
  readonly model?: { readonly type?: string; readonly dropout?: number | null };
}

interface PreTokenizer {
  readonly type: string;
  readonly pretokenizers?: readonly PreTokenizer[];
  readonly pattern?: { readonly Regex?: string };
  readonly behavior?: string;
  readonly invert?: boolean;
  readonly add_prefix_space?: boolean;
  readonly use_regex?: boolean;
}

function splitterOf(file: TokenizerFile): RegExp | undefined {
  const sequence = file.pre_tokenizer as PreTokenizer | null | undefined;
  const [split, bytes] = sequence?.type === 'Sequence' ? (sequence.pretokenizers ?? []) : [];
  if (sequence?.pretokenizers?.length !== 2 || split?.type !== 'Split' || bytes?.type !== 'ByteLevel') return undefined;
  if (split.behavior !== 'Isolated' || split.invert || bytes.add_prefix_space || bytes.use_regex !== false) return undefined;
  return SPLITTERS.get(split.pattern?.Regex ?? '');
}

/** A growing list of ids, filled by `encode`. */
export class IdBuffer {
  ids: Int32Array = new Int32Array(1 << 12);
  length = 0;

  push(id: number): void {
    if (this.length === this.ids.length) this.grow(1);
    this.ids[this.length++] = id;
  }

  grow(more: number): void {
    const grown = new Int32Array(Math.max(this.ids.length * 2, this.length + more));
    grown.set(this.ids.subarray(0, this.length));
    this.ids = grown;
  }
}

export class PieceCache {
  private readonly splitter: RegExp;
  private readonly normalizes: boolean;
  private readonly added: RegExp | undefined;
  private readonly addedIds: ReadonlyMap<string, number>;
  private young = new Map<string, Ids>();
  private old = new Map<string, Ids>();

  private constructor(splitter: RegExp, normalizes: boolean, added: readonly AddedToken[]) {
    this.splitter = splitter;
    this.normalizes = normalizes;
    this.addedIds = new Map(added.map((token) => [token.content, token.id]));
    // Rust takes the leftmost match, and of several there the longest.
    const contents = [...this.addedIds.keys()].filter((text) => text !== '').sort((a, b) => b.length - a.length);
    if (contents.length > 0) {
      this.added = new RegExp(contents.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'), 'gu');
    }
  }

  /** A cache for this tokenizer, or undefined where its cuts are not known to be ours. */
  static forTokenizer(file: TokenizerFile): PieceCache | undefined {
    const splitter = splitterOf(file);
    const normalizer = file.normalizer?.type;
    const added = file.added_tokens ?? [];
    if (splitter === undefined || (normalizer !== undefined && normalizer !== 'NFC')) return undefined;
    if (file.model?.type !== 'BPE' || file.model.dropout) return undefined;
    if (added.some((token) => token.single_word || token.lstrip || token.rstrip || token.normalized)) return undefined;
    return new PieceCache(splitter, normalizer === 'NFC', added);
  }

  /** Whether this text is cut here as Rust cuts it. */
  covers(text: string): boolean {
    return COVERED.test(text);
  }

  /**
   * Appends the ids of a covered text to `out`. Pieces that are not in the table go to `missing` instead, and the call returns false:
   * `out` is then as it was.
   */
  encode(text: string, out: IdBuffer, missing: Set<string>): boolean {
    const start = out.length;
    const before = missing.size;
    let complete = true;
    if (this.added === undefined) {
      complete = this.plain(text, out, missing);
    } else {
      let at = 0;
      this.added.lastIndex = 0;
      for (let match = this.added.exec(text); match !== null; match = this.added.exec(text)) {
        if (match.index > at) complete = this.plain(text.slice(at, match.index), out, missing) && complete;
        out.push(this.addedIds.get(match[0])!);
        at = match.index + match[0].length;
      }
      if (at === 0) complete = this.plain(text, out, missing);
      else if (at < text.length) complete = this.plain(text.slice(at), out, missing) && complete;
    }
    if (complete && missing.size === before) return true;
    out.length = start;
    return false;
  }

  /** Text between added tokens. */
  private plain(text: string, out: IdBuffer, missing: Set<string>): boolean {
    const normal = this.normalizes && !NEEDS_NO_NORMALIZER.test(text) ? text.normalize('NFC') : text;
    const pieces = normal.match(this.splitter);
    if (pieces === null) return true;
    let complete = true;
    for (const piece of pieces) {
      let ids = this.young.get(piece);
      if (ids === undefined) {
        ids = this.old.get(piece);
        if (ids === undefined) {
          missing.add(piece);
          complete = false;
          continue;
        }
        this.add(piece, ids);
      }
      if (typeof ids === 'number') {
        out.push(ids);
      } else {
        for (const id of ids) out.push(id);
      }
    }
    return complete;
  }

  /** Puts the ids of a piece in the table. A piece too long to keep stays until `trim`. */
  add(piece: string, ids: Ids): void {
    if (this.young.size >= GENERATION) {
      this.old = this.young;
      this.young = new Map();
    }
    // A match is a view of the whole text: a copy lets go of the text.
    this.young.set(piece.length < 13 ? piece : Buffer.from(piece, 'utf16le').toString('utf16le'), ids);
  }

  /** Forgets the pieces too long to keep. */
  forget(pieces: Iterable<string>): void {
    for (const piece of pieces) if (piece.length > LONGEST_KEPT) this.young.delete(piece);
  }
}
