/**
 * What the demo asks before and after training: questions about who the model is, and a hundred about pictures of which no training showed
 * the like (`scripts/tiny-model/demo_pictures.ts` draws them).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeviceOption } from '../device.js';
import { Generator } from '../generate/generate.js';
import { PACKAGE_ROOT } from '../native.js';
import { type AnswerWords, isRightAnswer } from '../report/answer_words.js';
import type { QuestionEntry } from '../report/questions.js';
import { formatBytes } from './output.js';
import { ProgressStages } from './progress.js';

const QUESTIONS = join(PACKAGE_ROOT, 'examples', 'data', 'questions.json');
const PICTURES = join(PACKAGE_ROOT, 'examples', 'data', 'pictures.jsonl');
const MAX_NEW_TOKENS = 48;

export interface DemoQuestion {
  readonly question: string;
  /** Of a question about a picture: what is asked about, as a data: URL and in words, and how its answer is judged. */
  readonly picture?: { readonly image: string; readonly alt: string; readonly group: string; readonly words: AnswerWords };
}

/** A line of pictures.jsonl: a row that `train` reads too, and beside it what judges an answer. */
export interface DemoPictureRow {
  readonly messages: readonly [
    {
      readonly role: 'user';
      readonly content: readonly [
        { readonly type: 'image'; readonly image: string },
        { readonly type: 'text'; readonly text: string },
      ];
    },
    { readonly role: 'assistant'; readonly content: string },
  ];
  readonly alt: string;
  readonly group: string;
  readonly words: AnswerWords;
}

/** Those without a picture come first. A model whose card does not say that it was taught to see is not asked about pictures. */
export async function demoQuestions(model: string): Promise<DemoQuestion[]> {
  const texts = JSON.parse(await readFile(QUESTIONS, 'utf8')) as string[];
  const card = await readFile(join(model, 'README.md'), 'utf8');
  return [...texts.map((question) => ({ question })), ...(/^pictures: true$/m.test(card) ? await pictureQuestions() : [])];
}

/** The hundred about pictures. */
export async function pictureQuestions(): Promise<DemoQuestion[]> {
  const lines = (await readFile(PICTURES, 'utf8')).trimEnd().split('\n');
  return lines.map((line) => {
    const { messages, ...judged } = JSON.parse(line) as DemoPictureRow;
    const [{ image }, { text: question }] = messages[0].content;
    return { question, picture: { image, ...judged } };
  });
}

export interface AskOptions {
  readonly model: string;
  readonly adapter?: string;
  readonly device: DeviceOption;
  readonly signal: AbortSignal;
}

/** The answers of the model in 4 bits, each the likeliest, on one line. */
export async function ask(questions: readonly DemoQuestion[], options: AskOptions): Promise<string[]> {
  const { model, adapter, device, signal } = options;
  const progress = new ProgressStages();
  try {
    const generator = await Generator.load(model, {
      adapter,
      loadIn4bit: true,
      dtype: 'float32',
      device,
      signal,
      onProgress: (done, total) => progress.report('Loading weights', done, total, formatBytes),
    });
    try {
      const answers: string[] = [];
      for (const { question: prompt, picture } of questions) {
        const images = picture && [picture.image];
        const { text } = await generator.complete({ prompt, images, maxNewTokens: MAX_NEW_TOKENS, temperature: 0, signal });
        answers.push(text.trim().replace(/\s+/g, ' '));
        progress.report('Asking', answers.length, questions.length);
      }
      return answers;
    } finally {
      generator.release();
    }
  } finally {
    progress.stop();
  }
}

/** Questions with their answers, as a report has them. */
export function judged(questions: readonly DemoQuestion[], before: readonly string[], after: readonly string[]): QuestionEntry[] {
  return questions.map(({ question, picture }, i): QuestionEntry => {
    const asked = { question, before: before[i]!, after: after[i]! };
    if (picture === undefined) return asked;
    const { image, alt, group, words } = picture;
    return {
      ...asked,
      image,
      alt,
      group,
      expected: words.right[0],
      rightBefore: isRightAnswer(asked.before, words),
      rightAfter: isRightAnswer(asked.after, words),
    };
  });
}
