/** Pictures and videos in rows: the spellings that datasets have, and what is wrong with a row that has them wrong. */
import { join } from 'node:path';
import test from 'ava';
import type { ContentItem } from '../../lib/data/message.js';
import { type ReadOptions, readRows } from '../../lib/data/read.js';
import type { ErrorCode } from '../../lib/errors.js';
import { MEDIA, throwsCode, writeTemporary } from './fixtures.js';

async function contents(path: string, options: ReadOptions = {}): Promise<(string | readonly ContentItem[])[]> {
  const found = [];
  for await (const { messages } of readRows([path], options)) found.push(messages.find(({ role }) => role === 'user')!.content);
  return found;
}

const text = (content: string) => ({ type: 'text' as const, text: content });
const image = (source: string, field: string) => ({ type: 'image' as const, image: source, field });
const video = (source: string | readonly string[], field: string) => ({ type: 'video' as const, video: source, field });
const A = { role: 'assistant', content: 'a' };
const row = (content: unknown, columns: object = {}): object => ({ messages: [{ role: 'user', content }, A], ...columns });

const FIRST = 'messages[0].content[0]';
const SECOND = 'messages[0].content[1]';

const SPELLINGS: readonly (readonly [title: string, row: object, content: string | readonly object[]])[] = [
  ['image', row([{ type: 'image', image: 'a.png' }, text('u')]), [image('a.png', FIRST), text('u')]],
  ['url', row([text('u'), { type: 'image', url: 'http://x/a.png' }]), [text('u'), image('http://x/a.png', SECOND)]],
  ['path', row([{ type: 'image', path: 'a.png' }]), [image('a.png', FIRST)]],
  ['image_url, an object', row([{ type: 'image_url', image_url: { url: 'data:x' } }]), [image('data:x', FIRST)]],
  ['image_url, a text', row([{ type: 'input_image', image_url: 'data:x' }]), [image('data:x', FIRST)]],
  [
    'nulls beside it, as Parquet fills up',
    row([{ type: 'image', text: null, image: 'a.png', url: null }]),
    [image('a.png', FIRST)],
  ],
  ['an object with a path', row([{ type: 'image', image: { bytes: null, path: 'a.png' } }]), [image('a.png', FIRST)]],
  ['video', row([{ type: 'video', video: 'a.mp4' }, text('u')]), [video('a.mp4', FIRST), text('u')]],
  ['video, frames', row([{ type: 'video', video: ['1.png', { path: '2.png' }] }]), [video(['1.png', '2.png'], FIRST)]],
  ["the converter's empty image", row([text('u'), { type: 'image', image: null }], { images: [], image: null }), [text('u')]],
  ['empty sound', row([text('u'), { type: 'audio', audio: null }]), [text('u')]],
  [
    'gaps filled from images, in order',
    row([{ type: 'image' }, text('u'), { type: 'image' }], { images: ['a.png', { path: 'b.png' }] }),
    [image('a.png', 'images[0]'), text('u'), image('b.png', 'images[1]')],
  ],
  [
    'gaps that Parquet fills with null',
    row(
      [
        { type: 'image', text: null, image: null },
        { type: 'text', text: 'u', image: null },
      ],
      { images: ['a.png'] },
    ),
    [image('a.png', 'images[0]'), text('u')],
  ],
  [
    'images without gaps, before the text',
    row('u', { images: ['a.png', 'b.png'] }),
    [image('a.png', 'images[0]'), image('b.png', 'images[1]'), text('u')],
  ],
  ['image, a column', row([text('u')], { image: 'a.png' }), [image('a.png', 'image'), text('u')]],
  [
    'images and videos without gaps',
    row('u', { images: ['a.png'], videos: ['b.mp4'] }),
    [image('a.png', 'images[0]'), video('b.mp4', 'videos[0]'), text('u')],
  ],
  [
    'tags in a text',
    row('<image>\nu <image>', { images: ['a.png', 'b.png'] }),
    [image('a.png', 'images[0]'), text('\nu '), image('b.png', 'images[1]')],
  ],
  ['a tag in a row without images is text', row('<image>\nu'), '<image>\nu'],
  [
    'Alpaca, after the text',
    { instruction: 'i', input: 'j', output: 'o', image: 'a.png' },
    [text('i\n\nInput:\nj'), image('a.png', 'image')],
  ],
  ['Alpaca, by its other names', { instruction: 'i', output: 'o', img: { path: 'a.png' } }, [text('i'), image('a.png', 'img')]],
  [
    'Alpaca with a column of images',
    { instruction: '<image>i', output: 'o', images: ['a.png'] },
    [image('a.png', 'images[0]'), text('i')],
  ],
  ['Alpaca with an empty image', { instruction: 'i', output: 'o', image: '' }, [text('i')]],
];

