import { join } from 'node:path';
import test from 'ava';
import { type ImageBackend, ImageProcessor } from '../../../lib/data/media/image_processor.js';
import { readSafetensorsHeader } from '../../../lib/weights/safetensors.js';
import { readFloats } from '../../parity/fixtures.js';
import { TINY, temporaryFolder, throwsCode, writeTemporary } from '../fixtures.js';
import { MEDIA, mediaFixtures, photo, sha, tiled } from './fixtures.js';

const { configs, images } = mediaFixtures();
const BACKENDS: readonly ImageBackend[] = ['torchvision', 'pil'];

for (const backend of BACKENDS) {
  for (const [name, config] of Object.entries(configs)) {
    test(`patches of every size are the bytes of transformers' ${backend} processor: ${name}`, async (t) => {
      const picture = await photo();
      const processor = ImageProcessor.fromConfig(config, { backend });
      for (const expected of images.filter((image) => image.config === name)) {
        const { width, height } = expected;
        t.deepEqual(processor.gridOf(width, height), expected.grid, `${width}×${height}`);
        const { patches, grid } = await processor.process(tiled(picture, width, height));
        t.deepEqual(grid, expected.grid);
        t.is(sha(patches), expected[backend], `${width}×${height}`);
      }
    });
  }
}

test('the patches of a small picture are those of transformers number for number', async (t) => {
  const path = join(MEDIA, 'patches.safetensors');
  const config = JSON.parse((await readSafetensorsHeader(path)).metadata.config!);
  const expected = await readFloats(path);
  const pixels = tiled(await photo(), 30, 22, 40, 30);
  for (const backend of BACKENDS)
    t.deepEqual((await ImageProcessor.fromConfig(config, { backend }).process(pixels)).patches, expected.get(backend), backend);
});

test('the two processors differ, by a step or two of 255', async (t) => {
  const { width, height } = images.find((image) => image.config === 'small' && image.torchvision !== image.pil)!;
  const pixels = tiled(await photo(), width, height);
  const [one, other] = await Promise.all(
    BACKENDS.map((backend) => ImageProcessor.fromConfig(configs.small!, { backend }).process(pixels)),
  );
  const most = one!.patches.reduce((so, value, i) => Math.max(so, Math.abs(value - other!.patches[i]!)), 0);
  t.true(most > 0 && most < 2.5 / 127.5);
});

test('bounds on the pixels given by the user come before those of the config', (t) => {
  const bounded = ImageProcessor.fromConfig(configs.qwen3!, { minPixels: 1024, maxPixels: 64 * 1024 });
  t.deepEqual(bounded.gridOf(1000, 1000), [1, 16, 16]);
  t.deepEqual(bounded.gridOf(32, 32), [1, 2, 2]);
  t.deepEqual(ImageProcessor.fromConfig(configs.qwen3!).gridOf(32, 32), [1, 16, 16]);
});

test('several pictures are made at a time, each its own', async (t) => {
  const picture = await photo();
  const processor = ImageProcessor.fromConfig(configs.small!);
  const wanted = images.filter(({ config, width, height }) => config === 'small' && width * height < 500_000);
  const made = await Promise.all(wanted.map(({ width, height }) => processor.process(tiled(picture, width, height))));
  t.deepEqual(
    made.map(({ patches }) => sha(patches)),
    wanted.map(({ torchvision }) => torchvision),
  );
});

test('patches are written into a part of what is given, and nowhere else', async (t) => {
  const { width, height, grid, torchvision } = images.find((image) => image.config === 'small')!;
  const processor = ImageProcessor.fromConfig(configs.small!);
  const length = grid[1] * grid[2] * processor.patchLength;
  const batch = new Float32Array(length + 20).fill(7);
  const made = await processor.process(tiled(await photo(), width, height), batch.subarray(10, 10 + length));
  t.is(sha(made.patches), torchvision);
  t.deepEqual(new Set([...batch.subarray(0, 10), ...batch.subarray(-10)]), new Set([7]));
  const other = { data: new Uint8Array(64 * 64 * 3), width: 64, height: 64 };
  await t.throwsAsync(() => processor.process(other, new Float32Array(5)), {
    code: 'ERR_SHAPE',
    message: /out: \d+ numbers, expected \d+/,
  });
});

test('the processor of a model folder is found, in a file of its own or nested in processor_config.json', async (t) => {
  const processor = await ImageProcessor.load(TINY);
  t.deepEqual([processor.patchSize, processor.mergeSize, processor.temporalPatchSize, processor.patchLength], [16, 2, 2, 1536]);
  const nested = { image_processor: { ...configs.qwen2, patch_size: 8 }, processor_class: 'Qwen3VLProcessor' };
  const folder = join(writeTemporary(t, 'processor_config.json', JSON.stringify(nested)), '..');
  t.is((await ImageProcessor.load(folder)).patchSize, 8);
  await throwsCode(t, () => ImageProcessor.load(temporaryFolder(t)), 'ERR_BAD_CHECKPOINT', /no preprocessor_config\.json/);
});

test('a bad config or bound is refused by file and key', async (t) => {
  const refuses = (
    change: object,
    message: RegExp,
    options = {},
    code: 'ERR_BAD_CHECKPOINT' | 'ERR_UNSUPPORTED' | 'ERR_USAGE' = 'ERR_BAD_CHECKPOINT',
  ) => throwsCode(t, async () => ImageProcessor.fromConfig({ ...configs.qwen3, ...change }, options, 'a/p.json'), code, message);
  await refuses({ patch_size: 0 }, /^a\/p\.json: patch_size must be a whole number from 1 to 256, got 0$/);
  await refuses({ size: { shortest_edge: 100 } }, /^a\/p\.json: size\.longest_edge must be .*got nothing$/);
  await refuses({ size: { shortest_edge: 100, longest_edge: 10 } }, /^a\/p\.json: the least number of pixels \(100\) is above/);
  await refuses({ image_std: [1, 0, 1] }, /image_std must be three numbers other than 0/);
  await refuses({ image_mean: [1, 'x', 1] }, /image_mean must be three numbers, got/);
  await refuses({ do_normalize: 'no' }, /do_normalize must be true or false, got "no"/);
  await refuses({ resample: 1 }, /resample is 1; only 3 \(bicubic\)/, {}, 'ERR_UNSUPPORTED');
  await refuses({}, /least number of pixels \(1e\+?09|least number of pixels \(1000000000\)/, { minPixels: 1e9 }, 'ERR_USAGE');
});

test('a picture that is too long and thin, or does not fit a model that resizes nothing, is refused by its size', async (t) => {
  const processor = ImageProcessor.fromConfig(configs.qwen3!);
  t.notThrows(() => processor.gridOf(200, 1));
  await throwsCode(t, async () => processor.gridOf(201, 1), 'ERR_BAD_DATA', /201×1: one side may be at most 200 times the other/);
  const fixed = ImageProcessor.fromConfig(configs['not resized']!);
  await throwsCode(t, async () => fixed.gridOf(96, 50), 'ERR_BAD_DATA', /96×50: .*both sides must be multiples of 32/);
});
