import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { MEDIA, mediaFixtures, openFixture, sha } from './fixtures.js';

const { files } = mediaFixtures();

for (const { file, mode, width, height, rgb } of files.filter((entry) => !entry.file.endsWith('.avif'))) {
  test(`${file} (${mode}) decodes to the bytes of Pillow`, async (t) => {
    const image = await openFixture(file);
    t.deepEqual([image.width, image.height], [width, height], 'from the header');
    const pixels = await image.decode();
    t.deepEqual([pixels.width, pixels.height], [width, height]);
    t.is(sha(pixels.data), rgb);
  });
}

test('AVIF, whose decoders turn YUV into RGB in other ways, comes within a few steps of Pillow', async (t) => {
  const { data } = await (await openFixture('photo.avif')).decode();
  const expected = readFileSync(join(MEDIA, 'photo.avif.rgb'));
  t.is(data.length, expected.length);
  const off = data.map((value, i) => Math.abs(value - expected[i]!));
  t.true(off.reduce((sum, value) => sum + value, 0) / off.length < 1.5, 'on average');
  t.true(Math.max(...off) <= 16);
});

test('a picture is decoded by what it holds, not by what its name ends in', async (t) => {
  const bytes = readFileSync(join(MEDIA, 'palette.png'));
  const { openImage } = await import('../../../lib/data/media/source.js');
  const image = await openImage({ bytes, path: 'palette.jpg' }, { folder: MEDIA });
  t.is(sha((await image.decode()).data), files.find(({ file }) => file === 'palette.png')!.rgb);
});
