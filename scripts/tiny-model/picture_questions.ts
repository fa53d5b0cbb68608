/**
 * Questions about a scene, each with its one right answer: colours, shapes, counts, and what is on which side. A question is only asked where the
 * scene leaves no doubt: of "the circle" if there is one circle, of left and right if it is well off the middle.
 */
import { fill } from './questions.js';
import type { Random } from './random.js';
import { COLOUR_NAMES, type ColourName, MOST_THINGS, type Scene, SHAPE_NAMES, type ShapeName, type Thing } from './scenes.js';

export const PICTURE_CATEGORIES = ['colour', 'shape', 'count', 'side'] as const;
export type PictureCategory = (typeof PICTURE_CATEGORIES)[number];

/** The kinds of question. Within one, every answer is asked for as often. */
export const FORM_NAMES = [
  'colour of',
  'is it this colour',
  'shape of',
  'only shape',
  'shape on a side',
  'count all',
  'count shapes',
  'count colours',
  'left or right',
  'top or bottom',
  'left or right of',
  'above or below',
  'is it left or right of',
] as const;
export type Form = (typeof FORM_NAMES)[number];

/** Those that ask where one thing is, seen from another. They are asked in training, and measured by themselves. */
export const RELATION_FORMS: readonly Form[] = ['left or right of', 'above or below', 'is it left or right of'];
/** The one of them that is answered with yes or no. */
export const WHETHER_FORM: Form = 'is it left or right of';
export const COUNT_FORMS: readonly Form[] = ['count all', 'count shapes', 'count colours'];
/** Those that ask of one thing, or of all. */
export const PLAIN_FORMS: readonly Form[] = FORM_NAMES.filter((form) => !RELATION_FORMS.includes(form));

/** What kind of word an answer turns on, for the scorer. */
export type AnswerKind = 'colour' | 'shape' | 'number' | 'side' | 'truth';

/** One question with its only right answer. */
export interface PictureQuestion {
  readonly category: PictureCategory;
  readonly form: Form;
  readonly question: string;
  readonly answer: string;
  /** The word that the answer turns on: `red`, `star`, `3`, `left`, `yes`. */
  readonly key: string;
  readonly kind: AnswerKind;
}

interface FormSpec {
  readonly category: PictureCategory;
  readonly kind: AnswerKind;
  /** Every key that the form may have. */
  readonly keys: readonly string[];
  readonly questions: readonly string[];
  readonly answer: string;
}

const NUMBERS = Array.from({ length: MOST_THINGS + 1 }, (_, n) => String(n));
const TRUTHS = ['yes', 'no'];

/**
 * `{r}` and `{s}` name things ("the circle", "the red shape"), `{c}` is a colour, `{y}` what is so and `{z}` what it is asked for to be, `{t}` yes
 * or no, `{w}` a place ("on the left"), `{p}` what is counted ("circles"), `{b} {n}` how many there are ("are 3 circles").
 */
