/**
 * A cache in front of the Rust tokenizer that makes long runs over text several times faster.
 *
 * A byte-level BPE tokenizer cuts a text at its added tokens, then into pieces by one regular expression, and merges inside each piece
 * alone: a piece has the same ids wherever it stands. So texts are cut here, pieces seen before come from a table, and only new ones
 * go to Rust. The cut must be the very one that Rust makes; the cache therefore serves only
 * - tokenizers whose normalizer, pre-tokenizer, model and added tokens are the known kinds (`forTokenizer` returns undefined for others),
 * - texts of code points whose letter, number and space properties have been the same in every Unicode version since 9
 *   (`covers`; a test compares all of them with Rust).
 * Everything else takes the Rust path.
 */
import type { IntBuffer } from './int_buffer.js';
import { escapeRegExp } from './text.js';

/** A way to cut: the expression for any text, and a scanner that finds the same cuts in ASCII text. */
interface Splitter {
  readonly expression: RegExp;
  /** End of the piece that starts at `at`; every unit of the text is ASCII. */
  readonly nextAscii: (text: string, at: number) => number;
}

/** Kinds of ASCII characters, as the expression tells them apart. */
const OTHER = 0;
const LETTER = 1;
const DIGIT = 2;
const SPACE = 3;
const LINE_END = 4;
const KINDS: Uint8Array = Uint8Array.from({ length: 128 }, (_, unit) => {
  const character = String.fromCharCode(unit);
  if (/[a-zA-Z]/.test(character)) return LETTER;
  if (/[0-9]/.test(character)) return DIGIT;
  if (/[\r\n]/.test(character)) return LINE_END;
  return /\s/.test(character) ? SPACE : OTHER;
});

/** End of an English contraction ('s 't 're 've 'm 'll 'd, in any case) whose apostrophe is at `at`; `at` where there is none. */
function contractionEnd(text: string, at: number): number {
  switch (text.charCodeAt(at + 1) | 0x20) {
    case 0x73: // s
    case 0x74: // t
    case 0x6d: // m
    case 0x64: // d
      return at + 2;
    case 0x72: // re
    case 0x76: // ve
      return (text.charCodeAt(at + 2) | 0x20) === 0x65 ? at + 3 : at;
    case 0x6c: // ll
      return (text.charCodeAt(at + 2) | 0x20) === 0x6c ? at + 3 : at;
    default:
      return at;
  }
}

/** The alternatives of Qwen's expression, in their order. */
function nextQwenPiece(text: string, at: number): number {
  const length = text.length;
  const unit = text.charCodeAt(at);
  const kind = KINDS[unit]!;
  if (unit === 0x27 && at + 1 < length) {
    const end = contractionEnd(text, at);
    if (end > at) return end;
  }
  if (kind === DIGIT) return at + 1;
  let end = at + 1;
  const next = end < length ? KINDS[text.charCodeAt(end)]! : -1;
  if (kind === LETTER || (next === LETTER && kind !== LINE_END)) {
    while (end < length && KINDS[text.charCodeAt(end)] === LETTER) end++;
    return end;
  }
  if (kind === OTHER || (unit === 0x20 && next === OTHER)) {
    while (end < length && KINDS[text.charCodeAt(end)] === OTHER) end++;
    while (end < length && KINDS[text.charCodeAt(end)] === LINE_END) end++;
    return end;
  }
  // White space: up to its last line end; else all of it at the end of the text; else all but its last, which goes with what follows.
  let lastLineEnd = kind === LINE_END ? at : -1;
  for (; end < length; end++) {
    const white = KINDS[text.charCodeAt(end)]!;
    if (white === LINE_END) lastLineEnd = end;
    else if (white !== SPACE) break;
  }
  if (lastLineEnd >= 0) return lastLineEnd + 1;
  return end < length && end - at > 1 ? end - 1 : end;
}

/** Splitters by the Oniguruma source of their expression. `\s` differs in U+0085 and U+FEFF, which `covers` leaves out. */
const SPLITTERS: ReadonlyMap<string, Splitter> = new Map([
  [
    // Qwen2, Qwen2.5, Qwen3
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    {
      expression:
        /'(?:[sSſtTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu,
      nextAscii: nextQwenPiece,
    },
  ],
]);

