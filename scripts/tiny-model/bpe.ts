/**
 * Trains a byte-level BPE of the kind GPT-2 and Qwen use and writes it as a `tokenizer.json`: text is normalised to NFC, cut by Qwen's regular
 * expression, its UTF-8 bytes are written as printable characters, and merges join neighbours by frequency.
 */
/** Qwen2's and Qwen3's pre-tokenizer, as it stands in tokenizer.json (Oniguruma syntax). */
export const QWEN_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** The same for JavaScript, which has no inline flags in Node 20. */
const PIECES =
  /'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu;

/** Qwen3-VL's added tokens in the order of their ids; `special` ones are left out of decoded text. */
export const ADDED_TOKENS: readonly { content: string; special: boolean }[] = [
  ...[
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
    '<|object_ref_start|>',
    '<|object_ref_end|>',
    '<|box_start|>',
    '<|box_end|>',
    '<|quad_start|>',
    '<|quad_end|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|vision_pad|>',
    '<|image_pad|>',
    '<|video_pad|>',
  ].map((content) => ({ content, special: true })),
  ...[
    '<tool_call>',
    '</tool_call>',
    '<|fim_prefix|>',
    '<|fim_middle|>',
    '<|fim_suffix|>',
    '<|fim_pad|>',
    '<|repo_name|>',
    '<|file_sep|>',
    '<tool_response>',
    '</tool_response>',
    '<think>',
    '</think>',
  ].map((content) => ({ content, special: false })),
];

/** GPT-2's bytes_to_unicode: the printable character that stands for each byte; the first is the character of id 0. */
function byteAlphabet(): { characters: string[]; ofByte: string[] } {
  const printable: number[] = [];
  for (const [from, to] of [
    ['!', '~'],
    ['¡', '¬'],
    ['®', 'ÿ'],
  ] as const) {
    for (let c = from.charCodeAt(0); c <= to.charCodeAt(0); c++) printable.push(c);
  }
  const ofByte = new Array<string>(256);
  for (const byte of printable) ofByte[byte] = String.fromCharCode(byte);
  const others: string[] = [];
  for (let byte = 0; byte < 256; byte++) {
    if (ofByte[byte] !== undefined) continue;
    ofByte[byte] = String.fromCharCode(256 + others.length);
    others.push(ofByte[byte]!);
  }
  return { characters: [...printable.map((c) => String.fromCharCode(c)), ...others], ofByte };
}

export interface Bpe {
  /** token → id; bytes, then merges in order, without the added tokens */
  vocab: Map<string, number>;
  merges: [string, string][];
}

/** A piece of text as the ids of its bytes, how often it occurs. */
interface Word {
  ids: number[];
  count: number;
}

/**
 * Learns merges until bytes + merges + added tokens make `vocabSize` ids. The most frequent pair is merged first; of equally frequent pairs the one
 * with the smaller ids, so that the result depends on the texts alone.
 *
 * @throws RangeError where the texts hold too few different pieces for so many merges
 */
export function trainBpe(texts: Iterable<string>, vocabSize: number): Bpe {
  const { characters, ofByte } = byteAlphabet();
  const tokens = [...characters];
  const vocab = new Map(tokens.map((token, id) => [token, id]));
  const idOfByte = ofByte.map((character) => vocab.get(character)!);

  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [piece] of text.normalize('NFC').matchAll(PIECES)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  const words: Word[] = [...counts].map(([piece, count]) => ({
    ids: [...Buffer.from(piece, 'utf8')].map((byte) => idOfByte[byte]!),
    count,
  }));

  // A pair is one number, left * 2^16 + right, so that it can key a map.
  const pairCounts = new Map<number, number>();
  const wordsWith = new Map<number, Set<Word>>();
  const note = (word: Word, sign: 1 | -1) => {
    for (let i = 0; i + 1 < word.ids.length; i++) {
      const pair = word.ids[i]! * 65536 + word.ids[i + 1]!;
      pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + sign * word.count);
      if (sign === 1) {
        const list = wordsWith.get(pair);
        if (list === undefined) wordsWith.set(pair, new Set([word]));
        else list.add(word);
      }
    }
  };
  for (const word of words) note(word, 1);

  const merges: [string, string][] = [];
  const wanted = vocabSize - characters.length - ADDED_TOKENS.length;
  while (merges.length < wanted) {
    let best = -1;
    let bestCount = 0;
    for (const [pair, count] of pairCounts) {
      if (count > bestCount || (count === bestCount && count > 0 && pair < best)) {
        best = pair;
        bestCount = count;
      }
    }
    if (best < 0) throw new RangeError(`${merges.length} merges are all that these texts hold; ${wanted} are wanted`);
    const left = Math.floor(best / 65536);
    const right = best % 65536;
    const merged = tokens.length;
    tokens.push(tokens[left]! + tokens[right]!);
    vocab.set(tokens[merged]!, merged);
    merges.push([tokens[left]!, tokens[right]!]);
    for (const word of wordsWith.get(best)!) {
      note(word, -1);
      word.ids = mergePair(word.ids, left, right, merged);
      note(word, 1);
    }
    pairCounts.delete(best);
  }
  return { vocab, merges };
}

function mergePair(ids: readonly number[], left: number, right: number, merged: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out.push(merged);
      i++;
    } else out.push(ids[i]!);
  }
  return out;
}

/** Ids of the added tokens: they follow the learned ones. */
export function addedTokenIds(bpe: Bpe): Map<string, number> {
  return new Map(ADDED_TOKENS.map(({ content }, i) => [content, bpe.vocab.size + i]));
}

/** The `tokenizer.json` of the tokenizers library, as transformers and @anush008/tokenizers read it. */
export function tokenizerJson(bpe: Bpe): object {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false };
  const ids = addedTokenIds(bpe);
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: ADDED_TOKENS.map(({ content, special }) => ({
      id: ids.get(content),
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special,
    })),
    normalizer: { type: 'NFC' },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [{ type: 'Split', pattern: { Regex: QWEN_PATTERN }, behavior: 'Isolated', invert: false }, byteLevel],
    },
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(bpe.vocab),
      merges: bpe.merges,
    },
  };
}
