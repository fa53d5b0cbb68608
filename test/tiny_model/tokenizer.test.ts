import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ChatTemplate, Tokenizer } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { ADDED_TOKENS, addedTokenIds, tokenizerJson, trainBpe } from '../../scripts/tiny-model/bpe.js';
import { makeCorpus } from '../../scripts/tiny-model/corpus.js';
import { askedPictures } from '../../scripts/tiny-model/pictures.js';
import { recipeTexts, recipeWords, tokenizerTexts } from '../../scripts/tiny-model/recipe.js';
import { SEED, SEVERAL, TEXT_ROWS } from '../../scripts/tiny-model/settings.js';

const MODEL = join(PACKAGE_ROOT, 'models/vltune-tiny');
const tokenizer = await Tokenizer.load(MODEL);

/** What transformers 5.17's AutoTokenizer gives for the shipped folder. */
const TRANSFORMERS: readonly (readonly [string, readonly number[]])[] = [
  ['Who are you?', [949, 300, 307, 30]],
  ["Où habites-tu ?  J'ai 12 ans.", [46, 609, 454, 65, 301, 296, 1596, 585, 220, 586, 6, 635, 220, 16, 17, 412, 82, 13]],
  [
    '私は小さな言語モデルです。',
    [163, 100, 223, 1206, 161, 108, 237, 529, 243, 1832, 164, 101, 222, 1798, 252, 1502, 95, 1502, 229, 1502, 104, 1440, 1395],
  ],
  [
    "tabs\t\tand\n\nlines, e\u0301 DON'T 🙂",
    [83, 725, 82, 197, 197, 569, 198, 198, 950, 296, 11, 728, 489, 46, 45, 6, 51, 220, 172, 253, 247, 224],
  ],
  ['<|im_start|>user\nHi<|im_end|>\n<think>x</think>', [2023, 277, 198, 584, 2024, 198, 2046, 87, 2047]],
];

test('a pair that occurs most is merged first, of equal pairs the one with the smaller ids, and never across words', (t) => {
  const { vocab, merges } = trainBpe(['abab abab ab', 'cd cd', 'xy'], 256 + ADDED_TOKENS.length + 4);
  t.deepEqual(merges, [
    ['a', 'b'],
    ['c', 'd'],
    ['Ġ', 'ab'],
    ['x', 'y'],
  ]);
  t.is(vocab.size, 260);
  t.is(vocab.get('!'), 0);
  t.is(vocab.get('ab'), 256);
});

test('a run of one letter is merged from its left, once for each pair', (t) => {
  const { merges } = trainBpe(['aaaaa'], 256 + ADDED_TOKENS.length + 2);
  t.deepEqual(merges, [
    ['a', 'a'],
    ['aa', 'a'],
  ]);
});

test('texts that hold too few pairs are refused', (t) => {
  t.throws(() => trainBpe(['ab'], 2048), {
    instanceOf: RangeError,
    message: /1 merges are all that these texts hold; 1766 are wanted/,
  });
});

test('added tokens follow the learned ones, in the order of the published tokenizer', (t) => {
  const ids = addedTokenIds(trainBpe(['ab'], 256 + ADDED_TOKENS.length + 1));
  t.is(ids.get('<|endoftext|>'), 257);
  t.is(ids.get('</think>'), 257 + 25);
});

test('the shipped tokenizer has 2,048 words and is what training gives for its texts', async (t) => {
  t.is(tokenizer.vocabSize, 2048);
  const corpus = makeCorpus({ seed: SEED, rows: TEXT_ROWS, words: recipeWords(PACKAGE_ROOT) });
  t.deepEqual(
    JSON.parse(readFileSync(join(MODEL, 'tokenizer.json'), 'utf8')),
    JSON.parse(JSON.stringify(tokenizerJson(trainBpe(tokenizerTexts(corpus, askedPictures(SEVERAL), PACKAGE_ROOT), 2048)))),
  );
});

test('text of the corpus and of the identity comes back from its tokens', async (t) => {
  const corpus = makeCorpus({ seed: 3407, rows: 4000, words: recipeWords(PACKAGE_ROOT) });
  const texts = [...corpus.rows.flatMap(({ messages }) => messages.map(({ content }) => content)), ...recipeTexts(PACKAGE_ROOT)];
  const encoded = await tokenizer.encodeBatch(texts);
  for (const [i, ids] of encoded.entries()) t.is(await tokenizer.decode([...ids]), texts[i]!);
});

test('ids are those of transformers, for other scripts, white space and special tokens too', async (t) => {
  for (const [text, ids] of TRANSFORMERS) t.deepEqual([...(await tokenizer.encode(text))], [...ids], JSON.stringify(text));
});

test("the chat template writes Qwen3-VL's turns, with places for pictures", async (t) => {
  const template = await ChatTemplate.load(MODEL, tokenizer);
  const text = template.render(
    [
      { role: 'system', content: 'Be kind.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Who are ' },
          { type: 'text', text: 'you?' },
        ],
      },
      { role: 'assistant', content: 'I am Ada.' },
    ],
    { addGenerationPrompt: true },
  );
  t.is(
    text,
    '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nI am Ada.<|im_end|>\n<|im_start|>assistant\n',
  );
});