for (const [title, given, content] of SPELLINGS) {
  test(`media are read as ${title}`, async (t) => {
    const path = writeTemporary(t, 'a.jsonl', JSON.stringify(given));
    t.deepEqual(await contents(path), [content as string | readonly ContentItem[]]);
    const skipped: string[] = [];
    const left = await contents(path, { skipImages: true, onSkip: (place) => skipped.push(place) });
    const holdsMedia = typeof content !== 'string' && content.some((item) => (item as ContentItem).type !== 'text');
    t.is(left.length, holdsMedia ? 0 : 1);
    t.deepEqual(skipped, holdsMedia ? [`${path}, line 1`] : []);
  });
}

test('a turn may be a picture alone, but not an answer', async (t) => {
  const path = writeTemporary(t, 'a.jsonl', JSON.stringify(row([{ type: 'image', image: 'a.png' }])));
  t.is((await contents(path)).length, 1);
  const answer = {
    messages: [
      { role: 'user', content: 'u' },
      { role: 'assistant', content: [{ type: 'image', image: 'a.png' }] },
    ],
  };
  const bad = writeTemporary(t, 'b.jsonl', JSON.stringify(answer));
  await throwsCode(t, () => contents(bad), 'ERR_BAD_DATA', /messages\[1\]\.content: the assistant's text is missing or blank/);
});

test('pictures in Parquet come as their bytes, with the names they had', async (t) => {
  const [gaps, column] = await contents(join(MEDIA, 'rows.parquet'));
  const [first] = gaps as readonly ContentItem[];
  t.is(first!.type, 'image');
  const source = (first as { image: { bytes: Uint8Array; path: string } }).image;
  t.is(source.path, 'wide.png');
  t.deepEqual([...source.bytes.subarray(0, 4)], [0x89, 0x50, 0x4e, 0x47]);
  t.deepEqual(
    (gaps as readonly ContentItem[]).map(({ type }) => type),
    ['image', 'text', 'image'],
  );
  t.deepEqual(
    (column as readonly ContentItem[]).map(({ type }) => type),
    ['image', 'text'],
  );
});

const BAD: readonly (readonly [row: object, message: RegExp, code?: ErrorCode])[] = [
  [
    row([{ type: 'image' }, text('u')]),
    /messages\[0\]\.content\[0\]: a picture without a source, and the row has none in "images"/,
  ],
  [row([{ type: 'video' }]), /content\[0\]: a video without a source, and the row has none in "videos"/],
  [
    row([{ type: 'image' }], { images: ['a', 'b'] }),
    /images: holds 2 pictures, but the messages have 1 items \{"type":"image"\} without a source/,
  ],
  [row('<image> <image>', { images: ['a'] }), /images: holds 1 picture, but the messages have 2 times <image> in their texts/],
  [row([{ type: 'image', image: 7 }]), /content\[0\]: expected a picture's path, URL, base64 or .*, got the number 7/],
  [row([{ type: 'image', image: { width: 3 } }]), /content\[0\]: expected a picture's path.*, got an object/],
  [row('u', { images: ['a', null] }), /images\[1\]: expected a picture's path.*, got null/],
  [row([{ type: 'video', video: ['a', 7] }]), /content\[0\]\[1\]: expected a picture's path.*, got the number 7/],
  [row([{ type: 'image', image: 'half \ud83d' }]), /content\[0\]: the text holds half of a surrogate pair/],
  [row([{ type: 'audio', audio: 'a.wav' }]), /content\[0\]: sound is not supported.*--skip-images/, 'ERR_UNSUPPORTED'],
  [row('u', { audios: ['a.wav'] }), /: audios: sound is not supported/, 'ERR_UNSUPPORTED'],
  [row([{ type: 'picture', image: 'a' }]), /content\[0\]\.type: expected "text", "image" or "video", got "picture"/],
];

for (const [given, message, code = 'ERR_BAD_DATA'] of BAD) {
  test(`the row ${JSON.stringify(given)} is refused with its place and field`, async (t) => {
    const path = writeTemporary(t, 'a.jsonl', `${JSON.stringify(row('u'))}\n${JSON.stringify(given)}\n`);
    await throwsCode(t, () => contents(path), code, message);
    await throwsCode(t, () => contents(path), code, /a\.jsonl, line 2: /);
  });
}
