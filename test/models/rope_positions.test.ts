import test from 'ava';
import { ropePositions, writeRopePositions } from '../../lib/models/rope_positions.js';
import { CASES, runsOf } from '../parity/vision_cases.js';

for (const [name, { rows, rope }] of Object.entries(CASES)) {
  test(`positions of text, pictures and video are transformers': ${name}`, (t) => {
    for (const [i, row] of rows.entries()) {
      const { positions, next } = ropePositions(row.ids.length, runsOf(row));
      t.deepEqual([...positions], rope[i]!.positions.flat(), `row ${i}`);
      t.is(next, rope[i]!.next, `what follows row ${i}`);
    }
  });
}

test('sequences side by side have the positions that each has alone', (t) => {
  const { rows } = CASES.several!;
  const total = rows.reduce((sum, row) => sum + row.ids.length, 0);
  const positions = new Int32Array(3 * total);
  let at = 0;
  for (const row of rows) {
    writeRopePositions({ positions, total }, at, row.ids.length, runsOf(row));
    at += row.ids.length;
  }
  const alone = rows.map((row) => ropePositions(row.ids.length, runsOf(row)).positions);
  const expected = [0, 1, 2].flatMap((axis) =>
    alone.flatMap((own) => [...own.subarray((axis * own.length) / 3, ((axis + 1) * own.length) / 3)]),
  );
  t.deepEqual([...positions], expected);
});

test('runs that overlap, or leave the sequence, are refused', (t) => {
  const run = (start: number) => ({ start, height: 2, width: 3 });
  t.throws(() => ropePositions(20, [run(4), run(9)]), { code: 'ERR_INTERNAL', message: /begins at token 9, expected 10 to 14/ });
  t.throws(() => ropePositions(9, [run(4)]), { code: 'ERR_INTERNAL', message: /begins at token 4, expected 0 to 3/ });
});
