import test from 'ava';
import { PatchArrays } from '../../../lib/data/media/patch_arrays.js';

test('what is given back is empty, and its memory is lent again to what fills at least half of it', (t) => {
  const arrays = new PatchArrays();
  const first = arrays.take(1000);
  first.fill(7);
  arrays.give(first);
  t.is(first.length, 0);
  t.deepEqual([...arrays.take(499)], Array(499).fill(0), 'too small for it');
  const again = arrays.take(500);
  t.deepEqual([...again], Array(500).fill(7));
  t.deepEqual([...arrays.take(500)], Array(500).fill(0), 'it is lent already');
});

test('the smallest array that is large enough is lent', (t) => {
  const arrays = new PatchArrays();
  const sizes = [3000, 1000, 2000];
  const lent = sizes.map((size) => arrays.take(size).fill(size));
  for (const array of lent) arrays.give(array);
  t.is(arrays.take(1001)[0], 2000);
  t.is(arrays.take(600)[0], 1000);
});

test('an array that was not lent is left as it is, and one is taken back once', (t) => {
  const arrays = new PatchArrays();
  const own = new Float32Array([1, 2]);
  arrays.give(own);
  t.deepEqual([...own], [1, 2]);
  const lent = arrays.take(10);
  new PatchArrays().give(lent);
  t.is(lent.length, 10, 'by another');
  arrays.give(lent);
  t.notThrows(() => arrays.give(lent));
});

test('what is held is bounded: smaller arrays make room for larger ones, and what is too large is not held', (t) => {
  const arrays = new PatchArrays();
  const most = PatchArrays.MOST_HELD / 4;
  const small = arrays.take(most / 4).fill(1);
  const halves = [arrays.take(most / 2).fill(2), arrays.take(most / 2).fill(3), arrays.take(most / 2).fill(4)];
  arrays.give(small);
  for (const half of halves) arrays.give(half);
  t.deepEqual(
    halves.map(({ length }) => length),
    [0, 0, most / 2],
    'there is room for two',
  );
  t.is(arrays.take(most / 4)[0], 2, 'the smaller one is gone');
  const whole = arrays.take(most / 2 + 1);
  arrays.give(whole);
  t.is(whole.length, most / 2 + 1);
});
