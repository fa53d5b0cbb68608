/**
 * Every question that the tiny model is to answer, with its one right answer, made from the tables in facts.ts and languages.ts. What computes
 * (counting, sums, comparing, repeating) runs over numbers, names and words.
 */
import {
  BASE_IDENTITY,
  CAPITALS,
  COLOURED,
  COLOURS,
  DAYS,
  KINDS,
  LANGUAGE_NAMES,
  LEGS,
  MONTHS,
  NAMES,
  NUMBER_WORDS,
  OPPOSITES,
  ORDINALS,
  SHAPES,
  SINGLES,
  SMALL_TALK,
  SOUNDS,
  UNITS,
  WORDS,
  YOUNG,
} from './facts.js';
import { JAPANESE_TALK, LANGUAGES } from './languages.js';
import { hash32, Random } from './random.js';

export type Category =
  | 'talk'
  | 'identity'
  | 'colours'
  | 'counting'
  | 'sums'
  | 'comparing'
  | 'facts'
  | 'yes'
  | 'no'
  | 'names'
  | 'repeating'
  | 'words'
  | 'languages';

/**
 * What may be held out of training: a whole problem, since its answer can be worked out; a phrasing of a fact that is known from others; nothing,
 * where the words themselves are what must be known (talk, and what the model says of itself).
 */
export type Split = 'problem' | 'phrasing' | 'nothing';

/** One question with its only right answer. */
export interface Question {
  category: Category;
  /** 'en' or another language's code */
  language: string;
  question: string;
  answer: string;
  /** what is asked, whatever the words and the language: '3 + 5' */
  problem: string;
  heldOutBy: Split;
}

const capitalise = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Fills `{x}` from values and `{X}` from the same with a capital first letter. */
export function fill(template: string, values: Readonly<Record<string, string | number>>): string {
  return template.replace(/\{(\w)\}/g, (_, key: string) => {
    const value = values[key.toLowerCase()];
    if (value === undefined) throw new Error(`template "${template}" names {${key}}, which has no value`);
    return key === key.toLowerCase() ? String(value) : capitalise(String(value));
  });
}

const ONSETS = [
  'b',
  'br',
  'd',
  'f',
  'fl',
  'g',
  'gr',
  'h',
  'j',
  'k',
  'l',
  'm',
  'n',
  'p',
  'pr',
  'r',
  's',
  'st',
  't',
  'tr',
  'v',
  'w',
  'z',
];
const VOWELS = ['a', 'e', 'i', 'o', 'u', 'ai', 'ea', 'oo', 'é', 'ü'];
const CODAS = ['', '', 'l', 'n', 'r', 's', 'm', 'k', 'th'];

/** A word that no language has, so that it can only be copied. */
function inventedWord(random: Random): string {
  const syllables = Array.from(
    { length: 1 + random.below(2) },
    () => random.pick(ONSETS) + random.pick(VOWELS) + random.pick(CODAS),
  );
  return syllables.join('') + random.pick(['', 'a', 'o', 'in']);
}

/** Of `repeating`: so many phrases of one to six words, and of `names`: so many invented names. */
const PHRASES = 9000;
const INVENTED_NAMES = 300;

/**
 * Every question there is, in a fixed order; the same words never ask for two answers. `words` are those that the model is to be able to say
 * though nothing here speaks of their meaning: they appear in random order in phrases to repeat.
 */
