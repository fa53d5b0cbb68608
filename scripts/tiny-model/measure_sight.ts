/** What the made model sees: greedy answers about drawn pictures that it has and has not learned from, by category. */
import { Generator } from '../../lib/index.js';
import { type PictureQuestion, PLAIN_FORMS, RELATION_FORMS, WHETHER_FORM } from './picture_questions.js';
import { isRight, type Score, score } from './picture_score.js';
import { askedPictures, type PictureSetOptions, png } from './pictures.js';
import { drawScene } from './scenes.js';
import { SEED, SEVERAL } from './settings.js';

export interface Sight {
  /** pictures of arrangements that no training picture shows */
  heldOut: Score;
  /** the same for a sample of the training pictures */
  known: Score;
  /** of held-out pictures with several things: where one is, seen from another; asked which of two it is, and whether it is so */
  relations: { which: Score['all']; whether: Score['all'] };
  /** some that went wrong, for the reader of a log */
  wrong: { question: string; expected: string; got: string }[];
}

/** Pictures of a side: some hundred to a category. */
const SAMPLE = 400;

export async function measureSight(folder: string): Promise<Sight> {
  const model = await Generator.load(folder, { device: 'cpu' });
  try {
    const heldOut = await look(model, { side: 'test', seed: SEED, count: SAMPLE, forms: PLAIN_FORMS });
    const known = await look(model, { ...SEVERAL, count: SAMPLE, forms: PLAIN_FORMS });
    const related = { side: 'test', seed: SEED, count: SAMPLE / 2 } as const;
    const which = await look(model, { ...related, forms: RELATION_FORMS.filter((form) => form !== WHETHER_FORM) });
    const whether = await look(model, { ...related, forms: [WHETHER_FORM] });
    return {
      heldOut: heldOut.score,
      known: known.score,
      relations: { which: which.score.all, whether: whether.score.all },
      wrong: [...heldOut.wrong, ...known.wrong, ...which.wrong, ...whether.wrong],
    };
  } finally {
    model.release();
  }
}

/** Asks the first question about each picture of a set. */
export async function look(model: Generator, pictures: PictureSetOptions): Promise<{ score: Score; wrong: Sight['wrong'] }> {
  const questions: PictureQuestion[] = [];
  const answers: string[] = [];
  for (const { scene, questions: asked } of askedPictures(pictures)) {
    const [first] = asked;
    const { text } = await model.complete({
      prompt: first!.question,
      images: [await png(drawScene(scene))],
      temperature: 0,
      maxNewTokens: 48,
    });
    questions.push(first!);
    answers.push(text);
  }
  const wrong = questions.flatMap((question, i) =>
    isRight(question, answers[i]!) ? [] : [{ question: question.question, expected: question.answer, got: answers[i]! }],
  );
  return { score: score(questions, answers), wrong };
}
