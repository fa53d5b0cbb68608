import test from 'ava';
import { type Batch, type BatchMedia, buildBatch } from '../../lib/data/batches.js';
import type { VisionEncoder } from '../../lib/models/vision_encoder.js';
import { MediaFeed } from '../../lib/train/media_feed.js';
import { VisionCache } from '../../lib/train/vision_cache.js';

/** A batch of a row with two pictures, and the patches that were given back. */
function seen(): { batch: Batch; patches: Float32Array[]; recycled: Float32Array[] } {
  const patches = [new Float32Array(8), new Float32Array(8)];
  const recycled: Float32Array[] = [];
  const media = patches.map((array, i) => ({
    kind: 'image' as const,
    grid: [1, 2, 2] as const,
    key: String(i),
    runs: [{ start: i, height: 1, width: 1 }],
    patchLength: 2,
    patches: () => Promise.resolve(array),
    recycle: (given: Float32Array) => void recycled.push(given),
  }));
  const row = { ids: Int32Array.of(1, 2, 3), targets: Int32Array.of(-100, -100, 3), media };
  const source = { size: 1, lengths: Int32Array.of(3), read: () => row };
  return { batch: buildBatch(source as unknown as Parameters<typeof buildBatch>[0], [0]), patches, recycled };
}

test('patches that a step has read are given back, each to the picture it is of, and not before', async (t) => {
  const { batch, patches, recycled } = seen();
  const feed = new MediaFeed({ from: 'patches' });
  const micro = await feed.micro(batch);
  t.deepEqual(recycled, []);
  feed.recycle(batch, micro);
  t.true(recycled.length === 2 && recycled.every((array, i) => array === patches[i]));
});

test('patches of which features were made are given back as each is made', async (t) => {
  const { batch, patches, recycled } = seen();
  const before: number[] = [];
  const encode = () => {
    before.push(recycled.length);
    return Promise.resolve([new Uint8Array(4)]);
  };
  const feed = new MediaFeed({ from: 'features', encoder: { encode } as unknown as VisionEncoder, cache: new VisionCache(64) });
  const micro = await feed.micro(batch);
  t.deepEqual(before, [0, 1]);
  t.true(recycled.every((array, i) => array === patches[i]));
  feed.recycle(batch, micro);
  t.is(recycled.length, 2);
  t.false(batch.media.some((media: BatchMedia) => feed.wants(media)));
});
