/** Batches made ready ahead of their use. */
import { setImmediate } from 'node:timers/promises';
import test from 'ava';
import { BatchStream, patchBytes } from '../../lib/data/batch_stream.js';
import type { RowMedia, RowSource } from '../../lib/data/token_dataset.js';

const GRID = [1, 2, 2] as const;
const PATCH_LENGTH = 256;

/** Rows of three tokens, the second of which is a picture; `decoded` and `read` tell what was asked for. */
function pictures(size: number, failing: { read?: number; patches?: number } = {}) {
  const decoded: number[] = [];
  const read: number[] = [];
  const source: RowSource = {
    size,
    lengths: new Int32Array(size).fill(3),
    targetCounts: new Int32Array(size).fill(1),
    read(row) {
      if (row === failing.read) throw new Error(`row ${row} cannot be read`);
      read.push(row);
      const media: RowMedia = {
        kind: 'image',
        grid: GRID,
        key: `${row}`,
        runs: [{ start: 1, height: 1, width: 1 }],
        patchLength: PATCH_LENGTH,
        patches: async () => {
          decoded.push(row);
          if (row === failing.patches) throw new Error(`row ${row} cannot be decoded`);
          return new Float32Array(4 * PATCH_LENGTH).fill(row);
        },
      };
      return { ids: Int32Array.of(row, 9, row), targets: Int32Array.of(row, -100, row), media: [media] };
    },
  };
  return { source, decoded, read };
}

const one = (size: number): Int32Array[] => Array.from({ length: size }, (_, i) => Int32Array.of(i));
const BYTES = patchBytes({ grid: GRID, patchLength: PATCH_LENGTH });

/** Until what was begun has had its turn. */
async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await setImmediate();
}

test('batches come in order, each with its own patches, and then no more', async (t) => {
  const { source, decoded } = pictures(7);
  const stream = new BatchStream(source, one(7));
  for (let i = 0; i < 7; i++) {
    const batch = stream.next()!;
    t.is(batch.ids[0], i);
    t.is((await batch.media[0]!.patches())[0], i);
    t.is(await batch.media[0]!.patches(), await batch.media[0]!.patches(), 'decoded once');
  }
  t.is(stream.next(), undefined);
  t.deepEqual(
    decoded.toSorted((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6],
  );
});

test('some batches are made ready ahead, and no more than were asked for', async (t) => {
  const { source, decoded } = pictures(20);
  const stream = new BatchStream(source, one(20), { ahead: 3 });
  stream.next();
  await settle();
  t.deepEqual(decoded, [0, 1, 2, 3]);
  stream.next();
  await settle();
  t.deepEqual(decoded, [0, 1, 2, 3, 4]);
});

test('patches that wait stay within their bound, but for the next batch', async (t) => {
  const { source, decoded } = pictures(20);
  const stream = new BatchStream(source, one(20), { ahead: 10, bytes: 2 * BYTES });
  stream.next();
  await settle();
  t.deepEqual(decoded, [0, 1, 2]);
  const tight = pictures(20);
  new BatchStream(tight.source, one(20), { bytes: 0 }).next();
  await settle();
  t.deepEqual(tight.decoded, [0, 1]);
});

test('what is not wanted is not decoded ahead, and can be asked for all the same', async (t) => {
  const { source, decoded } = pictures(4);
  const stream = new BatchStream(source, one(4), { wanted: ({ key }) => key !== '1' });
  stream.next();
  await settle();
  t.deepEqual(decoded, [0, 2, 3]);
  t.is((await stream.next()!.media[0]!.patches())[0], 1);
});

test('an error is told with the batch that it belongs to', async (t) => {
  const broken = pictures(4, { read: 2 });
  const stream = new BatchStream(broken.source, one(4));
  stream.next();
  await settle();
  t.is(stream.next()!.ids[0], 1);
  t.throws(() => stream.next(), { message: 'row 2 cannot be read' });

  const undecodable = pictures(3, { patches: 1 });
  const others = new BatchStream(undecodable.source, one(3));
  t.is((await others.next()!.media[0]!.patches())[0], 0);
  await settle();
  await t.throwsAsync(others.next()!.media[0]!.patches(), { message: 'row 1 cannot be decoded' });
  t.is((await others.next()!.media[0]!.patches())[0], 2);
});

test('a stream that was closed reads no more', async (t) => {
  const { source, read } = pictures(9);
  const stream = new BatchStream(source, one(9));
  stream.next();
  await stream.close();
  await settle();
  t.deepEqual(read, [0]);
  t.is(stream.next(), undefined);
});

/** The same rows, whose pictures are decoded until `finish` is called or a signal ends it. */
function slowPictures(size: number) {
  const { source } = pictures(size);
  const running = new Set<() => void>();
  const seen = { most: 0, begun: 0, ended: 0 };
  const patches = async (signal?: AbortSignal): Promise<Float32Array> => {
    seen.begun++;
    let done = () => {};
    let stop = () => {};
    const work = new Promise<void>((resolve, reject) => {
      done = resolve;
      stop = () => reject(new Error('ended'));
    });
    signal?.addEventListener('abort', stop);
    running.add(done);
    seen.most = Math.max(seen.most, running.size);
    try {
      await work;
    } finally {
      running.delete(done);
      signal?.removeEventListener('abort', stop);
      await settle(); // an end takes a while
      seen.ended++;
    }
    return new Float32Array(4 * PATCH_LENGTH);
  };
  const slow: RowSource = {
    ...source,
    read: (row) => {
      const { media, ...rest } = source.read(row);
      return { ...rest, media: media!.map((item) => ({ ...item, patches })) };
    },
  };
  const finish = () => {
    for (const resolve of running) resolve();
  };
  return { source: slow, seen, finish };
}

test('a few pictures are decoded at once, whoever asks for them and of whatever batch', async (t) => {
  const { source, seen, finish } = slowPictures(60);
  const batches = Array.from({ length: 3 }, (_, i) => Int32Array.from({ length: 20 }, (_, k) => 20 * i + k));
  const stream = new BatchStream(source, batches);
  let decoded: unknown;
  Promise.all(stream.next()!.media.map((item) => item.patches())).then((all) => {
    decoded = all;
  });
  for (let turn = 0; turn < 30; turn++) {
    await settle();
    finish();
  }
  t.is(seen.most, 3);
  t.truthy(decoded, 'those asked for come before those of later batches');
  await stream.close();
});

for (const [how, end] of [
  ['closed', (stream: BatchStream) => stream.close()],
  ['ended by a signal', (_: BatchStream, stop: AbortController) => stop.abort()],
] as const) {
  test(`a stream that was ${how} gives up what is being decoded, and once closed nothing is under way`, async (t) => {
    const { source, seen } = slowPictures(9);
    const stop = new AbortController();
    const stream = new BatchStream(source, one(9), { signal: stop.signal });
    const asked = stream.next()!.media[0]!.patches();
    await settle();
    t.is(seen.begun, 3);
    await Promise.all([t.throwsAsync(asked), end(stream, stop)]);
    await stream.close();
    t.is(seen.ended, 3);
    t.is(seen.begun, 3);
  });
}
