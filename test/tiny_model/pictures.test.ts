import test from 'ava';
import sharp from 'sharp';
import { Tokenizer } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { describe } from '../../scripts/tiny-model/picture_descriptions.js';
import {
  askable,
  FORM_NAMES,
  formSpec,
  PICTURE_CATEGORIES,
  type PictureQuestion,
} from '../../scripts/tiny-model/picture_questions.js';
import { isRight, score } from '../../scripts/tiny-model/picture_score.js';
import { askedPictures, pictureRows, png } from '../../scripts/tiny-model/pictures.js';
import { Random } from '../../scripts/tiny-model/random.js';
import {
  arrangement,
  COLOUR_NAMES,
  drawScene,
  type Scene,
  SHAPE_NAMES,
  SIDES,
  type Thing,
} from '../../scripts/tiny-model/scenes.js';

const TRAIN = [...askedPictures({ side: 'train', seed: 1, count: 6000, mostQuestions: 3 })];

test('the same seed asks the same of the same pictures, and another seed of others', (t) => {
  const some = (seed: number): unknown[] => [...askedPictures({ side: 'train', seed, count: 40, mostQuestions: 3 })];
  t.deepEqual(some(1), TRAIN.slice(0, 40));
  t.notDeepEqual(some(2), TRAIN.slice(0, 40));
});

test('what is to be seen in a test or validation picture is in no training picture, whatever the seeds', (t) => {
  const shown = SIDES.map((side) =>
    [1, 2, 3].flatMap((seed) => [...askedPictures({ side, seed, count: 1500 })].map(({ scene }) => arrangement(scene))),
  );
  const sets = shown.map((list) => new Set(list));
  for (const [i, set] of sets.entries()) {
    t.true(set.size > 800, `${set.size}`);
    for (const other of sets.slice(i + 1)) for (const one of set) t.false(other.has(one), one);
  }
});

test('every answer of a form is right as often as the others, and categories are asked alike', (t) => {
  for (const [asked, least] of [
    [TRAIN, 0.85],
    [[...askedPictures({ side: 'test', seed: 1, count: 1200 })], 0.7],
  ] as const) {
    const questions = asked.flatMap((picture) => picture.questions);
    const count = (test: (question: PictureQuestion) => boolean): number => questions.filter(test).length;
    for (const category of PICTURE_CATEGORIES) {
      const share = (count((question) => question.category === category) * PICTURE_CATEGORIES.length) / questions.length;
      t.true(Math.abs(share - 1) < 0.02, `${category}: ${share}`);
    }
    for (const form of FORM_NAMES) {
      const { keys } = formSpec(form);
      const inForm = count((question) => question.form === form);
      t.true(inForm > 50, `${form}: ${inForm}`);
      for (const key of keys) {
        const share = (count((question) => question.form === form && question.key === key) * keys.length) / inForm;
        // Five of one shape or colour are rarer than there is demand for.
        t.true(share > (key === '5' ? 0.5 : least) && share < 1.3, `${form}: ${key}: ${share}`);
      }
    }
  }
});

/** The question with its colours, with its shapes, or with both put out of sight. */
function maskings(question: string): string[] {
  const colours = new RegExp(`\\b(${COLOUR_NAMES.join('|')})\\b`, 'g');
  const shapes = new RegExp(`\\b(${SHAPE_NAMES.join('|')})(e?s)?\\b`, 'g');
  return [
    question,
    question.replace(colours, 'C'),
    question.replace(shapes, 'S'),
    question.replace(colours, 'C').replace(shapes, 'S'),
  ];
}

test('a hundred pictures are enough to measure with: no category has less than a fifth of the questions', (t) => {
  const questions = [...askedPictures({ side: 'test', seed: 3407, count: 100 })].flatMap((picture) => picture.questions);
  t.is(questions.length, 100);
  for (const category of PICTURE_CATEGORIES)
    t.true(questions.filter((question) => question.category === category).length >= 20, category);
});

