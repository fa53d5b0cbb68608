/** Rows with pictures as a dataset: what is cut, what is a target, what is read back, and what is said of pictures that changed. */
import { once } from 'node:events';
import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type MediaOptions, MediaReader } from '../../lib/data/media/media_reader.js';
import { type PrepareOptions, prepareDataset } from '../../lib/data/prepare.js';
import { ChatTemplate } from '../../lib/data/template.js';
import type { TokenDataset } from '../../lib/data/token_dataset.js';
import { Tokenizer } from '../../lib/data/tokenizer.js';
import { IGNORE_INDEX } from '../../lib/ops/linear_cross_entropy.js';
import { MEDIA, TINY, temporaryFolder, throwsCode } from './fixtures.js';

const tokenizer = await Tokenizer.load(TINY);
const template = await ChatTemplate.load(TINY, tokenizer);
const reader = await MediaReader.load(TINY, tokenizer);

const text = (content: string) => ({ type: 'text', text: content });
const image = (source: string) => ({ type: 'image', image: source });
const row = (...turns: unknown[]): object => ({
  messages: turns.map((content, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content })),
});

/** A data file beside copies of the pictures. */
function folderOf(t: ExecutionContext, rows: readonly object[]): { folder: string; file: string } {
  const folder = temporaryFolder(t);
  for (const name of ['tall.png', 'wide.png', 'square.png', 'photo.jpg']) copyFileSync(join(MEDIA, name), join(folder, name));
  const file = join(folder, 'rows.jsonl');
  writeFileSync(file, rows.map((one) => JSON.stringify(one)).join('\n'));
  return { folder, file };
}

async function prepare(t: ExecutionContext, file: string, options: Partial<PrepareOptions> = {}): Promise<TokenDataset> {
  const dataset = await prepareDataset([file], { tokenizer, template, media: async () => reader, ...options });
  t.teardown(() => dataset.close());
  return dataset;
}

const decode = (ids: ArrayLike<number>) => tokenizer.decode(ids, { skipSpecial: false });

test('a row that is too long is cut before a picture that does not fit whole', async (t) => {
  const { file } = folderOf(t, [row([image('square.png'), text('one')], 'first', [text('and '), image('wide.png')], 'second')]);
  const whole = await prepare(t, file);
  const { ids, media } = whole.read(0);
  const second = media![1]!.runs[0]!;
  // One token short of the second picture's end: the picture goes, and its vision_start with it.
  const end = second.start + second.height * second.width + 1;
  for (const maxLength of [end - 1, end - 20, second.start]) {
    const dataset = await prepare(t, file, { maxLength });
    const cut = dataset.read(0);
    t.deepEqual(cut.ids, ids.subarray(0, second.start - 1));
    t.regex(await decode(cut.ids), /user\nand $/);
    t.is(cut.media!.length, 1);
    t.like(dataset.stats, { truncated: 1, lostMedia: 1, media: 1, dropped: 0, rows: 1 });
    t.regex(dataset.stats.firstLostMedia!, /rows\.jsonl, line 1, of \d+ tokens$/);
    t.is(dataset.patchCounts![0], 16 * 16);
  }
  const fits = await prepare(t, file, { maxLength: end });
  t.is(fits.read(0).media!.length, 2);
  t.like(fits.stats, { truncated: 1, lostMedia: 0 });
});

test('a row that loses its only picture and all targets with it is left out and counted', async (t) => {
  const { file } = folderOf(t, [row([image('photo.jpg'), text('one')], 'first'), row('short', 'answer')]);
  const dataset = await prepare(t, file, { maxLength: 64 });
  t.like(dataset.stats, { rows: 1, dropped: 1, lostMedia: 1, media: 0 });
  t.is(dataset.patchCounts, undefined);
  const { file: only } = folderOf(t, [row([image('photo.jpg'), text('one')], 'first')]);
  await throwsCode(
    t,
    () => prepare(t, only, { maxLength: 64 }),
    'ERR_BAD_DATA',
    /1 of them hold.* do not fit.*rows\.jsonl, line 1/,
  );
});

test('where all text is learnt, what stands for pictures is not', async (t) => {
  const { file } = folderOf(t, [row([text('see '), image('square.png'), text(' here')], 'yes')]);
  const dataset = await prepare(t, file, { assistantOnlyLoss: false });
  const { ids, targets, media } = dataset.read(0);
  const { start, height, width } = media![0]!.runs[0]!;
  for (const [i, label] of targets.entries()) {
    // vision_start and vision_end belong to the picture.
    const inside = i >= start - 1 && i <= start + height * width;
    t.is(label, inside ? IGNORE_INDEX : ids[i]!, `token ${i}`);
  }
  t.is(dataset.targetCounts[0], ids.length - (height * width + 2) - 1);
});

