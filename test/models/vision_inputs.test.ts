import test from 'ava';
import type { Grid } from '../../lib/models/grid.js';
import { visionGridInputs } from '../../lib/models/vision_inputs.js';
import { readJson } from '../parity/fixtures.js';

interface Learned {
  readonly grid: Grid;
  readonly side: number;
  readonly ids: readonly number[];
  readonly weights: readonly number[];
}

for (const { grid, side, ids, weights } of readJson<{ learned: Learned[] }>('vision.json').learned) {
  test(`patches of ${grid.join(' x ')} lie between ${side} x ${side} learned positions as in transformers`, (t) => {
    const inputs = visionGridInputs([grid], { mergeSize: 2, gridSide: side });
    t.deepEqual([...inputs.ids], [...ids]);
    t.deepEqual([...inputs.weights], [...weights]);
  });
}

test('patches stand block by block, and see those of their own frame', (t) => {
  const inputs = visionGridInputs(
    [
      [1, 2, 4],
      [2, 2, 2],
    ],
    { mergeSize: 2, gridSide: 4 },
  );
  t.is(inputs.patches, 16);
  t.deepEqual([...inputs.bounds], [0, 8, 12, 16]);
  t.deepEqual([...inputs.positions.subarray(0, 16)], new Array(16).fill(0));
  t.deepEqual([...inputs.positions.subarray(16, 32)], [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
  t.deepEqual([...inputs.positions.subarray(32, 48)], [0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1, 0, 1, 0, 1]);
});

test('no pictures are no patches and one bound', (t) => {
  const inputs = visionGridInputs([], { mergeSize: 2, gridSide: 4 });
  t.is(inputs.patches, 0);
  t.deepEqual([...inputs.bounds], [0]);
});

test('a grid that cannot be merged is refused', (t) => {
  t.throws(() => visionGridInputs([[1, 3, 4]], { mergeSize: 2, gridSide: 4 }), {
    code: 'ERR_SHAPE',
    message: 'a grid of 1 x 3 x 4 patches: height and width must be multiples of 2',
  });
});