test('who does not look is right no more often than chance lets him be', (t) => {
  // The best that can be done by knowing the words of the question: the commonest answer to them, learned on one half and tried on the other.
  const questions = TRAIN.flatMap((picture) => picture.questions);
  const half = questions.length >> 1;
  for (let masking = 0; masking < 4; masking++) {
    const answers = new Map<string, Map<string, number>>();
    for (const { question, key } of questions.slice(0, half)) {
      const words = maskings(question)[masking]!;
      const counts = answers.get(words) ?? new Map<string, number>();
      answers.set(words, counts.set(key, (counts.get(key) ?? 0) + 1));
    }
    for (const form of FORM_NAMES) {
      const guesses = questions.slice(half).flatMap((question) => {
        const counts = question.form === form && answers.get(maskings(question.question)[masking]!);
        return counts ? [[...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0] === question.key] : [];
      });
      if (guesses.length < 100) continue;
      const chance = 1 / formSpec(form).keys.length;
      const right = guesses.filter(Boolean).length / guesses.length;
      t.true(right < chance + 0.12, `${form}: ${right} of ${guesses.length} with ${masking}, by chance ${chance}`);
    }
  }
});

// ---- The answers, worked out from the sentences alone.

const PLURALS = new Map(SHAPE_NAMES.map((shape) => [shape === 'cross' ? 'crosses' : `${shape}s`, shape]));
const COLOURS = new Set<string>(COLOUR_NAMES);

/** The things that words such as "the red shape", "no crosses" or "2 red shapes" speak of. */
function meant({ things }: Scene, words: string): Thing[] {
  const names = words.split(' ');
  const colour = names.find((word) => COLOURS.has(word));
  const shape = names.flatMap((word) => PLURALS.get(word) ?? SHAPE_NAMES.find((name) => name === word) ?? [])[0];
  return things.filter((thing) => (colour ?? thing.colour) === thing.colour && (shape ?? thing.shape) === thing.shape);
}

const SIDE_RULES: Readonly<Record<string, (a: { x: number; y: number }, b: { x: number; y: number }) => boolean>> = {
  left: (a, b) => a.x < b.x,
  right: (a, b) => a.x > b.x,
  top: (a, b) => a.y < b.y,
  above: (a, b) => a.y < b.y,
  bottom: (a, b) => a.y > b.y,
  below: (a, b) => a.y > b.y,
};

/** Whether a sentence is true of a scene; throws if it does not understand it. */
function isTrue(scene: Scene, sentence: string): boolean {
  const text = sentence.replace(/^(Yes|No), /, '').toLowerCase();
  const middle = { x: scene.width / 2, y: scene.height / 2 };
  const one = (words: string): Thing => {
    const found = meant(scene, words);
    if (found.length !== 1) throw new Error(`${words} means ${found.length} things`);
    return found[0]!;
  };
  let match = /^there (is|are) (\w+) (.+)\.$/.exec(text);
  if (match) {
    const number = meant(scene, match[3]!).length;
    return number === (match[2] === 'no' ? 0 : Number(match[2])) && match[1] === (number === 1 ? 'is' : 'are');
  }
  match = /^(the .+ shape) is a (\w+)\.$/.exec(text);
  if (match) return one(match[1]!).shape === match[2];
  match = /^i see a (.+)\.$/.exec(text);
  if (match) return scene.things.length === 1 && one(match[1]!).shape === match[1];
  match = /^(the .+) is (?:on|at) the (left|right|top|bottom)\.$/.exec(text);
  if (match) return SIDE_RULES[match[2]!]!(one(match[1]!), middle);
  match = /^(the .+) is (left|right|above|below) (?:of )?(the .+)\.$/.exec(text);
  if (match) return SIDE_RULES[match[2]!]!(one(match[1]!), one(match[3]!));
  match = /^(the .+) is (\w+)\.$/.exec(text);
  if (match && COLOURS.has(match[2]!)) return one(match[1]!).colour === match[2];
  throw new Error(`not understood: ${sentence}`);
}

