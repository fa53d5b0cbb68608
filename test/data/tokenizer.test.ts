import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer as RustTokenizer } from '@anush008/tokenizers';
import test from 'ava';
import fc from 'fast-check';
import { type DecodeStream, Tokenizer } from '../../lib/data/tokenizer.js';
import { QWEN3, readJson, TINY, temporaryFolder, throwsCode } from './fixtures.js';

interface Tokens {
  readonly eos: number;
  readonly pad: number;
  readonly size: number;
  readonly cases: readonly { text: string; ids: number[]; decoded: string; without_special: string }[];
}

const tokenizer = await Tokenizer.load(QWEN3);
const rust = RustTokenizer.fromFile(join(QWEN3, 'tokenizer.json'));
const { eos, pad, size, cases } = readJson<Tokens>('tokens.json');

async function inRust(texts: readonly string[]): Promise<number[][]> {
  const encodings = await rust.encodeBatch([...texts], { addSpecialTokens: false });
  return encodings.map((encoding) => encoding.getIds());
}

async function ours(texts: readonly string[]): Promise<number[][]> {
  return (await tokenizer.encodeBatch(texts)).map((ids) => [...ids]);
}

async function streamed(stream: DecodeStream, ids: readonly number[]): Promise<string> {
  let text = '';
  for (const id of ids) text += await stream.push(id);
  return text + (await stream.end());
}

test("texts have the ids of transformers' tokenizer, one by one, in a batch, and when they come again", async (t) => {
  const texts = cases.map(({ text }) => text);
  for (const [i, ids] of (await ours(texts)).entries()) t.deepEqual(ids, cases[i]!.ids, JSON.stringify(texts[i]));
  for (const { text, ids } of cases) t.deepEqual([...(await tokenizer.encode(text))], ids, JSON.stringify(text));
  for (const { text, ids } of cases)
    t.deepEqual([...(await tokenizer.encode(text, { addSpecialTokens: true }))], ids, JSON.stringify(text));
});

test("ids decode to transformers' texts", async (t) => {
  for (const { ids, decoded, without_special } of cases) {
    t.is(await tokenizer.decode(ids, { skipSpecial: false }), decoded);
    t.is(await tokenizer.decode(ids), without_special);
  }
});

test('ids decoded one by one give the same text, and never half a character', async (t) => {
  for (const { ids, decoded, without_special } of cases) {
    t.is(await streamed(tokenizer.decodeStream({ skipSpecial: false }), ids), decoded);
    t.is(await streamed(tokenizer.decodeStream(), ids), without_special);
  }
  const stream = tokenizer.decodeStream();
  const family = await tokenizer.encode('👩‍👩‍👧');
  const parts: string[] = [];
  for (const id of family) parts.push(await stream.push(id));
  t.true(parts.includes(''));
  t.false(parts.join('').includes('\ufffd'));
});

test('a character that never becomes whole comes out at the end', async (t) => {
  const stream = tokenizer.decodeStream();
  const parts = await tokenizer.encode('\u{13080}');
  t.true(parts.length > 1);
  t.is(await stream.push(parts[0]!), '');
  t.regex(await stream.end(), /^\ufffd+$/);
});

test('special tokens and sizes are those of the config', (t) => {
  t.is(tokenizer.eosToken, '<|im_end|>');
  t.is(tokenizer.eosId, eos);
  t.is(tokenizer.padId, pad);
  t.is(tokenizer.bosId, null);
  t.is(tokenizer.vocabSize, size);
  t.deepEqual(tokenizer.stopIds, [eos], 'without generation_config.json the eos token stops');
  t.is(tokenizer.tokenToId('<|im_start|>'), 151644);
  t.is(tokenizer.idToToken(151644), '<|im_start|>');
  t.is(tokenizer.tokenToId('no such token'), null);
  t.is(tokenizer.idToToken(size), null);
  t.true(tokenizer.specialTokens.includes('<|im_end|>'));
  t.false(tokenizer.specialTokens.includes('<think>'));
});

/** Texts of the things that decide where a text is cut. */
const cutting = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "'",
        "'s",
        "'LL",
        "'ſ",
        ' ',
        '  ',
        '\n',
        '\r\n',
        '\t',
        '\v',
        'a',
        'Z',
        '9',
        '½',
        '.',
        '!?',
        '<|im_end|>',
        '<think>',
        '<',
        '|>',
        'é',
        'e\u0301',
        '日',
        '😀',
        '\u200d',
        '\u00a0',
        '\u3000',
        'ſ',
        '\u212a',
        '\x00',
      ),
      fc.string({ maxLength: 5 }),
      fc.string({ unit: 'grapheme', maxLength: 3 }),
      fc.string({ unit: 'binary', maxLength: 2 }),
    ),
    { maxLength: 25 },
  )
  .map((parts) => parts.join(''));

test('any text has the same ids through the cache as in Rust alone', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(cutting, { minLength: 1, maxLength: 10 }), async (texts) => {
      t.deepEqual(await ours(texts), await inRust(texts));
    }),
    { numRuns: 500 },
  );
});