/** Searches for the first that is not; a match of a whole long text would need a stack as long. */
const UNCOVERED =
  // biome-ignore lint/suspicious/noMisleadingCharacterClass: combining marks and joiners stand for themselves
  /[^\0-\x84\x86-\u052f\u0590-\u06ff\u0900-\u097f\u0e00-\u0e7f\u1100-\u11ff\u1e00-\u218f\u2190-\u2bff\u2e00-\u30ff\u3200-\u33ff\u3400-\u4db5\u4e00-\u9fd5\uac00-\ud7a3\uf900-\ufaff\ufe00-\ufe0f\uff00-\uffef\u{1f000}-\u{1faff}]/u;
const BEYOND_ASCII = /[^\0-\x7f]/;
/** Units of a text beyond ASCII that the expression is given at once: it needs stack for each character of a piece. */
const STRETCH = 1 << 18;
const MAY_NEED_NORMALIZER = /[^\0-\u02ff]/;

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
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

function splitterOf(file: TokenizerFile): Splitter | undefined {
  const sequence = file.pre_tokenizer as PreTokenizer | null | undefined;
  const [split, bytes] = sequence?.type === 'Sequence' ? (sequence.pretokenizers ?? []) : [];
  if (sequence?.pretokenizers?.length !== 2 || split?.type !== 'Split' || bytes?.type !== 'ByteLevel') return undefined;
  if (split.behavior !== 'Isolated' || split.invert || bytes.add_prefix_space || bytes.use_regex !== false) return undefined;
  return SPLITTERS.get(split.pattern?.Regex ?? '');
}

/** Pieces in the table; when it is full it starts anew, so memory stays within some 25 MB. */
const MAX_PIECES = 1 << 18;
const SLOTS = 1 << 20;
/** Longer pieces are rare and cost memory: they are never kept. */
const MAX_KEPT = 48;

/** Pieces and their ids, without an object for each: hashing over flat arrays. Keys are UTF-16 units. */
class PieceTable {
  private readonly slots = new Int32Array(SLOTS); // entry + 1, or 0
  private readonly hashes = new Int32Array(MAX_PIECES);
  private readonly keyStarts = new Int32Array(MAX_PIECES + 1);
  private readonly idStarts = new Int32Array(MAX_PIECES + 1);
  private keys = new Uint16Array(1 << 20);
  private ids = new Int32Array(1 << 19);
  private size = 0;

  /** FNV-1a over UTF-16 units. */
  private static hash(text: string, start: number, end: number): number {
    let hash = 0x811c9dc5;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    return hash ^ (hash >>> 15);
  }

  /** Appends the ids of `text[start, end)` to `out`; false where the piece is not in the table. */
  appendIds(text: string, start: number, end: number, out: IntBuffer): boolean {
    const hash = PieceTable.hash(text, start, end);
    const length = end - start;
    const { slots, hashes, keyStarts, keys } = this;
    for (let slot = hash & (SLOTS - 1); ; slot = (slot + 1) & (SLOTS - 1)) {
      const entry = slots[slot]! - 1;
      if (entry < 0) return false;
      if (hashes[entry] !== hash) continue;
      const key = keyStarts[entry]!;
      if (keyStarts[entry + 1]! - key !== length) continue;
      let i = 0;
      while (i < length && keys[key + i] === text.charCodeAt(start + i)) i++;
      if (i < length) continue;
      out.pushAll(this.ids, this.idStarts[entry]!, this.idStarts[entry + 1]!);
      return true;
    }
  }

  add(piece: string, ids: Int32Array): void {
    if (piece.length > MAX_KEPT) return;
    if (this.size === MAX_PIECES) this.clear();
    const entry = this.size++;
    const key = this.keyStarts[entry]!;
    const first = this.idStarts[entry]!;
    if (key + piece.length > this.keys.length) this.keys = growTo(this.keys, new Uint16Array(this.keys.length * 2));
    while (first + ids.length > this.ids.length) this.ids = growTo(this.ids, new Int32Array(this.ids.length * 2));
    for (let i = 0; i < piece.length; i++) this.keys[key + i] = piece.charCodeAt(i);
    this.ids.set(ids, first);
    this.keyStarts[entry + 1] = key + piece.length;
    this.idStarts[entry + 1] = first + ids.length;
    const hash = PieceTable.hash(piece, 0, piece.length);
    this.hashes[entry] = hash;
    let slot = hash & (SLOTS - 1);
    while (this.slots[slot] !== 0) slot = (slot + 1) & (SLOTS - 1);
    this.slots[slot] = entry + 1;
  }