test('every answer is true of its picture, and agrees with yes, no and the key', (t) => {
  const forms = new Set<string>();
  for (const { scene, questions } of TRAIN) {
    for (const question of questions) {
      forms.add(question.form);
      t.true(isTrue(scene, question.answer), `${question.answer} ${JSON.stringify(scene.things)}`);
      t.true(isRight(question, question.answer), question.answer);
      t.true(formSpec(question.form).keys.includes(question.key));
      if (question.kind !== 'truth') continue;
      t.is(question.answer.startsWith('Yes'), question.key === 'yes');
      // "Is the circle red?" as a statement is true just where the answer is yes.
      const asked = /^(?:Is|Is it true that|Would you say that) (the .+?) (?:is )?((?:left|right) of the .+|\w+)\?$/.exec(
        question.question,
      )!;
      t.is(isTrue(scene, `${asked[1]} is ${asked[2]}.`), question.key === 'yes', question.question);
    }
  }
  t.is(forms.size, FORM_NAMES.length);
});

test('nothing is asked that the picture leaves open', (t) => {
  for (const { scene } of TRAIN.slice(0, 400)) {
    const sides = new Map<string, string>();
    for (const { form, key, values } of askable(scene)) {
      for (const words of [values.r, values.s]) if (words !== undefined) t.is(meant(scene, words).length, 1, `${form}: ${words}`);
      if (form === 'shape of') t.is(scene.things.filter(({ colour }) => colour === values.c).length, 1);
      if (form === 'only shape') t.is(scene.things.length, 1);
      // One question, one answer.
      const question = JSON.stringify([form, values.r, values.s, values.z, values.c, values.w, values.p]);
      if (form === 'shape on a side' || !sides.has(question)) sides.set(question, key);
      t.is(sides.get(question), key, question);
      if (form === 'left or right') t.true(Math.abs(meant(scene, values.r!)[0]!.x / scene.width - 0.5) >= 0.12);
    }
  }
});

// ---- Descriptions.

test('a description names each thing from left to right, in the part of the picture where it stands', (t) => {
  const places = new Set<string>();
  for (const { scene } of TRAIN.slice(0, 1000)) {
    const { answer } = describe(scene, new Random(1));
    const parts = answer.replace(/^I see (.+)\.$/, '$1').split(', ');
    const things = [...scene.things].sort((a, b) => a.x - b.x);
    t.is(parts.length, things.length);
    for (const [i, { colour, shape, x, y }] of things.entries()) {
      const [, name, place] = /^(an? \w+ \w+) (.+)$/.exec(parts[i]!)!;
      t.regex(name!, new RegExp(`^${colour === 'orange' ? 'an' : 'a'} ${colour} ${shape}$`));
      places.add(place!);
      const side = (share: number, low: string, high: string) =>
        share < 0.38 ? [low] : share > 0.62 ? [high] : Math.abs(share - 0.5) < 0.119 ? [] : undefined;
      const [down, across] = [side(y / scene.height, 'top', 'bottom'), side(x / scene.width, 'left', 'right')];
      if (down && across) t.deepEqual(place!.match(/top|bottom|left|right/g) ?? [], [...down, ...across], answer);
    }
  }
  t.is(places.size, 9);
});

test('of the rows a share is described, the others are asked as ever', async (t) => {
  const options = { side: 'train', seed: 1, count: 100, mostQuestions: 3 } as const;
  const plain: string[] = [];
  const mixed: string[] = [];
  for await (const row of pictureRows(options)) plain.push(JSON.stringify(row));
  for await (const row of pictureRows({ ...options, described: 0.5 })) mixed.push(JSON.stringify(row));
  const others = mixed.filter((row, i) => row !== plain[i]);
  t.true(others.length > 30 && others.length < 70, `${others.length}`);
  for (const row of others) t.regex(row, /"content":"I see an? [^"]+\."\}\]\}$/);
});

// ---- Scoring.