const FORMS: Readonly<Record<Form, FormSpec>> = {
  'colour of': {
    category: 'colour',
    kind: 'colour',
    keys: COLOUR_NAMES,
    questions: [
      'What colour is {r}?',
      'What color is {r}?',
      'Which colour is {r}?',
      'What is the colour of {r}?',
      'Tell me the colour of {r}.',
      'Name the colour of {r}.',
      'Which colour does {r} have?',
    ],
    answer: '{R} is {y}.',
  },
  'is it this colour': {
    category: 'colour',
    kind: 'truth',
    keys: TRUTHS,
    questions: ['Is {r} {z}?', 'Is it true that {r} is {z}?', 'Would you say that {r} is {z}?'],
    answer: '{T}, {r} is {y}.',
  },
  'shape of': {
    category: 'shape',
    kind: 'shape',
    keys: SHAPE_NAMES,
    questions: [
      'What is the {c} shape?',
      'Which shape is {c}?',
      'What shape is {c}?',
      'Tell me which shape is {c}.',
      'Name the {c} shape.',
    ],
    answer: 'The {c} shape is a {y}.',
  },
  'only shape': {
    category: 'shape',
    kind: 'shape',
    keys: SHAPE_NAMES,
    questions: [
      'What shape is this?',
      'Which shape do you see?',
      'What is in the picture?',
      'What do you see?',
      'Name the shape.',
      'Tell me what you see.',
    ],
    answer: 'I see a {y}.',
  },
  'shape on a side': {
    category: 'shape',
    kind: 'shape',
    keys: SHAPE_NAMES,
    questions: ['Which shape is {w}?', 'What is {w}?', 'Name the shape {w}.', 'Tell me which shape is {w}.'],
    answer: 'The {y} is {w}.',
  },
  'count all': {
    category: 'count',
    kind: 'number',
    keys: NUMBERS.slice(1),
    questions: [
      'How many shapes are there?',
      'How many shapes are in the picture?',
      'How many shapes do you see?',
      'Count the shapes.',
      'Tell me how many shapes there are.',
    ],
    answer: 'There {b} {n}.',
  },
  'count shapes': {
    category: 'count',
    kind: 'number',
    keys: NUMBERS,
    questions: ['How many {p} are there?', 'How many {p} are in the picture?', 'How many {p} do you see?', 'Count the {p}.'],
    answer: 'There {b} {n}.',
  },
  'count colours': {
    category: 'count',
    kind: 'number',
    keys: NUMBERS,
    questions: ['How many {p} are there?', 'How many {p} are in the picture?', 'How many {p} do you see?', 'Count the {p}.'],
    answer: 'There {b} {n}.',
  },
  'left or right': {
    category: 'side',
    kind: 'side',
    keys: ['left', 'right'],
    questions: [
      'Is {r} on the left or on the right?',
      'Is {r} on the right or on the left?',
      'Is {r} left or right?',
      'On which side is {r}, left or right?',
    ],
    answer: '{R} is {w}.',
  },
  'top or bottom': {
    category: 'side',
    kind: 'side',
    keys: ['top', 'bottom'],
    questions: [
      'Is {r} at the top or at the bottom?',
      'Is {r} at the bottom or at the top?',
      'Where is {r}, at the top or at the bottom?',
    ],
    answer: '{R} is {w}.',
  },
  'left or right of': {
    category: 'side',
    kind: 'side',
    keys: ['left', 'right'],
    questions: ['Is {r} left or right of {s}?', 'Is {r} right or left of {s}?', 'On which side of {s} is {r}?'],
    answer: '{R} is {y} of {s}.',
  },
  'above or below': {
    category: 'side',
    kind: 'side',
    keys: ['above', 'below'],
    questions: ['Is {r} above or below {s}?', 'Is {r} below or above {s}?'],
    answer: '{R} is {y} {s}.',
  },
  'is it left or right of': {
    category: 'side',
    kind: 'truth',
    keys: TRUTHS,
    questions: ['Is {r} {z} of {s}?', 'Is it true that {r} is {z} of {s}?'],
    answer: '{T}, {r} is {y} of {s}.',
  },
};

export function formSpec(form: Form): FormSpec {
  return FORMS[form];
}

/** A question of a form about a scene, without its words yet. */
export interface Askable {
  readonly form: Form;
  readonly key: string;
  /** What stands in the form's places. */
  readonly values: Readonly<Record<string, string>>;
}

/** A thing counts as left, right, top or bottom only so far off the middle, and as left of another only so far from it: shares of the picture. */
const OFF_MIDDLE = 0.12;
const APART = 0.16;

/** Everything that may be asked about a scene. */
export function askable(scene: Scene): Askable[] {
  const { things } = scene;
  const found: Askable[] = [];
  const add = (form: Form, key: string, values: Readonly<Record<string, string>>): void => {
    found.push({ form, key, values });
  };
  const [only, second] = things;
  if (only !== undefined && second === undefined) add('only shape', only.shape, { y: only.shape });

  for (const thing of things) {
    for (const r of namesOf(thing, things, 'colour')) {
      add('colour of', thing.colour, { r, y: thing.colour });
      for (const z of COLOUR_NAMES) {
        const key = z === thing.colour ? 'yes' : 'no';
        add('is it this colour', key, { r, z, y: thing.colour, t: key });
      }
    }
    if (sharing(things, { colour: thing.colour }) === 1) add('shape of', thing.shape, { c: thing.colour, y: thing.shape });
    for (const r of namesOf(thing, things)) {
      const [across, down] = sidesOf(thing, scene);
      if (across) add('left or right', across, { r, w: `on the ${across}` });
      if (down) add('top or bottom', down, { r, w: `at the ${down}` });
    }
  }
  if (things.length > 1) addSides(scene, add);
  addCounts(things, add);
  for (const thing of things) {
    for (const other of things) if (other !== thing) addRelations(scene, thing, other, add);
  }
  return found;
}

