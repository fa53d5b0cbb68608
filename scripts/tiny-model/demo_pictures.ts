/** The pictures that `vltune demo` asks about before and after training: a hundred of the test's, as rows that training reads too. */
import sharp from 'sharp';
import type { DemoPictureRow } from '../../lib/cli/demo_questions.js';
import { PLAIN_FORMS, plural } from './picture_questions.js';
import { answerWords } from './picture_score.js';
import { askedPictures } from './pictures.js';
import type { Canvas } from './raster.js';
import { drawScene, type Scene } from './scenes.js';
import { SEED } from './settings.js';

const COUNT = 100;

export async function* demoPictureRows(): AsyncGenerator<DemoPictureRow> {
  for (const { scene, questions } of askedPictures({ side: 'test', seed: SEED, count: COUNT, forms: PLAIN_FORMS })) {
    const [{ question, answer, category, ...judged }] = questions as [(typeof questions)[number]];
    const image = `data:image/webp;base64,${(await webp(drawScene(scene))).toString('base64')}`;
    yield {
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image', image },
            { type: 'text', text: question },
          ],
        },
        { role: 'assistant', content: answer },
      ],
      alt: description(scene),
      group: category,
      words: answerWords(judged),
    };
  }
}

/** Lossless, and two thirds of a PNG. */
async function webp({ pixels, width, height }: Canvas): Promise<Buffer> {
  return await sharp(pixels, { raw: { width, height, channels: 3 } })
    .webp({ lossless: true, effort: 6 })
    .toBuffer();
}

/** In words what is to be seen: "2 red circles, an orange star". */
function description({ things }: Scene): string {
  const counts = new Map<string, number>();
  for (const { colour, shape } of things) counts.set(`${colour} ${shape}`, (counts.get(`${colour} ${shape}`) ?? 0) + 1);
  const named = ([name, count]: readonly [string, number]): string =>
    count > 1 ? `${count} ${plural(name)}` : `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`;
  return [...counts].map(named).join(', ');
}
