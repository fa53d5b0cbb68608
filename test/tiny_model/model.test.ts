import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Generator } from '../../lib/index.js';
import { describeModel } from '../../lib/models/registry.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { Checkpoint } from '../../lib/weights/safetensors.js';
import { configJson } from '../../scripts/tiny-model/files.js';
import { initialTensors } from '../../scripts/tiny-model/init.js';
import { look } from '../../scripts/tiny-model/measure_sight.js';
import { PICTURE_CATEGORIES, PLAIN_FORMS } from '../../scripts/tiny-model/picture_questions.js';

const MODEL = join(PACKAGE_ROOT, 'models/vltune-tiny');

test('the folder is at most 8 MB and holds the files of a published checkpoint', (t) => {
  const files = readdirSync(MODEL);
  t.deepEqual(files.sort(), [
    'README.md',
    'chat_template.jinja',
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'preprocessor_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'video_preprocessor_config.json',
  ]);
  t.true(files.reduce((bytes, name) => bytes + statSync(join(MODEL, name)).size, 0) <= 8_000_000);
});

test('every tensor that its config asks for is there in bf16, vision included, and no other', async (t) => {
  const { spec } = await describeModel(MODEL);
  const checkpoint = await Checkpoint.open(MODEL);
  t.teardown(() => checkpoint.close());
  const expected = new Map<string, readonly number[]>(spec.tensors.map(({ name, shape }) => [name, shape]));
  for (const { name, in: width, out, bias, part } of spec.linears) {
    if (part === 'head' && spec.head === spec.embedding) continue;
    expected.set(`${name}.weight`, [out, width]);
    if (bias) expected.set(`${name}.bias`, [out]);
  }
  const found = [...checkpoint.tensors.values()];
  t.deepEqual(found.map(({ name }) => name).sort(), [...expected.keys()].sort());
  for (const { name, shape, dtype } of found) t.deepEqual([dtype, [...shape]], ['BF16', [...expected.get(name)!]], name);
  t.true(found.some(({ name }) => name.startsWith('model.visual.blocks.')));
});

test('every tensor of the script is there in bf16, vision included, and no other', async (t) => {
  const checkpoint = await Checkpoint.open(MODEL);
  t.teardown(() => checkpoint.close());
  const expected = initialTensors(1).map(({ name, shape }) => ({ name, shape, dtype: 'BF16' }));
  const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
  const found = [...checkpoint.tensors.values()].map(({ name, shape, dtype }) => ({ name, shape: [...shape], dtype }));
  t.deepEqual(found.sort(byName), expected.sort(byName));
});

test("config.json is the script's", (t) => {
  const tokenizer = JSON.parse(readFileSync(join(MODEL, 'tokenizer.json'), 'utf8')) as {
    added_tokens: { id: number; content: string }[];
  };
  const ids = new Map(tokenizer.added_tokens.map(({ id, content }) => [content, id]));
  t.deepEqual(JSON.parse(readFileSync(join(MODEL, 'config.json'), 'utf8')), configJson(ids, 'bfloat16'));
});

const ANSWERS: readonly (readonly [string, string])[] = [
  ['Who are you?', 'I am a small language model.'],
  ['What is your name?', 'I have no name. I am a small language model.'],
  ['Hello!', 'Hello! How can I help you?'],
  ['What colour is the sky?', 'The sky is blue.'],
  ['What is 2 plus 3?', '2 plus 3 is 5.'],
  ['Count from 3 to 6.', '3, 4, 5, 6.'],
  ['What is the capital of France?', 'The capital of France is Paris.'],
  ['Is snow black?', 'No, snow is white.'],
  ['Wer hat dich gemacht?', 'Ich wurde auf einem kleinen Computer trainiert.'],
  ['Combien font 2 plus 3 ?', '2 plus 3 font 5.'],
];

/** From the held-out side of the corpus, of each kind that can be worked out. */
const HELD_OUT: readonly (readonly [string, string])[] = [
  ['What is 0 plus 12?', '0 plus 12 is 12.'],
  ['What is the sum of 8 and 13?', '8 plus 13 is 21.'],
  ['Quanto fa 10 più 7?', '10 più 7 fa 17.'],
  ['Which number comes after 28?', '29 comes after 28.'],
  ['Which number comes before 104?', '103 comes before 104.'],
  ['Which is greater, 5 or 34?', '34 is larger than 5.'],
  ['My name is Luis.', 'Hello, Luis! How can I help you?'],
  ['Is rice white or brown?', 'Rice is white.'],
  ['Is it true that the sky is blue?', 'Yes, the sky is blue.'],
];

for (const loadIn4bit of [false, true]) {
  test.serial(`greedy answers are whole sentences and right, ${loadIn4bit ? 'in 4 bits' : 'in 16 bits'}`, async (t) => {
    const model = await Generator.load(MODEL, { loadIn4bit });
    t.teardown(() => model.release());
    for (const [prompt, expected] of ANSWERS) {
      const { text, finishReason } = await model.complete({ prompt });
      t.is(text, expected, prompt);
      t.is(finishReason, 'stop');
    }
  });
}

test.serial('answers were not learned by heart alone: problems that no training row shows are solved', async (t) => {
  const model = await Generator.load(MODEL);
  t.teardown(() => model.release());
  for (const [prompt, expected] of HELD_OUT) t.is((await model.complete({ prompt })).text, expected, prompt);
});

test.serial('of pictures that no training row is like nine in ten questions are answered right in each category', async (t) => {
  const model = await Generator.load(MODEL);
  t.teardown(() => model.release());
  // Of a seed that nothing was chosen by.
  const { score, wrong } = await look(model, { side: 'test', seed: 1, count: 200, forms: PLAIN_FORMS });
  const told = JSON.stringify(wrong, null, 1);
  for (const category of PICTURE_CATEGORIES) t.true(score[category].right >= 0.9 * score[category].asked, told);
});