test('an answer is right if it says the word that counts and no other of its kind, in whatever tone', (t) => {
  const cases: readonly (readonly [Parameters<typeof isRight>[0], readonly string[], readonly string[]])[] = [
    [
      { kind: 'colour', key: 'red' },
      ['The circle is red.', 'red', 'Aye! It is RED.'],
      ['The circle is blue.', 'red or blue', 'It is not white but red.', 'reddish', '', 'The red one is brown.'],
    ],
    [{ kind: 'shape', key: 'star' }, ['The star is red.', 'A star!'], ['The heart is red.', 'stars', 'star, circle']],
    [
      { kind: 'number', key: '3' },
      ['There are 3 shapes.', 'Three.', 'three: 3'],
      ['There are 13 shapes.', '33', 'There are 3 or 4.', 'There are no shapes.', '120'],
    ],
    [{ kind: 'number', key: '0' }, ['There are no stars.', 'None', '0', 'zero'], ['There is 1 star.', 'No, 1.']],
    [
      { kind: 'side', key: 'left' },
      ['The circle is on the left.', 'left of the star'],
      ['on the right', 'left above', 'leftmost'],
    ],
    [{ kind: 'truth', key: 'no' }, ['No, the circle is red.', 'no'], ['Yes, it is.', 'yes and no', 'I know not.']],
  ];
  for (const [question, right, wrong] of cases) {
    for (const answer of right) t.true(isRight(question, answer), `${question.key}: ${answer}`);
    for (const answer of wrong) t.false(isRight(question, answer), `${question.key}: ${answer}`);
  }
});

test('a score counts by category', (t) => {
  const questions = TRAIN.flatMap((picture) => picture.questions).slice(0, 200);
  const all = score(
    questions,
    questions.map(({ answer }) => answer),
  );
  t.deepEqual(all.all, { asked: 200, right: 200 });
  t.is(
    PICTURE_CATEGORIES.reduce((sum, category) => sum + all[category].asked, 0),
    200,
  );
  const none = score(questions, Array(200).fill('I see nothing.'));
  t.is(none.all.right, 0);
  t.throws(() => score(questions, []), { instanceOf: RangeError });
});

// ---- Rows and files.

test('a PNG holds the pixels as they were drawn', async (t) => {
  for (const { scene } of TRAIN.slice(0, 20)) {
    const canvas = drawScene(scene);
    const bytes = await png(canvas);
    t.true(bytes.length < 8000);
    const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
    t.deepEqual([info.width, info.height, info.channels], [canvas.width, canvas.height, 3]);
    t.true(data.equals(canvas.pixels));
  }
});

test('a training row begins with the picture and has a turn for each question', async (t) => {
  let i = 0;
  for await (const { messages } of pictureRows({ side: 'train', seed: 1, count: 60, mostQuestions: 3 })) {
    const { questions } = TRAIN[i++]!;
    t.is(messages.length, 2 * questions.length);
    t.deepEqual(
      messages.filter(({ role }) => role === 'assistant').map(({ content }) => content),
      questions.map(({ answer }) => answer),
    );
    const [first, ...others] = messages.filter(({ role }) => role === 'user').map(({ content }) => content);
    t.true(Array.isArray(first));
    const [image, text] = first as { type: string; image: string; text: string }[];
    t.regex(image!.image, /^data:image\/png;base64,/);
    t.true(text!.text.length > 0);
    for (const other of others) t.is(typeof other, 'string');
  }
  t.is(i, 60);
});

test('the shipped tokenizer writes the words in a few tokens, and gives them back', async (t) => {
  const tokenizer = await Tokenizer.load(`${PACKAGE_ROOT}/models/vltune-tiny`);
  const texts = TRAIN.slice(0, 1500).flatMap(({ questions }) => questions.flatMap(({ question, answer }) => [question, answer]));
  const encoded = await tokenizer.encodeBatch(texts);
  t.true(encoded.reduce((sum, ids) => sum + ids.length, 0) / texts.length < 10);
  for (const [i, ids] of encoded.entries()) {
    t.true(ids.length <= 32, texts[i]);
    t.is(await tokenizer.decode([...ids]), texts[i]!);
  }
});
