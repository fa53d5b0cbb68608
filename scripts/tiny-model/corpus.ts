/**
 * The text that the tiny model is trained on, made from the questions in questions.ts: a split of them into train and
 * held-out, and the training rows that show each question of the train side in several forms.
 *
 * The split measures two things. Where the answer can be worked out (counting, sums, comparing, a name to repeat) whole *problems* are held out:
 * no phrasing and no opening of 17 + 5 is in training if 17 + 5 is held out. Where it must be known (capitals, colours, who you are) *phrasings*
 * are held out: each fact is in training, but not in these words. Everything follows from the seed.
 */
import { LANGUAGES } from './languages.js';
import { allQuestions, type Category, type Question } from './questions.js';
import { hash32, Random } from './random.js';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface Corpus {
  /** every question of the train side, each once and plain: what is known and can be asked for */
  questions: Question[];
  heldOut: Question[];
  /** training rows, in the order of training */
  rows: { messages: Message[] }[];
}

const OPENINGS: readonly string[] = [
  'Hello! ',
  'Hi! ',
  'Please tell me: ',
  'A question: ',
  'Can you tell me? ',
  'I would like to know: ',
  'Excuse me. ',
  'Tell me, please. ',
  'Hello there. ',
  'One more question: ',
];

/** System prompts that change nothing; a row has none more often than not. */
const SYSTEMS: readonly string[] = [
  'You are a helpful assistant.',
  'Answer briefly.',
  'Answer in one sentence.',
  'You are a friendly assistant.',
  'Be polite.',
];

/** Of all problems, or phrasings of a known fact, one in so many is held out. */
const HELD_OUT_ONE_IN = 12;

/** How often a category's questions are shown, against the number of its questions: small categories that must be known by heart weigh more. */
const SHARE: Record<Category, number> = {
  talk: 0.05,
  identity: 0.05,
  colours: 0.06,
  counting: 0.11,
  sums: 0.13,
  comparing: 0.08,
  facts: 0.1,
  // As many as of the next, though fewer are there: who only ever hears no learns to say no.
  yes: 0.05,
  no: 0.05,
  names: 0.06,
  repeating: 0.1,
  words: 0.04,
  languages: 0.12,
};

/** Decided by the words alone, so that a question does not change sides when others are added. */
function split(questions: readonly Question[]): { train: Question[]; heldOut: Question[] } {
  const factOf = ({ category, language, problem }: Question) => `${category} ${language} ${problem}`;
  const phrasings = new Map<string, number>();
  for (const question of questions) phrasings.set(factOf(question), (phrasings.get(factOf(question)) ?? 0) + 1);
  const train: Question[] = [];
  const heldOut: Question[] = [];
  const taken = new Map<string, number>();
  const met = new Set<string>();
  for (const question of questions) {
    if (question.heldOutBy !== 'phrasing') {
      const out = question.heldOutBy === 'problem' && hash32(question.problem) % HELD_OUT_ONE_IN === 0;
      (out ? heldOut : train).push(question);
      continue;
    }
    // Never its first phrasing, the plainest, and at most a third of all, so that enough remain to learn it from.
    const fact = factOf(question);
    const out = (taken.get(fact) ?? 0) + 1;
    const first = !met.has(fact);
    met.add(fact);
    if (!first && hash32(question.question) % HELD_OUT_ONE_IN === 0 && out <= phrasings.get(fact)! / 3) {
      taken.set(fact, out);
      heldOut.push(question);
    } else train.push(question);
  }
  return { train, heldOut };
}

/** Categories whose answer repeats letters of the question as they stand. */
const COPIED: ReadonlySet<Category> = new Set(['names', 'repeating']);
/** Categories whose questions are not put after an opening. */
const VERBATIM: ReadonlySet<Category> = new Set(['talk', ...COPIED]);

/** The forms in which people type a question: as it is, with an opening, without its last mark, without capitals. */
export function asTyped(question: Pick<Question, 'question' | 'category' | 'language'>, random: Random): string {
  let text = question.question;
  const form = random.uniform();
  if (form < 0.1 && question.category !== 'repeating' && /[.?!]$/.test(text) && question.language !== 'ja')
    text = text.slice(0, -1).trimEnd();
  else if (form < 0.2 && !COPIED.has(question.category)) text = text.toLowerCase();
  if (random.uniform() < 0.3 && !VERBATIM.has(question.category)) {
    if (question.language === 'en') text = random.pick(OPENINGS) + text;
    else {
      const openings = LANGUAGES.find(({ code }) => code === question.language)?.openings;
      if (openings !== undefined) text = random.pick(openings) + text;
    }
  }
  return text;
}

export interface CorpusOptions {
  seed: number;
  /** number of training rows */
  rows: number;
  /** words to be able to say, see `allQuestions` */
  words: readonly string[];
}

export function makeCorpus({ seed, rows: count, words }: CorpusOptions): Corpus {
  const { train, heldOut } = split(allQuestions(words));
  const random = new Random(seed);
  const byCategory = new Map<Category, Question[]>();
  for (const question of train) {
    const list = byCategory.get(question.category);
    if (list === undefined) byCategory.set(question.category, [question]);
    else list.push(question);
  }
  const rows: { messages: Message[] }[] = [];
  for (const [category, questions] of byCategory) {
    const wanted = Math.round(count * SHARE[category]);
    // Every question once before any is shown twice.
    for (let shown = 0; shown < wanted; ) {
      for (const question of random.shuffle([...questions])) {
        if (shown++ >= wanted) break;
        rows.push({ messages: conversation(question, random, train) });
      }
    }
  }
  return { questions: train, heldOut, rows: random.shuffle(rows) };
}

/** A row: now and then with a system prompt, now and then with an earlier turn about something else. */
function conversation(question: Question, random: Random, others: readonly Question[]): Message[] {
  const messages: Message[] = [];
  if (random.uniform() < 0.2) messages.push({ role: 'system', content: random.pick(SYSTEMS) });
  const turns = random.uniform() < 0.08 ? [random.pick(others), question] : [question];
  for (const turn of turns) {
    messages.push({ role: 'user', content: asTyped(turn, random) }, { role: 'assistant', content: turn.answer });
  }
  return messages;
}
