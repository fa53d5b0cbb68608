import test from 'ava';
import { Graph, type Value, valueBytes } from '../../lib/graph/graph.js';
import { planMemory } from '../../lib/graph/planner.js';
import { addon } from '../../lib/native.js';
import { add } from '../../lib/ops/elementwise.js';
import { linear } from '../../lib/ops/linear.js';
import { rmsNorm } from '../../lib/ops/rms_norm.js';
import { swiglu } from '../../lib/ops/swiglu.js';

/** A stack of blocks with a residual, as a model's forward pass has. */
function stack(layers: number): Graph {
  const graph = new Graph({ tokens: 96 });
  const weight = (name: string, ...shape: number[]) => graph.value('weight', name, 'f32', shape);
  let x: Value = graph.value('io', 'x', 'f32', ['tokens', 64]);
  for (let i = 0; i < layers; i++) {
    const { y } = rmsNorm(graph, x, weight(`norm ${i}`, 64), 1e-6);
    const gate = linear(graph, y, { weight: weight(`gate ${i}`, 160, 64) }).y;
    const up = linear(graph, y, { weight: weight(`up ${i}`, 160, 64) }).y;
    const down = linear(graph, swiglu(graph, gate, up), { weight: weight(`down ${i}`, 64, 160) }).y;
    x = add(graph, x, down);
  }
  return graph;
}

function lifetimes(graph: Graph): Map<Value, [number, number]> {
  const lives = new Map<Value, [number, number]>();
  graph.ops.forEach((op, index) => {
    for (const value of [...op.in, ...op.out]) {
      if (value?.kind !== 'arena') continue;
      lives.set(value, [lives.get(value)?.[0] ?? index, index]);
    }
  });
  return lives;
}

test('no two values that live at the same time share memory', (t) => {
  const graph = stack(5);
  const { offsets, workspaceOffset } = planMemory(graph);
  const lives = [...lifetimes(graph)];
  for (const [a, [aFirst, aLast]] of lives) {
    const start = offsets.get(a)!;
    const end = start + valueBytes(a, graph.dims);
    t.is(start % 64, 0);
    t.true(end <= workspaceOffset);
    for (const [b, [bFirst, bLast]] of lives) {
      if (a === b || aLast < bFirst || bLast < aFirst) continue;
      const other = offsets.get(b)!;
      t.true(end <= other || other + valueBytes(b, graph.dims) <= start, `${a.name} and ${b.name} overlap`);
    }
  }
});

test('memory of values that are dead is used again', (t) => {
  const four = planMemory(stack(4)).workspaceOffset;
  const twenty = planMemory(stack(20)).workspaceOffset;
  t.is(twenty, four);
});

test('the workspace holds what the hungriest op asks for', (t) => {
  const graph = stack(1);
  const shape = (value: Value | null) =>
    value && { dtype: value.dtype, shape: value.shape.map((dim) => (dim === 'tokens' ? 96 : (dim as number))) };
  const needs = graph.ops.map((op) => addon().workspace(op.op, op.in.map(shape), op.out.map(shape), op.attrs, 'cpu'));
  t.is(planMemory(graph).workspaceBytes, Math.max(...needs));
});

test('an unknown dimension is refused by name', (t) => {
  t.throws(() => new Graph({ tokens: 4 }).value('io', 'x', 'f32', ['rows']), {
    code: 'ERR_SHAPE',
    message: /x: unknown dimension rows/,
  });
});