  private clear(): void {
    this.slots.fill(0);
    this.size = 0;
  }
}

function growTo<T extends Uint16Array | Int32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

/** Pieces that wait for Rust, and the number each has in the output until then. */
export class MissingPieces {
  readonly pieces: string[] = [];
  private readonly numbers = new Map<string, number>();

  /** The stand-in for a piece: negative, so that no id looks like it. */
  standIn(piece: string): number {
    let number = this.numbers.get(piece);
    if (number === undefined) {
      number = this.pieces.length;
      this.numbers.set(piece, number);
      this.pieces.push(piece);
    }
    return ~number;
  }
}

export class PieceCache {
  private readonly splitter: Splitter;
  private readonly normalizes: boolean;
  private readonly added: RegExp | undefined;
  private readonly addedStarts: readonly string[];
  private readonly addedIds: ReadonlyMap<string, number>;
  private readonly table = new PieceTable();

  private constructor(splitter: Splitter, normalizes: boolean, added: readonly AddedToken[]) {
    this.splitter = splitter;
    this.normalizes = normalizes;
    this.addedIds = new Map(added.filter((token) => token.content !== '').map((token) => [token.content, token.id]));
    // Rust takes the leftmost match, and of several there the longest.
    const contents = [...this.addedIds.keys()].sort((a, b) => b.length - a.length);
    this.addedStarts = [...new Set(contents.map((content) => String.fromCodePoint(content.codePointAt(0)!)))];
    if (contents.length > 0) {
      this.added = new RegExp(contents.map(escapeRegExp).join('|'), 'gu');
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
    return !UNCOVERED.test(text);
  }

  /** Appends the ids of a covered text to `out`, and for pieces that are not in the table their stand-in from `missing`. */
  encode(text: string, out: IntBuffer, missing: MissingPieces): void {
    const { added } = this;
    if (added === undefined || !this.addedStarts.some((start) => text.includes(start))) {
      this.plain(text, out, missing);
      return;
    }
    let at = 0;
    added.lastIndex = 0;
    for (let match = added.exec(text); match !== null; match = added.exec(text)) {
      if (match.index > at) this.plain(text.slice(at, match.index), out, missing);
      out.push(this.addedIds.get(match[0])!);
      at = match.index + match[0].length;
    }
    if (at < text.length) this.plain(at === 0 ? text : text.slice(at), out, missing);
  }

  /** Text between added tokens. */
  private plain(text: string, out: IntBuffer, missing: MissingPieces): void {
    const { table, splitter } = this;
    if (!BEYOND_ASCII.test(text)) {
      for (let at = 0; at < text.length; ) {
        const end = splitter.nextAscii(text, at);
        if (!table.appendIds(text, at, end, out)) out.push(missing.standIn(text.slice(at, end)));
        at = end;
      }
      return;
    }
    const normal = this.normalizes && MAY_NEED_NORMALIZER.test(text) ? text.normalize('NFC') : text;
    for (let at = 0; at < normal.length; ) {
      const pieces = normal.slice(at, at + STRETCH).match(splitter.expression) ?? [];
      // What follows may lengthen the last piece, and white space the one before it too: they are cut again with what follows.
      const sure = at + STRETCH >= normal.length ? pieces.length : pieces.length - 2;
      if (sure <= 0) {
        out.push(missing.standIn(normal.slice(at)));
        return;
      }
      for (const piece of pieces.slice(0, sure)) {
        if (!table.appendIds(piece, 0, piece.length, out)) out.push(missing.standIn(piece));
        at += piece.length;
      }
    }
  }

  /** Remembers the ids of a piece. */
  add(piece: string, ids: Int32Array): void {
    this.table.add(piece, ids);
  }
}
