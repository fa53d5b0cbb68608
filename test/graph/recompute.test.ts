import test from 'ava';
import { levelsAt, RECOMPUTE_LEVELS } from '../../lib/graph/recompute.js';

test('each setting takes one block one level further than the one before, the first blocks first', (t) => {
  const blocks = 5;
  t.deepEqual(new Set(levelsAt(0, blocks)), new Set(['none']));
  for (let setting = 1; setting <= 3 * blocks; setting++) {
    const [before, now] = [levelsAt(setting - 1, blocks), levelsAt(setting, blocks)];
    const moved = now.flatMap((level, block) => (level === before[block] ? [] : [block]));
    t.deepEqual(moved, [(setting - 1) % blocks]);
    t.is(RECOMPUTE_LEVELS.indexOf(now[moved[0]!]!), RECOMPUTE_LEVELS.indexOf(before[moved[0]!]!) + 1);
  }
  t.deepEqual(new Set(levelsAt(3 * blocks, blocks)), new Set(['host']));
});
