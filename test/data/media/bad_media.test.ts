/** Files that are cut short or changed at random: whatever they hold, there is a picture or an error that names the file. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openImage } from '../../../lib/data/media/source.js';
import { isUserError, VltuneError } from '../../../lib/errors.js';
import { MersenneTwister } from '../../../lib/random.js';
import { MEDIA, mediaFixtures } from './fixtures.js';

const FILES = [
  ...['photo.png', 'photo.jpg', 'progressive.jpg', 'cmyk.jpg', 'rotated-by-xmp.jpg', 'palette-transparent.png', 'grey16.png'],
  ...['rgba16.png', 'lossy.webp', 'lossless.webp', 'transparent.gif', 'offset.gif', 'photo.avif', 'rgb.tif', 'cmyk.tif'],
];
const MUTATIONS = 30;

/** Whether a picture came of it; anything but a picture or an error that names the file fails the test. */
async function decodes(t: ExecutionContext, bytes: Uint8Array, name: string): Promise<boolean> {
  try {
    const image = await openImage({ bytes, path: name }, { folder: '/', place: 'rows.jsonl, line 3: image' });
    const pixels = await image.decode();
    t.is(pixels.data.length, pixels.width * pixels.height * 3, name);
    t.deepEqual([pixels.width, pixels.height], [image.width, image.height], name);
    return true;
  } catch (error) {
    t.true(error instanceof VltuneError && isUserError(error), `${name}: ${error}`);
    const { message } = error as Error;
    t.true(message.startsWith(`rows.jsonl, line 3: image: ${name}: `) && !message.includes('\n'), message);
    return false;
  }
}

for (const file of FILES) {
  const bytes = readFileSync(join(MEDIA, file));

  test(`${file} cut short anywhere is an error that names it`, async (t) => {
    // What Pillow's and libvips' decoders of these kinds both take for whole: the last bytes hold no pixel.
    const spared = bytes.length - Math.max(16, bytes.length >> 4);
    for (let i = 0; i < 20; i++) {
      const length = Math.floor((spared * i) / 20);
      t.false(await decodes(t, bytes.subarray(0, length), `cut-${length}-${file}`));
    }
  });

  test(`${file} changed at random gives a picture or an error that names it`, async (t) => {
    const random = new MersenneTwister(7 + FILES.indexOf(file));
    const below = (count: number) => Math.floor(random.uniform() * count);
    for (let i = 0; i < MUTATIONS; i++) {
      const changed = Uint8Array.from(bytes);
      // Headers are where a change does most.
      for (let n = 1 + below(8); n > 0; n--) changed[below(n % 2 ? bytes.length : Math.min(bytes.length, 200))] = below(256);
      await decodes(t, i % 3 ? changed : changed.subarray(0, below(bytes.length)), `changed-${i}-${file}`);
    }
  });
}

test('a file of random bytes after each signature is an error that names it', async (t) => {
  const random = new MersenneTwister(99);
  for (const { file } of mediaFixtures().files) {
    const noise = Uint8Array.from({ length: 500 }, () => random.uint32());
    noise.set(readFileSync(join(MEDIA, file)).subarray(0, 16));
    await decodes(t, noise, `noise-${file}`);
  }
  t.pass();
});
