import test from 'ava';
import { fuse } from '../../lib/graph/fuse.js';
import { Graph, type Value, valueBytes } from '../../lib/graph/graph.js';
import { planMemory } from '../../lib/graph/planner.js';
import { type Place, Program } from '../../lib/graph/program.js';
import { decoder, decoderLinears, decoderTensors } from '../../lib/models/decoder.js';
import type { TextShape } from '../../lib/models/family.js';
import { addon } from '../../lib/native.js';
import { attentionCached } from '../../lib/ops/attention.js';
import { cast } from '../../lib/ops/elementwise.js';
import { linear } from '../../lib/ops/linear.js';
import { MersenneTwister } from '../../lib/random.js';

const SHAPE: TextShape = {
  vocabSize: 40,
  hiddenSize: 32,
  intermediateSize: 48,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  rmsNormEps: 1e-6,
  attentionBias: true,
  tiedHead: true,
  maxPositions: 64,
  rope: { headDim: 8, theta: 1e4, sections: [2, 1, 1], interleaved: true },
};
const PREFIX = 'model';
const CAPACITY = 12;

function build(tokens: number | string, scaleOf: (module: string) => number | null): Graph {
  const graph = new Graph(typeof tokens === 'number' ? {} : { [tokens]: 8 });
  const linears = new Map(decoderLinears(SHAPE, { prefix: PREFIX, qkNorm: true }).map((spec) => [spec.name, spec]));
  const tensors = new Map(decoderTensors(SHAPE, { prefix: PREFIX, qkNorm: true }).map((spec) => [spec.name, spec]));
  const weight = (name: string, ...shape: number[]): Value =>
    graph.values.find((value) => value.name === name) ?? graph.value('weight', name, 'f32', shape);
  const past = graph.value('io', 'past', 'i32', [1]);
  const cache = (name: string) => ({
    into: graph.value('state', name, 'f32', [CAPACITY, SHAPE.kvHeads * SHAPE.headDim]),
  });
  const hidden = decoder(
    graph,
    {
      tensor: (name) => weight(name, ...tensors.get(name)!.shape),
      linear: (name) => {
        const spec = linears.get(name)!;
        const scale = scaleOf(name);
        return {
          weight: weight(`${name}.weight`, spec.out, spec.in),
          bias: spec.bias ? weight(`${name}.bias`, spec.out) : null,
          lora: scale
            ? { a: weight(`${name}.a`, 3, spec.in), b: weight(`${name}.b`, spec.out, 3), scale, dropout: 0, site: 0 }
            : null,
        };
      },
    },
    {
      ids: graph.value('io', 'ids', 'i32', [tokens]),
      positions: graph.value('io', 'positions', 'i32', [3, tokens]),
      dtype: 'f32',
      attend: (layer, q, k, v) =>
        attentionCached(
          graph,
          q,
          k,
          v,
          past,
          { k: cache(`${layer}.k`), v: cache(`${layer}.v`) },
          { heads: SHAPE.heads, kvHeads: SHAPE.kvHeads, headDim: SHAPE.headDim, causal: true },
        ),
    },
    SHAPE,
    { prefix: PREFIX, qkNorm: true },
  );
  const logits = linear(graph, hidden, { weight: weight(`${PREFIX}.embed_tokens.weight`) }).y;
  cast(graph, logits, { into: graph.value('io', 'logits', 'f32', [tokens, SHAPE.vocabSize]) });
  return graph;
}

