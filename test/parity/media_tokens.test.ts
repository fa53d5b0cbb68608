/** Rows with pictures as token ids, targets, grids and positions: what transformers' Qwen3VLProcessor makes of them (`media_tokens.py`). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

import { buildBatch } from '../../lib/data/batches.js';
import { MediaReader } from '../../lib/data/media/media_reader.js';
import { prepareDataset } from '../../lib/data/prepare.js';
import { ChatTemplate } from '../../lib/data/template.js';
import { Tokenizer } from '../../lib/data/tokenizer.js';
import { describeModel } from '../../lib/models/registry.js';
import { IGNORE_INDEX } from '../../lib/ops/linear_cross_entropy.js';
import { MEDIA_ROWS, MODEL } from './fixtures.js';

interface ExpectedRow {
  readonly name: string;
  /** A run of one id is [id, count]. */
  readonly ids: readonly (number | readonly [id: number, count: number])[];
  readonly targets: readonly (readonly [first: number, end: number])[];
  readonly grids: readonly (readonly number[])[];
  readonly positions?: readonly (readonly number[])[];
}

const { rows: ROWS } = JSON.parse(readFileSync(join(MEDIA_ROWS, 'tokens.json'), 'utf8')) as { rows: readonly ExpectedRow[] };

const tokenizer = await Tokenizer.load(MODEL);
const template = await ChatTemplate.load(MODEL, tokenizer);
const model = { folder: MODEL, ...(await describeModel(MODEL)) };
const media = await MediaReader.load(model, tokenizer);
const dataset = await prepareDataset([join(MEDIA_ROWS, 'rows.jsonl')], { tokenizer, template, media: async () => media });
test.after.always(() => dataset.close());

test('every row is there', (t) => t.is(dataset.size, ROWS.length));

for (const [i, { name, ids, targets, grids, positions }] of ROWS.entries()) {
  test(`the row "${name}" has transformers' token ids, targets and grids`, (t) => {
    const row = dataset.read(i);
    const expected = ids.flatMap((id) => (typeof id === 'number' ? [id] : Array.from({ length: id[1] }, () => id[0])));
    t.deepEqual([...row.ids], expected);
    const labels = expected.map((id, k) => (targets.some(([first, end]) => first <= k && k < end) ? id : IGNORE_INDEX));
    t.deepEqual([...row.targets], labels);
    const found = row.media ?? [];
    t.deepEqual(
      found.map(({ grid }) => grid),
      grids as (typeof found)[number]['grid'][],
    );
    for (const { kind, runs, grid } of found) {
      t.is(runs.length, grid[0]);
      t.is(
        runs.reduce((sum, { height, width }) => sum + height * width, 0),
        (grid[0] * grid[1] * grid[2]) / media.mergeSize ** 2,
      );
      for (const { start, height, width } of runs)
        t.true(
          row.ids
            .subarray(start, start + height * width)
            .every((id) => id === (kind === 'image' ? media.tokens.imageId : media.tokens.videoId)),
        );
    }
  });

  if (positions)
    test(`the row "${name}" has transformers' positions, behind another row too`, (t) => {
      const alone = buildBatch(dataset, [i]);
      t.deepEqual([...alone.positions], positions.flat());
      const packed = buildBatch(dataset, [0, i, 2]);
      const [, start, end] = packed.bounds;
      for (const axis of [0, 1, 2]) {
        const from = axis * packed.numTokens;
        t.deepEqual([...packed.positions.subarray(from + start!, from + end!)], positions[axis]);
      }
      const tokens = packed.media.flatMap((item) => [...item.tokens]);
      t.deepEqual(
        tokens,
        [...tokens].sort((a, b) => a - b),
      );
      t.is(new Set(tokens).size, tokens.length);
      t.true(tokens.every((token) => [media.tokens.imageId, media.tokens.videoId].includes(packed.ids[token]!) && token < end!));
    });
}