export function allQuestions(words: readonly string[]): Question[] {
  const found = new Map<string, Question>();
  const add = (
    category: Category,
    language: string,
    problem: string,
    heldOutBy: Split,
    questions: readonly string[],
    answer: string,
  ) => {
    for (const question of questions) {
      const known = found.get(question);
      if (known === undefined) found.set(question, { category, language, question, answer, problem, heldOutBy });
      else if (known.answer !== answer) throw new Error(`"${question}" has two answers: "${known.answer}" and "${answer}"`);
    }
  };
  type Values = Readonly<Record<string, string | number>>;
  /** What must be known: the problem is the answer itself. */
  const know = (category: Category, templates: readonly string[], answer: string, values: Values, language = 'en') => {
    const filled = fill(answer, values);
    add(
      category,
      language,
      filled,
      'phrasing',
      templates.map((template) => fill(template, values)),
      filled,
    );
  };
  /** What can be worked out. */
  const solve = (
    category: Category,
    problem: string,
    templates: readonly string[],
    answer: string,
    values: Values,
    language = 'en',
  ) =>
    add(
      category,
      language,
      problem,
      'problem',
      templates.map((template) => fill(template, values)),
      fill(answer, values),
    );

  for (const [questions, answer] of SMALL_TALK) add('talk', 'en', answer, 'nothing', questions, answer);
  for (const [questions, answer] of BASE_IDENTITY) add('identity', 'en', answer, 'nothing', questions, answer);
  for (const [questions, answer] of SINGLES) add('facts', 'en', answer, 'phrasing', questions, answer);

  for (const [x, y] of COLOURED) {
    know(
      'colours',
      [
        'What colour is {x}?',
        'What color is {x}?',
        'Which colour is {x}?',
        'What is the colour of {x}?',
        'Tell me the colour of {x}.',
        'Name the colour of {x}.',
        'Do you know the colour of {x}?',
        '{X} is what colour?',
      ],
      '{X} is {y}.',
      { x, y },
    );
    for (const z of COLOURS) {
      if (z === y)
        know('yes', ['Is {x} {y}?', 'Is it true that {x} is {y}?', 'Would you say that {x} is {y}?'], 'Yes, {x} is {y}.', {
          x,
          y,
        });
      else {
        know('no', ['Is {x} {z}?', 'Is it true that {x} is {z}?', 'Would you say that {x} is {z}?'], 'No, {x} is {y}.', {
          x,
          y,
          z,
        });
        know('colours', ['Is {x} {y} or {z}?', 'Is {x} {z} or {y}?'], '{X} is {y}.', { x, y, z });
      }
    }
  }

  for (const [x, y] of CAPITALS) {
    know(
      'facts',
      [
        'What is the capital of {x}?',
        'Which city is the capital of {x}?',
        'Name the capital of {x}.',
        'Tell me the capital of {x}.',
        'Do you know the capital of {x}?',
        "What is {x}'s capital?",
      ],
      'The capital of {x} is {y}.',
      { x, y },
    );
    know('facts', ['Where is {y}?', 'In which country is {y}?', '{Y} is in which country?'], '{Y} is in {x}.', { x, y });
    know(
      'yes',
      ['Is {y} the capital of {x}?', 'Is it true that {y} is the capital of {x}?', 'Is the capital of {x} {y}?'],
      'Yes, the capital of {x} is {y}.',
      { x, y },
    );
    for (const [, z] of CAPITALS)
      if (z !== y)
        know(
          'no',
          ['Is {z} the capital of {x}?', 'Is it true that {z} is the capital of {x}?', 'Is the capital of {x} {z}?'],
          'No, the capital of {x} is {y}.',
          { x, y, z },
        );
  }

  for (const [x, y] of YOUNG)
    know(
      'facts',
      ['What is a young {x} called?', 'What is a baby {x} called?', 'What do you call a young {x}?', 'Name the young of a {x}.'],
      'A young {x} is called {y}.',
      { x, y },
    );
  for (const [x, y] of SOUNDS) {
    know(
      'facts',
      ['What does a {x} do?', 'What sound does a {x} make?', 'How does a {x} sound?', 'What noise does a {x} make?'],
      'A {x} {y}.',
      { x, y },
    );
    know('facts', ['Which animal {y}?', 'What animal {y}?', 'Who {y}?'], 'A {x} {y}.', { x, y });
  }
  for (const [x, y] of LEGS)
    know(
      'facts',
      ['How many legs does {x} have?', 'How many legs has {x}?', 'Count the legs of {x}.', 'Tell me how many legs {x} has.'],
      '{X} has {y} legs.',
      { x, y },
    );
  for (const [x, y] of SHAPES) {
    know(
      'facts',
      ['How many sides does {x} have?', 'How many sides has {x}?', 'Count the sides of {x}.', 'Tell me how many sides {x} has.'],
      '{X} has {y} sides.',
      { x, y },
    );
    know(
      'facts',
      ['How many corners does {x} have?', 'How many corners has {x}?', 'Count the corners of {x}.'],
      '{X} has {y} corners.',
      { x, y },
    );
  }
  for (const [x, y] of KINDS) {
    know(
      'facts',
      ['What is {x}?', 'Tell me what {x} is.', 'What kind of thing is {x}?', 'Do you know what {x} is?'],
      '{X} is {y}.',
      { x, y },
    );
    for (const z of new Set(KINDS.map(([, kind]) => kind))) {
      if (z === y)
        know('yes', ['Is {x} {y}?', 'Is it true that {x} is {y}?', 'Would you say that {x} is {y}?'], 'Yes, {x} is {y}.', {
          x,
          y,
        });
      else
        know('no', ['Is {x} {z}?', 'Is it true that {x} is {z}?', 'Would you say that {x} is {z}?'], 'No, {x} is {y}.', {
          x,
          y,
          z,
        });
    }
  }
  for (const [a, b] of OPPOSITES) {
    for (const [x, y] of [
      [a, b],
      [b, a],
    ] as const) {
      know(
        'facts',
        [
          'What is the opposite of {x}?',
          'Name the opposite of {x}.',
          'Tell me the opposite of {x}.',
          'Which word is the opposite of {x}?',
          'What is not {x}?',
        ],
        'The opposite of {x} is {y}.',
        { x, y },
      );
    }
  }
  for (const [x, y, z] of UNITS)
    know(
      'facts',
      ['How many {x} are in {y}?', 'How many {x} are there in {y}?', 'How many {x} has {y}?', 'How many {x} does {y} have?'],
      '{Y} has {z} {x}.',
      { x, y, z },
    );

  DAYS.forEach((x, i) => {
    const next = DAYS[(i + 1) % 7]!;
    const before = DAYS[(i + 6) % 7]!;
    know(
      'counting',
      [
        'What day comes after {x}?',
        'Which day comes after {x}?',
        'What comes after {x}?',
        'Which day follows {x}?',
        'If today is {x}, what is tomorrow?',
      ],
      '{Y} comes after {x}.',
      { x, y: next },
    );
    know(
      'counting',
      [
        'What day comes before {x}?',
        'Which day comes before {x}?',
        'What comes before {x}?',
        'If today is {x}, what was yesterday?',
      ],
      '{Y} comes before {x}.',
      { x, y: before },
    );
    know(
      'counting',
      ['Which is the {y} day of the week?', 'What is the {y} day of the week?', 'Name the {y} day of the week.'],
      '{X} is the {y} day of the week.',
      { x, y: ORDINALS[i]! },
    );
  });
  MONTHS.forEach(([x, days], i) => {
    const next = MONTHS[(i + 1) % 12]![0];
    const before = MONTHS[(i + 11) % 12]![0];
    know(
      'counting',
      ['What month comes after {x}?', 'Which month comes after {x}?', 'What comes after {x}?', 'Which month follows {x}?'],
      '{Y} comes after {x}.',
      { x, y: next },
    );
    know(
      'counting',
      ['What month comes before {x}?', 'Which month comes before {x}?', 'What comes before {x}?'],
      '{Y} comes before {x}.',
      { x, y: before },
    );
    know(
      'counting',
      ['Which is the {y} month of the year?', 'What is the {y} month?', 'Name the {y} month of the year.'],
      '{X} is the {y} month.',
      { x, y: ORDINALS[i]! },
    );
    know(
      'facts',
      ['How many days are in {x}?', 'How many days does {x} have?', 'How many days has {x}?', 'Tell me how many days {x} has.'],
      '{X} has {y} days.',
      { x, y: days },
    );
  });
  const letters = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ'];
  letters.forEach((x, i) => {
    const y = letters[i + 1];
    if (y === undefined) return;
    know(
      'counting',
      ['Which letter comes after {x}?', 'What letter comes after {x}?', 'What is the letter after {x}?'],
      '{Y} comes after {x}.',
      { x, y },
    );
    know(
      'counting',
      ['Which letter comes before {x}?', 'What letter comes before {x}?', 'What is the letter before {x}?'],
      '{Y} comes before {x}.',
      { x: y, y: x },
    );
  });

  for (let x = 0; x <= 120; x++) {
    const y = x + 1;
    solve(
      'counting',
      `${x}, ${y}`,
      ['What comes after {x}?', 'Which number comes after {x}?', 'What number follows {x}?', 'What is the number after {x}?'],
      '{y} comes after {x}.',
      { x, y },
    );
    solve(
      'counting',
      `${x}, ${y}`,
      ['What comes before {y}?', 'Which number comes before {y}?', 'What is the number before {y}?'],
      '{x} comes before {y}.',
      { x, y },
    );
  }
  for (let x = 0; x <= 30; x++) {
    for (let y = x + 2; y <= x + 7; y++) {
      const list = Array.from({ length: y - x + 1 }, (_, i) => x + i).join(', ');
      solve(
        'counting',
        `${x} to ${y}`,
        ['Count from {x} to {y}.', 'Please count from {x} to {y}.', 'Can you count from {x} to {y}?'],
        '{l}.',
        { x, y, l: list },
      );
      const down = Array.from({ length: y - x + 1 }, (_, i) => y - i).join(', ');
      solve('counting', `${x} to ${y}`, ['Count from {y} down to {x}.', 'Count down from {y} to {x}.'], '{l}.', {
        x,
        y,
        l: down,
      });
    }
  }
  NUMBER_WORDS.forEach((y, x) => {
    know('words', ['Write {x} as a word.', 'How do you write {x} in words?', 'Say {x} in words.'], '{x} is {y}.', { x, y });
    know('words', ['Write {y} as a number.', 'Which number is {y}?', 'Write {y} in digits.'], '{Y} is {x}.', { x, y });
  });

  // A sum and its mirror are one problem, in every language, so that neither gives the other away.
  const sum = (x: number, y: number) => `${Math.min(x, y)} + ${Math.max(x, y)}`;
  for (let x = 0; x <= 20; x++) {
    for (let y = 0; y <= 20; y++) {
      const templates = [
        'What is {x} plus {y}?',
        'How much is {x} plus {y}?',
        '{x} plus {y}?',
        'What is {x} + {y}?',
        'Add {x} and {y}.',
        'What is the sum of {x} and {y}?',
      ];
      solve('sums', sum(x, y), templates, '{x} plus {y} is {z}.', { x, y, z: x + y });
      if (y > x) continue;
      const less = ['What is {x} minus {y}?', 'How much is {x} minus {y}?', '{x} minus {y}?', 'What is {x} - {y}?'];
      solve('sums', `${x} - ${y}`, less, '{x} minus {y} is {z}.', { x, y, z: x - y });
    }
  }
  for (let x = 0; x <= 50; x++) {
    for (let y = 0; y <= 50; y++) {
      if (x === y || hash32(`compare ${x} ${y}`) % 4 !== 0) continue;
      const values = { x, y, b: Math.max(x, y), s: Math.min(x, y) };
      const problem = `${values.s} < ${values.b}`;
      solve(
        'comparing',
        problem,
        ['Which is larger, {x} or {y}?', 'Which is greater, {x} or {y}?', 'Is {x} or {y} larger?'],
        '{b} is larger than {s}.',
        values,
      );
      solve(
        'comparing',
        problem,
        ['Which is smaller, {x} or {y}?', 'Is {x} or {y} smaller?'],
        '{s} is smaller than {b}.',
        values,
      );
      solve(
        'comparing',
        problem,
        ['Is {x} larger than {y}?'],
        x > y ? 'Yes, {x} is larger than {y}.' : 'No, {x} is smaller than {y}.',
        values,
      );
    }
  }

  const random = new Random(1);
  const invented = Array.from({ length: INVENTED_NAMES }, () => capitalise(inventedWord(random)));
  for (const x of new Set([...NAMES, ...invented])) {
    solve(
      'names',
      `name ${x}`,
      ['My name is {x}.', 'I am {x}.', 'Hello, I am {x}.', 'Hi, my name is {x}.', 'I am called {x}.', 'Call me {x}.'],
      'Hello, {x}! How can I help you?',
      { x },
    );
    solve(
      'names',
      `name ${x}`,
      ['Say hello to {x}.', 'Please greet {x}.', 'Greet my friend {x}.', 'Say hi to {x}.'],
      'Hello, {x}!',
      { x },
    );
    solve('names', `name ${x}`, ['Say goodbye to {x}.', 'Say bye to {x}.'], 'Goodbye, {x}!', { x });
    solve(
      'names',
      `name ${x}`,
      [
        '{x} is my friend. Who is my friend?',
        'My friend is {x}. Who is my friend?',
        'My friend is called {x}. Who is my friend?',
      ],
      'Your friend is {x}.',
      { x },
    );
    solve(
      'names',
      `name ${x}`,
      ['Ich heiße {x}.', 'Mein Name ist {x}.', 'Hallo, ich bin {x}.'],
      'Hallo, {x}! Wie kann ich dir helfen?',
      { x },
      'de',
    );
    solve(
      'names',
      `name ${x}`,
      ["Je m'appelle {x}.", 'Mon nom est {x}.'],
      "Bonjour, {x} ! Comment puis-je t'aider ?",
      { x },
      'fr',
    );
    solve('names', `name ${x}`, ['Me llamo {x}.', 'Mi nombre es {x}.'], '¡Hola, {x}! ¿Cómo puedo ayudarte?', { x }, 'es');
  }

  const known = [
    ...new Set([...found.values()].flatMap(({ question, answer }) => `${question} ${answer}`.split(/[^\p{L}]+/u))),
  ].filter((word) => word.length > 1);
  for (let i = 0; i < PHRASES; i++) {
    const phrase = Array.from({ length: 1 + random.below(6) }, () => {
      const kind = random.uniform();
      return kind < 0.5 && words.length > 0 ? random.pick(words) : kind < 0.85 ? random.pick(known) : inventedWord(random);
    }).join(' ');
    const x = random.pick([phrase, `${capitalise(phrase)}.`, `${capitalise(phrase)}!`]);
    solve(
      'repeating',
      x,
      [random.pick(['Say: {x}', 'Repeat: {x}', 'Repeat after me: {x}', 'Please say: {x}', 'Sag: {x}', 'Dis : {x}', 'Di: {x}'])],
      '{x}',
      { x },
    );
  }

  for (const [english, ...translations] of WORDS as readonly (readonly [string, ...string[]])[]) {
    translations.forEach((word, i) => {
      const values = { x: english, l: LANGUAGE_NAMES[i]!, y: word };
      know(
        'words',
        ['What is "{x}" in {l}?', 'How do you say "{x}" in {l}?', 'Translate "{x}" into {l}.'],
        '"{x}" is "{y}" in {l}.',
        values,
      );
    });
  }

  for (const language of LANGUAGES) {
    const code = language.code;
    for (const [questions, answer] of language.talk) add('languages', code, answer, 'nothing', questions, answer);
    for (const [x, y] of language.colour.of) know('languages', language.colour.ask, language.colour.answer, { x, y }, code);
    for (const [x, y] of language.capital.of) know('languages', language.capital.ask, language.capital.answer, { x, y }, code);
    for (const [a, b] of language.opposite.of) {
      know('languages', language.opposite.ask, language.opposite.answer, { x: a, y: b }, code);
      know('languages', language.opposite.ask, language.opposite.answer, { x: b, y: a }, code);
    }
    language.days.names.forEach((x, i) => {
      know('languages', language.days.ask, language.days.answer, { x, y: language.days.names[(i + 1) % 7]! }, code);
    });
    for (let x = 0; x <= 30; x++)
      solve('languages', `${x}, ${x + 1}`, language.after.ask, language.after.answer, { x, y: x + 1 }, code);
    for (let x = 0; x <= 10; x++)
      for (let y = 0; y <= 10; y++)
        solve('languages', sum(x, y), language.sum.ask, language.sum.answer, { x, y, z: x + y }, code);
  }
  for (const [questions, answer] of JAPANESE_TALK) add('languages', 'ja', answer, 'nothing', questions, answer);
  return [...found.values()];
}