/** Logits of some tokens, one after the other, by a graph of one. */
async function generate(graph: Graph): Promise<Buffer> {
  const places = new Map<Value, Place>();
  for (const value of graph.values) {
    if (value.kind === 'arena') continue;
    const bytes = valueBytes(value, {});
    const storage = addon().allocate(bytes, 'cpu');
    places.set(value, { storage, offset: 0 });
    if (value.kind !== 'weight') continue;
    const random = new MersenneTwister(value.name.length);
    addon().write(
      storage,
      0,
      Float32Array.from({ length: bytes / 4 }, () => random.uniform() - 0.4),
    );
  }
  const plan = planMemory(graph);
  const program = Program.compile(graph, plan, addon().allocate(plan.arenaBytes, 'cpu'), places);
  const io = (name: string) => places.get(graph.values.find((value) => value.kind === 'io' && value.name === name)!)!.storage;
  const all: Buffer[] = [];
  for (let i = 0; i < CAPACITY; i++) {
    addon().write(io('ids'), 0, Int32Array.of((i * 7) % SHAPE.vocabSize));
    addon().write(io('positions'), 0, Int32Array.of(i, i, i));
    addon().write(io('past'), 0, Int32Array.of(i));
    await program.run({});
    const logits = Buffer.alloc(SHAPE.vocabSize * 4);
    addon().read(io('logits'), 0, logits);
    all.push(logits);
  }
  return Buffer.concat(all);
}

const count = (graph: Graph, name: string): number => graph.ops.filter(({ op }) => op === name).length;

for (const [name, scaleOf] of [
  ['no adapter', () => null],
  ['an adapter of every layer', () => 2],
  ['adapters of some', (module: string) => (/q_proj|up_proj|down_proj/.test(module) ? 0.5 : null)],
] as const) {
  test(`the layers of a decoder of one token, with ${name}, are one op and give the same bytes`, async (t) => {
    const fused = build(1, scaleOf);
    fuse(fused);
    t.deepEqual(
      fused.ops.map(({ op }) => op),
      ['rope_table', 'embedding', 'layers_one', 'linears_one', 'cast'],
    );
    t.is(fused.ops[2]!.attrs.layers, SHAPE.layers);
    const [expected, actual] = [await generate(build(1, scaleOf)), await generate(fused)];
    t.true(expected.equals(actual));
    t.true(new Float32Array(expected.buffer, expected.byteOffset, expected.length / 4).every(Number.isFinite));
  });
}

test('adapters of different scales stay apart, and what is not one row stays as it is', (t) => {
  const mixed = build(1, (module) => (module.endsWith('k_proj') ? 1 : 2));
  fuse(mixed);
  t.is(count(mixed, 'rms_norm'), SHAPE.layers);
  t.is(count(mixed, 'linears_one'), SHAPE.layers * (3 + 3) + 1);
  t.is(count(mixed, 'layers_one'), 0);
  for (const tokens of [2, 'tokens']) {
    const graph = build(tokens, () => 2);
    const before = [...graph.ops];
    fuse(graph);
    t.deepEqual(graph.ops, before);
  }
});

test('layers whose adapters have another scale than those before are an op of their own', async (t) => {
  const scaleOf = (module: string) => (/layers\.2\./.test(module) ? 1 : 2);
  const fused = build(1, scaleOf);
  fuse(fused);
  t.deepEqual(
    fused.ops.filter(({ op }) => op === 'layers_one').map(({ attrs }) => [attrs.layers, attrs.lora_scale]),
    [
      [2, 2],
      [1, 1],
    ],
  );
  t.true((await generate(build(1, scaleOf))).equals(await generate(fused)));
});

test('a norm that others read too stays', (t) => {
  const graph = new Graph({});
  const value = (name: string, ...shape: number[]) => graph.value('weight', name, 'f32', shape);
  const [z] = graph.emit(
    'rms_norm',
    [value('x', 1, 8), value('norm', 8), null],
    [{ dtype: 'f32', shape: [1, 8] }, { dtype: 'f32', shape: [1] }, null],
    { eps: 1e-6 },
  );
  linear(graph, z!, { weight: value('w', 4, 8) });
  cast(graph, z!, { into: value('kept', 1, 8) });
  fuse(graph);
  t.deepEqual(
    graph.ops.map(({ op }) => op),
    ['rms_norm', 'linears_one', 'cast'],
  );
});
