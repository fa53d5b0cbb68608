import test from 'ava';
import { VisionCache } from '../../lib/train/vision_cache.js';

const picture = (key: string, width = 2) => ({ kind: 'image' as const, key, grid: [1, 2, width] as const });
const features = (bytes: number) => [new Uint8Array(bytes / 2), new Uint8Array(bytes / 2)];

test('features are found by contents, kind and grid', (t) => {
  const cache = new VisionCache(100);
  const made = features(40);
  cache.put(picture('a'), made);
  t.is(cache.get(picture('a')), made);
  t.true(cache.has(picture('a')));
  t.is(cache.get(picture('b')), undefined);
  t.is(cache.get(picture('a', 4)), undefined);
  t.is(cache.get({ ...picture('a'), kind: 'video' }), undefined, 'a GIF may be either');
});

test('what does not fit the budget stays out, and what is in stays', (t) => {
  const cache = new VisionCache(100);
  for (const key of ['a', 'b', 'c', 'd']) cache.put(picture(key), features(40));
  t.deepEqual(
    ['a', 'b', 'c', 'd'].map((key) => cache.has(picture(key))),
    [true, true, false, false],
  );
  t.is(cache.bytes, 80);
  cache.put(picture('e'), features(20));
  t.true(cache.has(picture('e')));
  cache.put(picture('e'), features(20));
  t.is(cache.bytes, 100);
  t.is(cache.size, 3);
});

test('a budget of nothing keeps nothing', (t) => {
  const cache = new VisionCache(0);
  cache.put(picture('a'), features(2));
  t.is(cache.size, 0);
});

test('over epochs in changing order, the share that fits is the share that is found', (t) => {
  const cache = new VisionCache(50 * 8);
  let found = 0;
  for (let epoch = 0; epoch < 5; epoch++) {
    for (let i = 0; i < 100; i++) {
      const media = picture(`${(i * (2 * epoch + 7)) % 100}`); // 7, 9, 11, 13, 15: not all coprime to 100, so some are asked for twice
      if (cache.get(media)) found += epoch > 0 ? 1 : 0;
      else cache.put(media, features(8));
    }
  }
  t.true(found >= 190, `${found} of 400`);
});
