/** What a micro-batch writes to a step's inputs, and what does not fit together. */
import test from 'ava';
import type { IoBuffers } from '../../lib/graph/io.js';
import { describeModel } from '../../lib/models/registry.js';
import { type MediaBatch, type MediaForm, type MicroBatch, writeMicroBatch } from '../../lib/train/micro_batch.js';
import { MODEL } from './support.js';

const { shape } = (await describeModel(MODEL)).spec.vision!;
const LEVELS = 1 + shape.deepstackLayers.length;
const FEATURES: MediaForm = { from: 'features', shape, dtype: 'bf16' };

function batch(media?: MediaBatch): MicroBatch {
  return {
    ids: Int32Array.of(5, 6, 7, 8),
    targets: Int32Array.of(-100, 7, 8, -100),
    positions: new Int32Array(12),
    bounds: Int32Array.of(0, 4),
    media,
  };
}

/** What `writeMicroBatch` writes, by name. */
function written(given: MicroBatch, form: MediaForm | undefined) {
  const inputs = new Map<string, ArrayLike<number>>();
  const io = { write: (name: string, data: ArrayLike<number>) => inputs.set(name, data) } as unknown as IoBuffers;
  return { lengths: writeMicroBatch(io, given, 0.5, form), inputs };
}

const features = (rows: number, levels: number = LEVELS) =>
  Array.from({ length: levels }, (_, level) => new Uint8Array(rows * shape.outSize * 2).fill(level));

test('rows with a target are told apart, and text alone has features of no pictures', (t) => {
  const { lengths, inputs } = written(batch(), FEATURES);
  t.deepEqual(lengths, { tokens: 4, bounds: 2, targets: 2, features: 0 });
  t.deepEqual(inputs.get('rows'), Int32Array.of(1, 2));
  t.deepEqual(inputs.get('loss_scale'), Float32Array.of(0.5));
  t.false(inputs.has('features'));
  t.deepEqual(written(batch(), undefined).lengths, { tokens: 4, bounds: 2, targets: 2 });
});

test('features go to their levels', (t) => {
  const { lengths, inputs } = written(batch({ rows: Int32Array.of(1, 2), grids: [[1, 2, 4]], features: features(2) }), FEATURES);
  t.is(lengths.features, 2);
  t.is(inputs.get('features')![0], 0);
  t.is(inputs.get('features_deepstack_0')![0], 1);
});

for (const [what, media, form, error] of [
  [
    'features of fewer tokens',
    { features: features(1) },
    FEATURES,
    { code: 'ERR_SHAPE', message: /2 tokens stand for pictures/ },
  ],
  ['a level too few', { features: features(2, LEVELS - 1) }, FEATURES, { code: 'ERR_SHAPE', message: /expected \d arrays/ }],
  ['no features', {}, FEATURES, { message: /reads features, and was given none/ }],
  ['no patches', {}, { ...FEATURES, from: 'patches' }, { message: /reads patches, and was given none/ }],
  ['pictures to a step for text', {}, undefined, { message: /built for text/ }],
] as const) {
  test(`a batch that brings ${what} is refused`, (t) => {
    t.throws(() => written(batch({ rows: Int32Array.of(1, 2), grids: [[1, 2, 4]], ...media }), form), error);
  });
}
