/** Prompts with pictures and videos on the CPU: see `media_answers.ts`. */
import test from 'ava';
import { VltuneError } from '../../lib/errors.js';
import { Generator } from '../../lib/generate/generate.js';
import { VisionEncoder } from '../../lib/models/vision_encoder.js';
import { addon } from '../../lib/native.js';
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

test.serial('a picture that memory is too short for leaves a generator that sees the next one', async (t) => {
  const generator = await Generator.load(MODEL, { dtype: 'float32', device: 'cpu' });
  t.teardown(() => generator.release());
  const logits = (image: string) => generator.nextLogits({ prompt: 'What?', images: [image], folder: MEDIA_ROWS });
  const before = await logits('tall.png');
  // Stands in for an allocation that fails: a picture that fails on every machine does not fit a test.
  const { allocate } = VisionEncoder.prototype;
  t.teardown(() => {
    VisionEncoder.prototype.allocate = allocate;
  });
  VisionEncoder.prototype.allocate = () => {
    throw new VltuneError('ERR_OUT_OF_MEMORY', 'out of memory');
  };
  await t.throwsAsync(logits('photo.jpg'), { code: 'ERR_OUT_OF_MEMORY' });
  VisionEncoder.prototype.allocate = allocate;
  t.deepEqual(await logits('tall.png'), before);
});

test.serial('a generator that was not loaded to the end holds no memory', async (t) => {
  const before = addon().memory().current;
  const stop = new AbortController();
  const options = { loadIn4bit: true, device: 'cpu', signal: stop.signal, onProgress: () => stop.abort() } as const;
  await t.throwsAsync(Generator.load(MODEL, options), { code: 'ERR_CANCELLED' });
  t.is(addon().memory().current, before);
});
