/** Prompts with pictures and videos on the CPU: see `media_answers.ts`. */
import test from 'ava';
import { Generator } from '../../lib/generate/generate.js';
import { MEDIA_ROWS, MODEL } from './fixtures.js';
import { checkMediaAnswers, MEDIA_ADAPTERS } from './media_answers.js';

for (const adapter of MEDIA_ADAPTERS) {
  test(`prompts with pictures and videos have transformers' logits and greedy tokens: ${adapter ?? 'base'}`, (t) =>
    checkMediaAnswers(t, adapter, 'cpu'));
}

test("a prompt's images and videos stand before its text, as messages would have them", async (t) => {
  const generator = await Generator.load(MODEL, { dtype: 'float32', device: 'cpu' });
  try {
    const folder = MEDIA_ROWS;
    const frames = ['frame0.png', 'frame1.png'];
    const prompt = await generator.promptIds({ prompt: 'What?', images: ['tall.png'], videos: [frames], folder });
    const content = [
      { type: 'image' as const, image: 'tall.png' },
      { type: 'video' as const, video: frames },
      { type: 'text' as const, text: 'What?' },
    ];
    t.deepEqual(prompt, await generator.promptIds({ messages: [{ role: 'user', content }], folder }));
    await t.throwsAsync(() => generator.promptIds({ prompt: 'What?', images: ['none.png'], folder }), {
      code: 'ERR_NOT_FOUND',
      message: /^images\[0\]: none\.png: no such file/,
    });
    await t.throwsAsync(() => generator.promptIds({ raw: 'What?', images: ['tall.png'], folder }), { code: 'ERR_USAGE' });
  } finally {
    generator.release();
  }
});
