import test from 'ava';
import { differentiate } from '../../lib/graph/gradient.js';
import { Graph } from '../../lib/graph/graph.js';
import { blockStarts, levelsAt, RECOMPUTE_LEVELS } from '../../lib/graph/recompute.js';
import { GRADIENT_RULES } from '../../lib/ops/gradients.js';
import { linear } from '../../lib/ops/linear.js';
import { linearCrossEntropy } from '../../lib/ops/linear_cross_entropy.js';
import { rmsNorm } from '../../lib/ops/rms_norm.js';

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

test('blocks below the first that is trained are none to be made again', (t) => {
  const graph = new Graph({});
  const io = (name: string, ...shape: number[]) => graph.value('io', name, 'f32', shape);
  const frozen = (name: string, ...shape: number[]) => graph.value('weight', name, 'f32', shape);
  const trained = graph.value('param', 'trained', 'f32', [8, 8]);
  let x = io('x', 4, 8);
  for (const [i, weight] of [frozen('w0', 8, 8), frozen('w1', 8, 8), trained, frozen('w3', 8, 8)].entries())
    x = linear(graph, rmsNorm(graph, x, frozen(`norm${i}`, 8), 1e-6).y, { weight }).y;
  const targets = graph.value('io', 'targets', 'i32', [4]);
  linearCrossEntropy(graph, { x, weight: frozen('head', 16, 8), targets, lossScale: io('scale', 1) }, { into: io('loss', 1) });
  const forward = graph.ops.length;
  differentiate(graph, new Map([[trained, graph.value('grad', 'trained', 'f32', [8, 8])]]), GRADIENT_RULES);
  const starts = blockStarts(graph.ops.slice(0, forward), graph.ops.slice(forward));
  // Of the two blocks below, the backward pass reads nothing: the trained layer's gradient wants its own input alone.
  t.deepEqual(starts, [4, 6]);
});