test('pictures are decoded when they are asked for, from files and from bytes that came with the row alike', async (t) => {
  const bytes = readFileSync(join(MEDIA, 'square.png')).toString('base64');
  const { file } = folderOf(t, [
    row([image('square.png')], 'a'),
    row('no picture', 'b'),
    row([image(`data:image/png;base64,${bytes}`), image('wide.png')], 'c'),
    row([image(bytes)], 'd'),
  ]);
  const dataset = await prepare(t, file);
  const [first, none, third, fourth] = [0, 1, 2, 3].map((i) => dataset.read(i).media ?? []);
  t.is(none!.length, 0);
  const patches = await first![0]!.patches();
  t.is(patches.length, 16 * 16 * first![0]!.patchLength);
  t.deepEqual(await third![0]!.patches(), patches);
  t.deepEqual(await fourth![0]!.patches(), patches);
  t.is(third![0]!.key, fourth![0]!.key);
  t.not(third![0]!.key, third![1]!.key);
  t.deepEqual([...dataset.patchCounts!], [256, 0, 256 + 260, 256]);
  t.deepEqual([...dataset.frameCounts!], [1, 0, 2, 1]);
  t.deepEqual(dataset.largestMedia, { patches: 260, frames: 1 });
});

test('a picture that is another by the time it is decoded is named by row and field', async (t) => {
  const { folder, file } = folderOf(t, [row('x', 'y'), row([text('u'), image('square.png')], 'a')]);
  const dataset = await prepare(t, file);
  const [media] = dataset.read(1).media!;
  copyFileSync(join(MEDIA, 'tall.png'), join(folder, 'square.png'));
  await throwsCode(
    t,
    () => media!.patches(),
    'ERR_BAD_DATA',
    /rows\.jsonl, line 2: messages\[0\]\.content\[1\]: .*no longer the one/,
  );
  writeFileSync(join(folder, 'square.png'), 'not a picture');
  await throwsCode(
    t,
    () => media!.patches(),
    'ERR_BAD_DATA',
    /rows\.jsonl, line 2: messages\[0\]\.content\[1\]: .*not a picture/,
  );
});

test('pictures out of Parquet are those of the files that they were made from', async (t) => {
  const dataset = await prepare(t, join(MEDIA, 'rows.parquet'));
  const { file } = folderOf(t, [row([image('wide.png'), text('x'), image('tall.png')], 'a')]);
  const files = (await prepare(t, file)).read(0).media!;
  const [wide, tall] = dataset.read(0).media!;
  t.deepEqual(await wide!.patches(), await files[0]!.patches());
  t.deepEqual(await tall!.patches(), await files[1]!.patches());
});

