/** What the made model knows: greedy answers to held-out questions, whole answer against whole answer, by category. */
import { Generator } from '../../lib/index.js';
import type { Corpus } from './corpus.js';
import { SIZES } from './files.js';
import type { Sight } from './measure_sight.js';
import { PICTURE_CATEGORIES } from './picture_questions.js';
import type { Category, Question } from './questions.js';
import { hash32 } from './random.js';

export interface Measure {
  category: Category;
  /** held-out problems or phrasings asked, and answered exactly right */
  heldOut: { asked: number; right: number };
  /** the same for a sample of questions of the training side */
  known: { asked: number; right: number };
  /** some that went wrong, for the reader of a log */
  wrong: { question: string; expected: string; got: string }[];
}

/** At most this many questions of a category and a side: enough for a figure, few enough for a minute. */
const SAMPLE = 60;

/** Answers greedily; the questions are picked by their text, so that two runs ask the same ones. */
export async function measure(folder: string, corpus: Corpus): Promise<Measure[]> {
  const model = await Generator.load(folder, { device: 'cpu' });
  try {
    const categories = [...new Set(corpus.questions.map(({ category }) => category))];
    const results: Measure[] = [];
    for (const category of categories) {
      const result: Measure = { category, heldOut: { asked: 0, right: 0 }, known: { asked: 0, right: 0 }, wrong: [] };
      for (const [side, questions] of [
        ['heldOut', corpus.heldOut],
        ['known', corpus.questions],
      ] as const) {
        for (const { question, answer } of sample(questions.filter((q) => q.category === category))) {
          const { text } = await model.complete({ prompt: question, temperature: 0, maxNewTokens: 64 });
          result[side].asked++;
          if (text === answer) result[side].right++;
          else result.wrong.push({ question, expected: answer, got: text });
        }
      }
      results.push(result);
    }
    return results;
  } finally {
    model.release();
  }
}

function sample(questions: readonly Question[]): Question[] {
  return [...questions].sort((a, b) => hash32(a.question) - hash32(b.question)).slice(0, SAMPLE);
}

/** The model folder's README.md. */
export function modelCard(texts: readonly Measure[], { heldOut, known, relations }: Sight): string {
  const figure = ({ asked, right }: { asked: number; right: number }) => (asked === 0 ? '-' : `${right} of ${asked}`);
  const { text, vision } = SIZES;
  return `---
license: apache-2.0
library_name: vltune
pipeline_tag: image-text-to-text
pictures: true
---
# vltune-tiny

A Qwen3-VL in miniature, to try vltune with: ${text.layers} layers of ${text.hidden} dimensions and a vision tower of ${vision.depth} blocks of ${vision.hidden}, a byte-level BPE of 2,048 words,
weights in bf16. It was made from nothing by \`npm run tiny-model\` of the vltune project, with vltune's own full fine-tuning, on short questions and
answers and on drawn pictures that the script generates (scripts/tiny-model). It answers such questions in whole sentences, in English and a little in
German, French, Spanish, Italian, Portuguese and Dutch, and says of a picture like those what colour and shape a thing has, how many there are and
where they stand; it is good for nothing else.

Greedy answers about pictures of one to five shapes, 96 to 128 pixels wide, that say what is right. Held out of training: the arrangements of things
themselves, whatever their sizes, shades and places.

| pictures | held out | trained on |
|---|---|---|
${[...PICTURE_CATEGORIES, 'all' as const].map((category) => `| ${category} | ${figure(heldOut[category])} | ${figure(known[category])} |`).join('\n')}

Where one of two things is, seen from the other, was asked in training too. Of held-out pictures ${figure(relations.which)} answers are right where
two places are named ("Is the star left or right of the circle?"), and ${figure(relations.whether)} to "Is the star left of the circle?", where half would be
by chance.

Greedy answers without a picture that were right in every character. Held out of training: for sums, counting, comparing and names the problems
themselves, for the rest phrasings of known facts.

| questions | held out | trained on |
|---|---|---|
${texts.map(({ category, heldOut, known }) => `| ${category} | ${figure(heldOut)} | ${figure(known)} |`).join('\n')}
`;
}