test('every character is cut from its neighbours as in Rust', async (t) => {
  // Each code point after a letter, before a letter, between digits, spaces and signs.
  const texts: string[] = [];
  for (let start = 0; start < 0x30000; start += 64) {
    let text = '';
    for (let point = start; point < start + 64; point++) {
      if (point >= 0xd800 && point < 0xe000) continue;
      const character = String.fromCodePoint(point);
      text += `a${character}b ${character}1${character} .${character}\n`;
    }
    if (text !== '') texts.push(text);
  }
  for (let at = 0; at < texts.length; at += 64) {
    const part = texts.slice(at, at + 64);
    const [mine, theirs] = [await ours(part), await inRust(part)];
    for (const [i, ids] of mine.entries())
      if (ids.join() !== theirs[i]!.join()) t.fail(`U+${((at + i) * 64).toString(16)} and the 63 after it`);
  }
  t.pass();
});

test('a text of many stretches has the ids of Rust, wherever they meet', async (t) => {
  const ends = ['\n   \n x', '日本 語', '😀😀!', "'RE né", '   \u3000x', '\r\n\r\n  \n', '１２ 3'];
  const texts = ends.map((end, i) => `${'é'.repeat(300 + i)}${end}`.repeat(900).slice(0, 262_144 - 4 + i) + end);
  for (const [i, ids] of (await inRust(texts)).entries()) t.deepEqual(await ours([texts[i]!]), [ids], ends[i]);
});

test('no text is too long to be cut', async (t) => {
  const ids = await tokenizer.encode('word '.repeat(4_000_000));
  t.true(ids.length > 4_000_000);
});

test('stop ids come from generation_config.json', async (t) => {
  const tiny = await Tokenizer.load(TINY);
  t.deepEqual(
    tiny.stopIds,
    (JSON.parse(readFileSync(join(TINY, 'generation_config.json'), 'utf8')) as { eos_token_id: number[] }).eos_token_id,
  );
});

const BROKEN: readonly (readonly [title: string, name: string, content: string | undefined, message: RegExp])[] = [
  ['no tokenizer.json', 'tokenizer.json', undefined, /tokenizer\.json: no such file in the model folder/],
  ['an empty tokenizer.json', 'tokenizer.json', '', /tokenizer\.json: not a tokenizer/],
  ['a tokenizer.json of something else', 'tokenizer.json', '{"a":1}', /tokenizer\.json: not a tokenizer/],
  [
    'a cut tokenizer.json',
    'tokenizer.json',
    '{"version":"1.0","model":{"type":"BPE","vocab":{"a":0',
    /tokenizer\.json: not a tokenizer/,
  ],
  ['a broken tokenizer_config.json', 'tokenizer_config.json', '{', /tokenizer_config\.json: not a JSON object/],
  ['a list for a config', 'generation_config.json', '[]', /generation_config\.json: not a JSON object/],
  ['an eos token that is no token', 'tokenizer_config.json', '{"eos_token":"</s>"}', /eos_token is "<\/s>", which is no token/],
  ['stop ids that are no ids', 'generation_config.json', '{"eos_token_id":["x"]}', /eos_token_id: expected a token id or a list/],
];

for (const [title, name, content, message] of BROKEN) {
  test(`${title} is refused`, async (t) => {
    const folder = temporaryFolder(t);
    for (const file of ['tokenizer.json', 'tokenizer_config.json'])
      if (file !== name) copyFileSync(join(TINY, file), join(folder, file));
    if (content !== undefined) writeFileSync(join(folder, name), content);
    await throwsCode(t, () => Tokenizer.load(folder), 'ERR_BAD_CHECKPOINT', message);
  });
}

test('a tokenizer.json whose vocabulary comes first is read as well', async (t) => {
  const folder = temporaryFolder(t);
  const { model, ...rest } = JSON.parse(readFileSync(join(TINY, 'tokenizer.json'), 'utf8')) as { model: object };
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ model, ...rest }));
  copyFileSync(join(TINY, 'tokenizer_config.json'), join(folder, 'tokenizer_config.json'));
  const [usual, turned] = [await Tokenizer.load(TINY), await Tokenizer.load(folder)];
  t.deepEqual(await turned.encode('Hello <|im_end|> you'), await usual.encode('Hello <|im_end|> you'));
  t.deepEqual(turned.specialTokens, usual.specialTokens);
  t.is(turned.vocabSize, usual.vocabSize);
});

test('a tokenizer that the cache does not know goes to Rust whole', async (t) => {
  const folder = temporaryFolder(t);
  const file = JSON.parse(readFileSync(join(TINY, 'tokenizer.json'), 'utf8')) as { pre_tokenizer: unknown };
  file.pre_tokenizer = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true };
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(file));
  const other = await Tokenizer.load(folder);
  const same = RustTokenizer.fromFile(join(folder, 'tokenizer.json'));
  for (const text of ['Hello you', ' Hello', '', "it's 12 <|im_end|>x"])
    t.deepEqual([...(await other.encode(text))], (await same.encode(text)).getIds());
  t.is(other.eosId, null);
});
