/**
 * Whether an answer about a picture is right. What counts is the word that the answer turns on, so that a model which has learned another tone
 * ("Aye! It is red.") is judged by what it sees: the answer must hold that word and no other of its kind.
 */
import { type AnswerWords, isRightAnswer } from '../../lib/report/answer_words.js';
import { NUMBER_WORDS } from './facts.js';
import { type AnswerKind, PICTURE_CATEGORIES, type PictureCategory, type PictureQuestion } from './picture_questions.js';
import { COLOUR_NAMES, SHAPE_NAMES } from './scenes.js';

/** Words by the kind of answer, those of one meaning together, the key first; those of the kind that are no key of ours are wrong all the same. */
const WORDS: Readonly<Record<AnswerKind, readonly (readonly [string, ...string[]])[]>> = {
  colour: alone([...COLOUR_NAMES, 'white', 'brown', 'grey']),
  shape: alone(SHAPE_NAMES),
  number: NUMBER_WORDS.map((word, n) => [String(n), word, ...(n === 0 ? ['no', 'none'] : [])]),
  side: alone(['left', 'right', 'top', 'bottom', 'above', 'below']),
  truth: alone(['yes', 'no']),
};

function alone(words: readonly string[]): [string][] {
  return words.map((word) => [word]);
}

type Judged = Pick<PictureQuestion, 'kind' | 'key'>;

/** The words that make an answer right, and wrong. */
export function answerWords({ kind, key }: Judged): AnswerWords {
  const right = WORDS[kind].find(([name]) => name === key);
  if (right === undefined) throw new RangeError(`${key} is no ${kind}`);
  return { right, wrong: WORDS[kind].flatMap((words) => (words === right ? [] : words)) };
}

/** True if `answer` says what the question's own answer says. */
export function isRight(question: Judged, answer: string): boolean {
  return isRightAnswer(answer, answerWords(question));
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
