/**
 * Whether an answer about a picture is right. What counts is the word that the answer turns on, so that a model which has learned another tone
 * ("Aye! It is red.") is judged by what it sees: the answer must hold that word and no other of its kind.
 */
import { NUMBER_WORDS } from './facts.js';
import { type AnswerKind, PICTURE_CATEGORIES, type PictureCategory, type PictureQuestion } from './picture_questions.js';
import { COLOUR_NAMES, SHAPE_NAMES } from './scenes.js';

/** Words that mean a key, by the kind of answer; those of the kind that are no key of ours are wrong all the same. */
const WORDS: Readonly<Record<AnswerKind, ReadonlyMap<string, string>>> = {
  colour: sameWords([...COLOUR_NAMES, 'white', 'brown', 'grey']),
  shape: sameWords(SHAPE_NAMES),
  number: new Map([
    ...NUMBER_WORDS.map((word, n): [string, string] => [word, String(n)]),
    ...NUMBER_WORDS.map((_, n): [string, string] => [String(n), String(n)]),
    ['no', '0'],
    ['none', '0'],
  ]),
  side: sameWords(['left', 'right', 'top', 'bottom', 'above', 'below']),
  truth: sameWords(['yes', 'no']),
};

function sameWords(words: readonly string[]): Map<string, string> {
  return new Map(words.map((word) => [word, word]));
}

/** True if `answer` says what the question's own answer says. */
export function isRight({ kind, key }: Pick<PictureQuestion, 'kind' | 'key'>, answer: string): boolean {
  const words = answer.toLowerCase().match(/[a-z]+|\d+/g) ?? [];
  const said = new Set(words.flatMap((word) => WORDS[kind].get(word) ?? (/^\d+$/.test(word) && kind === 'number' ? word : [])));
  return said.size === 1 && said.has(key);
}

/** Right answers by category, and in all. */
export type Score = Readonly<Record<PictureCategory | 'all', { readonly asked: number; readonly right: number }>>;

export function score(questions: readonly PictureQuestion[], answers: readonly string[]): Score {
  if (questions.length !== answers.length) throw new RangeError(`${questions.length} questions have ${answers.length} answers`);
  const of = (category: PictureCategory | 'all'): { asked: number; right: number } => {
    const asked = questions.flatMap((question, i) =>
      category === 'all' || question.category === category ? [isRight(question, answers[i]!)] : [],
    );
    return { asked: asked.length, right: asked.filter(Boolean).length };
  };
  return Object.fromEntries([...PICTURE_CATEGORIES, 'all' as const].map((category) => [category, of(category)])) as Score;
}