type Add = (form: Form, key: string, values: Readonly<Record<string, string>>) => void;

/** How many things have this shape, this colour, or both. */
function sharing(things: readonly Thing[], { shape, colour }: { shape?: ShapeName; colour?: ColourName }): number {
  return things.filter((thing) => (shape ?? thing.shape) === thing.shape && (colour ?? thing.colour) === thing.colour).length;
}

/** The names that mean this thing and no other; `without` leaves out those that say its colour. */
function namesOf(thing: Thing, things: readonly Thing[], without?: 'colour'): string[] {
  const { shape, colour } = thing;
  const names: string[] = [];
  if (sharing(things, { shape }) === 1) names.push(`the ${shape}`);
  if (without === 'colour') return names;
  if (sharing(things, { colour }) === 1) names.push(`the ${colour} shape`);
  if (sharing(things, { shape, colour }) === 1) names.push(`the ${colour} ${shape}`);
  return names;
}

/** On which sides of the picture's middle a thing stands, if clearly. */
function sidesOf(
  { x, y }: Thing,
  { width, height }: Scene,
): [across: 'left' | 'right' | undefined, down: 'top' | 'bottom' | undefined] {
  const [dx, dy] = [x / width - 0.5, y / height - 0.5];
  return [
    Math.abs(dx) < OFF_MIDDLE ? undefined : dx < 0 ? 'left' : 'right',
    Math.abs(dy) < OFF_MIDDLE ? undefined : dy < 0 ? 'top' : 'bottom',
  ];
}

/** Which shape is alone on its side of the picture, where each thing has a side. */
function addSides(scene: Scene, add: Add): void {
  const { things } = scene;
  for (const axis of [0, 1] as const) {
    const sides = things.map((thing) => sidesOf(thing, scene)[axis]);
    if (sides.includes(undefined)) continue;
    things.forEach(({ shape }, i) => {
      if (sides.filter((side) => side === sides[i]).length > 1 || sharing(things, { shape }) > 1) return;
      add('shape on a side', shape, { y: shape, w: `${axis === 0 ? 'on' : 'at'} the ${sides[i]}` });
    });
  }
}

function addCounts(things: readonly Thing[], add: Add): void {
  const count = (form: Form, number: number, one: string): void =>
    add(form, String(number), {
      p: plural(one),
      b: number === 1 ? 'is' : 'are',
      n: `${number === 0 ? 'no' : number} ${number === 1 ? one : plural(one)}`,
    });
  count('count all', things.length, 'shape');
  for (const shape of SHAPE_NAMES) count('count shapes', sharing(things, { shape }), shape);
  for (const colour of COLOUR_NAMES) count('count colours', sharing(things, { colour }), `${colour} shape`);
}

export function plural(one: string): string {
  return /(s|x|ch|sh)$/.test(one) ? `${one}es` : `${one}s`;
}

/** Where a thing is, seen from another. */
function addRelations({ width, height, things }: Scene, thing: Thing, other: Thing, add: Add): void {
  const [dx, dy] = [(thing.x - other.x) / width, (thing.y - other.y) / height];
  for (const r of namesOf(thing, things)) {
    for (const s of namesOf(other, things)) {
      if (Math.abs(dy) >= APART) {
        const y = dy < 0 ? 'above' : 'below';
        add('above or below', y, { r, s, y });
      }
      if (Math.abs(dx) < APART) continue;
      const y = dx < 0 ? 'left' : 'right';
      add('left or right of', y, { r, s, y });
      for (const z of ['left', 'right'])
        add('is it left or right of', z === y ? 'yes' : 'no', { r, s, z, y, t: z === y ? 'yes' : 'no' });
    }
  }
}

/** The words of a question, picked by chance. */
export function ask({ form, key, values }: Askable, random: Random): PictureQuestion {
  const { category, kind, questions, answer } = formSpec(form);
  return { category, form, key, kind, question: fill(random.pick(questions), values), answer: fill(answer, values) };
}