test('a picture from the network is fetched once, if it may be, and kept', async (t) => {
  let asked = 0;
  const server = createServer((_, response) => {
    asked++;
    response.end(readFileSync(join(MEDIA, 'square.png')));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const { file } = folderOf(t, [row([image(`http://127.0.0.1:${port}/a.png`)], 'a'), row([image('square.png')], 'b')]);
  await throwsCode(t, () => prepare(t, file), 'ERR_USAGE', /line 1: messages\[0\]\.content\[0\]: http.*--allow-remote-images/);
  t.is(asked, 0);
  const remote = await MediaReader.load(TINY, tokenizer, { allowRemote: true });
  const dataset = await prepare(t, file, { media: async () => remote });
  server.close();
  t.is(asked, 1);
  t.deepEqual(await dataset.read(0).media![0]!.patches(), await dataset.read(1).media![0]!.patches());
  t.is(asked, 1);
});

test('what is wrong with one row ends what is under way for later ones', async (t) => {
  let missing: ServerResponse | undefined;
  let ended: Promise<unknown> | undefined;
  const server = createServer((request, response) => {
    if (request.url === '/missing.png') {
      missing = response;
      return;
    }
    // The later picture never comes; the earlier one is found missing once the later one is asked for.
    ended = once(response, 'close');
    missing!.writeHead(404).end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const picture = (name: string) => row([image(`http://127.0.0.1:${port}/${name}`)], 'a');
  const texts = Array.from({ length: 40 }, () => row('x', 'y'));
  const { file } = folderOf(t, [picture('missing.png'), ...texts, picture('never.png'), row('x', 'y')]);
  const remote = await MediaReader.load(TINY, tokenizer, { allowRemote: true });
  await throwsCode(t, () => prepare(t, file, { media: async () => remote }), 'ERR_NOT_FOUND', /line 1: .*missing\.png/);
  await ended;
});

test('the fingerprint knows pictures by their bytes or names, wherever they lie', async (t) => {
  const rows = [row([image('square.png')], 'a')];
  const [here, there] = [folderOf(t, rows), folderOf(t, rows)];
  const print = async (file: string) => (await prepare(t, file)).fingerprint;
  t.is(await print(here.file), await print(there.file));
  const bytes = readFileSync(join(MEDIA, 'square.png'));
  const inline = (data: Uint8Array) =>
    folderOf(t, [row([image(`data:image/png;base64,${Buffer.from(data).toString('base64')}`)], 'a')]);
  const changed = Buffer.from(bytes);
  changed[changed.length - 1]! ^= 1; // behind the picture's end: the same size and pixels, another file
  t.not(await print(inline(bytes).file), await print(inline(changed).file));
});

/** A data file whose row has a folder of frames beside it as its video. */
function framesOf(t: ExecutionContext): { frames: string; file: string } {
  const { folder, file } = folderOf(t, [row([{ type: 'video', video: 'frames' }], 'a')]);
  const frames = join(folder, 'frames');
  mkdirSync(frames);
  for (const name of ['frame0.png', 'frame1.png']) copyFileSync(join(MEDIA, name), join(frames, name));
  return { frames, file };
}

test('a folder of frames is known by its frames', async (t) => {
  const [here, there, other] = [framesOf(t), framesOf(t), framesOf(t)];
  const print = async ({ file }: { file: string }) => (await prepare(t, file)).fingerprint;
  copyFileSync(join(MEDIA, 'frame2.png'), join(other.frames, 'frame1.png'));
  t.is(await print(here), await print(there));
  t.not(await print(here), await print(other));
});

test('no frame of a folder lies outside the image root', async (t) => {
  const { frames, file } = framesOf(t);
  const options = { imageRoot: join(file, '..') };
  const rooted = await MediaReader.load(TINY, tokenizer, options);
  const seen = (await prepare(t, file, { media: async () => rooted })).read(0).media!;
  t.is((await seen[0]!.patches()).length, seen[0]!.grid.reduce((product, size) => product * size) * seen[0]!.patchLength);
  rmSync(join(frames, 'frame1.png'));
  symlinkSync(join(MEDIA, 'frame1.png'), join(frames, 'frame1.png'));
  await throwsCode(
    t,
    () => prepare(t, file, { media: async () => rooted }),
    'ERR_BAD_DATA',
    /line 1: messages\[0\]\.content\[0\]: .*frame1\.png: it leads out of the image root/,
  );
});

const REFUSED: readonly (readonly [title: string, row: object, message: RegExp, options?: Partial<PrepareOptions>])[] = [
  ['in the plain form', row([image('a.png')], 'b'), /content\[0\]: the plain text form has no place/, { textFormat: 'plain' }],
  [
    'without a reader',
    row([image('a.png')], 'b'),
    /content\[0\]: the model reads no images.*--skip-images/,
    { media: undefined },
  ],
  ["in the assistant's turn", row('a', [text('b'), image('a.png')]), /messages\[1\]\.content\[1\]: /],
  ['that is not there', row([text('u'), image('none.png')], 'b'), /messages\[0\]\.content\[1\]: none\.png: no such file/],
];

for (const [title, given, message, options] of REFUSED) {
  test(`a picture ${title} is refused with its row`, async (t) => {
    const { file } = folderOf(t, [row('x', 'y'), given]);
    const error = await t.throwsAsync(() => prepare(t, file, options));
    t.regex(error!.message, message);
    t.regex(error!.message, /rows\.jsonl, line 2: /);
  });
}

test('bounds on the pixels of a video replace those of the model', async (t) => {
  const frames = ['wide.png', 'wide.png', 'wide.png', 'wide.png'].map((name) => join(MEDIA, name));
  const patches = async (video: MediaOptions['video']): Promise<number> => {
    const given = await MediaReader.load(TINY, tokenizer, { video });
    const { grid } = await given.see({ type: 'video', video: frames, field: 'video' }, MEDIA, 'here');
    return grid[0] * grid[1] * grid[2];
  };
  const [few, whole] = [await patches({ minPixels: 1, maxPixels: 4 * 64 * 64 }), await patches(undefined)];
  t.true(few < whole, `${few}, ${whole}`);
  await t.throwsAsync(patches({ minFrames: 9, maxFrames: 8 }), { code: 'ERR_USAGE', message: /9.*8/ });
});

test('the memory of patches that were read holds those of the next picture, and no trace of the last', async (t) => {
  const [first, second] = await Promise.all(
    ['tall.png', 'wide.png'].map((name) =>
      reader.see({ type: 'image', image: join(MEDIA, name), field: 'image' }, MEDIA, 'here'),
    ),
  );
  const used = await reader.patches(first!, 'here');
  const { buffer } = used;
  reader.recycle(used);
  t.deepEqual([used.length, buffer.byteLength], [0, 0]);
  for (const seen of [first!, second!]) {
    const fresh = await MediaReader.load(TINY, tokenizer);
    const again = await reader.patches(seen, 'here');
    t.deepEqual(again, await fresh.patches(seen, 'here'));
    reader.recycle(again);
  }
});
