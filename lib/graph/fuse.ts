/**
 * Fusion: a decision of the planner, never code in a model. Ops that read one row are put together, so that a token takes few
 * launches: a norm with the linear layers that read it (and a gate), other linear layers, and attention with the norm and rotation of
 * its heads; then the decoder layers that those make up. What is computed is the same but for the order of sums.
 */
import type { Builder } from '../ops/builder.js';
import { attentionOne, type LayerOne, layersOne, linearsOne, MOST_LINEARS } from '../ops/decode.js';
import type { LinearOperands } from '../ops/linear.js';
import type { Graph, Op, Value } from './graph.js';

/** Rewrites the ops of `graph`, whose dimensions are fixed, wherever they read one row. */
export function fuse(graph: Graph): void {
  fuseRows(graph);
  fuseLayers(graph);
}

/** Who reads a value. */
function readersIn(graph: Graph): (value: Value | null | undefined) => readonly Op[] {
  const readers = new Map<Value, Op[]>();
  for (const op of graph.ops) for (const value of op.in) if (value) readers.set(value, [...(readers.get(value) ?? []), op]);
  return (value) => (value ? (readers.get(value) ?? []) : []);
}

/** Adds ops to a list whose results have their places already. */
function builderOf(ops: Op[]): Builder<Value> {
  return {
    emit(op, inputs, outputs, attrs = {}) {
      const out = outputs.map((output) => (output && 'into' in output ? output.into : null));
      ops.push({ op, in: inputs, out, attrs });
      return out;
    },
  };
}

function isInside(value: Value | null | undefined): boolean {
  return value?.kind === 'arena';
}

function fuseRows(graph: Graph): void {
  const readersOf = readersIn(graph);
  const makers = new Map<Value, Op>();
  for (const op of graph.ops) for (const value of op.out) if (value) makers.set(value, op);

  // What an op of several gives way to: nothing where the whole stands, the whole at one of them.
  const replaced = new Map<Op, (() => void) | null>();
  const ops: Op[] = [];
  const into = builderOf(ops);

  const isLinear = ({ op, in: [x, , , , , rng], out: [y, u] }: Op): boolean =>
    op === 'linear' && x?.shape[0] === 1 && !rng && isInside(y) && readersOf(u).length === 0;
  const layerOf = ({ in: [, weight, bias, a, b], attrs }: Op): LinearOperands<Value> => ({
    weight: weight!,
    bias: bias ?? null,
    lora: a && b ? { a, b, scale: attrs.scale!, dropout: 0, site: 0 } : null,
  });
  const scalesOf = (linears: readonly Op[]): number => new Set(linears.flatMap((op) => (op.in[3] ? [op.attrs.scale] : []))).size;

  const fuseNorm = (norm: Op): void => {
    const [x, weight, residual] = norm.in;
    const [z, rstd, sum] = norm.out;
    const linears = readersOf(z);
    if (x?.shape[0] !== 1 || !isInside(z) || readersOf(rstd).length > 0) return;
    if (linears.length === 0 || linears.length > MOST_LINEARS || !linears.every((op) => isLinear(op) && op.in[0] === z)) return;
    if (scalesOf(linears) > 1) return;
    const operands = { x, norm: { weight: weight!, eps: norm.attrs.eps!, residual: residual ?? null } };

    // Both of two layers read by one gate, and by nothing else.
    const gate = readersOf(linears[0]!.out[0])[0];
    const parts = gate?.in.map((value) => linears.find((op) => op.out[0] === value)) ?? [];
    const isGate =
      gate?.op === 'swiglu' &&
      linears.length === 2 &&
      new Set(parts).size === 2 &&
      parts.every((op) => op && readersOf(op.out[0]).length === 1);
    if (isGate) {
      const layers = parts.map((op) => layerOf(op!));
      replaced.set(norm, () => void linearsOne(into, { ...operands, layers, swiglu: true }, { sum: sum!, y: [gate.out[0]!] }));
      replaced.set(gate, null);
    } else {
      const y = linears.map((op) => op.out[0]!);
      replaced.set(norm, () => void linearsOne(into, { ...operands, layers: linears.map(layerOf) }, { sum: sum!, y }));
    }
    for (const op of linears) replaced.set(op, null);
  };

  const fuseAttention = (attention: Op): void => {
    const [q, k, v, past] = attention.in;
    const [o, kCache, vCache] = attention.out;
    const turns = [q, k].map((value) => value && makers.get(value));
    const [ofQ, ofK] = turns;
    if (ofQ?.op !== 'qk_norm_rope' || ofK?.op !== 'qk_norm_rope' || ofQ === ofK || q?.shape[0] !== 1) return;
    if (ofQ.in[2] !== ofK.in[2] || ofQ.in[3] !== ofK.in[3] || ofQ.attrs.eps !== ofK.attrs.eps) return;
    for (const { out, attrs } of [ofQ, ofK]) {
      if (!isInside(out[0]) || readersOf(out[0]).length !== 1 || readersOf(out[1]).length > 0) return;
      if (attrs.head_dim !== attention.attrs.head_dim) return;
    }
    const { heads, kv_heads, head_dim, scale, causal } = attention.attrs;
    replaced.set(ofQ, null);
    replaced.set(ofK, null);
    replaced.set(attention, () => {
      attentionOne(
        into,
        {
          q: ofQ.in[0]!,
          k: ofK.in[0]!,
          v: v!,
          qNorm: ofQ.in[1] ?? null,
          kNorm: ofK.in[1] ?? null,
          rope: { cos: ofQ.in[2]!, sin: ofQ.in[3]! },
          past: past!,
        },
        { k: { into: kCache! }, v: { into: vCache! } },
        { heads: heads!, kvHeads: kv_heads!, headDim: head_dim!, scale: scale!, causal: causal === 1, eps: ofQ.attrs.eps! },
        o!,
      );
    });
  };

  for (const op of graph.ops) {
    if (op.op === 'rms_norm') fuseNorm(op);
    if (op.op === 'attention_cached') fuseAttention(op);
  }
  for (const op of graph.ops) {
    if (replaced.has(op) || !isLinear(op)) continue;
    replaced.set(op, () => void linearsOne(into, { x: op.in[0]!, layers: [layerOf(op)] }, { y: [op.out[0]!] }));
  }
  for (const op of graph.ops) {
    const replacement = replaced.get(op);
    if (replacement === undefined) ops.push(op);
    else replacement?.();
  }
  graph.ops = ops;
}

/** The five ops of a decoder layer, in their order. */
const LAYER_OPS = ['linears_one', 'attention_one', 'linears_one', 'linears_one', 'linears_one'];

interface FoundLayer {
  readonly operands: LayerOne<Value>;
  readonly x: Value;
  readonly residual: Value | null;
  readonly y: Value;
  readonly sum: Value;
  readonly attention: Op;
}

function fuseLayers(graph: Graph): void {
  const readersOf = readersIn(graph);
  const ops: Op[] = [];
  const into = builderOf(ops);
  const isReadBy = (value: Value | null | undefined, ...expected: readonly Op[]): boolean => {
    const found = readersOf(value);
    return isInside(value) && found.length === expected.length && expected.every((op) => found.includes(op));
  };
  const linearAt = ({ in: operands, attrs }: Op, i: number): LinearOperands<Value> => {
    const [weight, bias, a, b] = operands.slice(3 + 4 * i, 7 + 4 * i);
    return {
      weight: weight!,
      bias: bias ?? null,
      lora: a && b ? { a, b, scale: attrs.scale!, dropout: 0, site: 0 } : null,
    };
  };

  const scalesOf = ({ q, k, v, o, gate, up, down }: LayerOne<Value>): number[] =>
    [q, k, v, o, gate, up, down].flatMap(({ lora }) => (lora ? [lora.scale] : []));

  const layerFrom = (first: number): FoundLayer | undefined => {
    const five = graph.ops.slice(first, first + LAYER_OPS.length);
    const [qkv, attention, out, gate, down] = five;
    if (!qkv || !attention || !out || !gate || !down || five.some(({ op }, i) => op !== LAYER_OPS[i])) return undefined;
    const [x, residual, inputNorm] = qkv.in;
    const [before, q, k, v] = qkv.out;
    const [sum, gated] = gate.out;
    if (!x || !inputNorm || !q || !k || !v || !sum) return undefined;
    const { eps } = attention.attrs;
    const isWhole =
      [q, k, v].every((value, i) => attention.in[i] === value && isReadBy(value, attention)) &&
      isReadBy(attention.out[0], out) &&
      [out, down].every((op) => !op.in[2] && !op.in[7]) &&
      out.in[0] === attention.out[0] &&
      isReadBy(out.out[1], gate) &&
      gate.in[0] === out.out[1] &&
      gate.in[1] === (residual ? before : x) &&
      (residual ? isReadBy(before, gate) : readersOf(x).length === 2) &&
      gate.attrs.swiglu === 1 &&
      isReadBy(gated, down) &&
      down.in[0] === gated &&
      qkv.attrs.eps === eps &&
      gate.attrs.eps === eps;
    if (!isWhole) return undefined;
    const operands = {
      inputNorm,
      q: linearAt(qkv, 0),
      k: linearAt(qkv, 1),
      v: linearAt(qkv, 2),
      qNorm: attention.in[3] ?? null,
      kNorm: attention.in[4] ?? null,
      o: linearAt(out, 0),
      postNorm: gate.in[2]!,
      gate: linearAt(gate, 0),
      up: linearAt(gate, 1),
      down: linearAt(down, 0),
      cache: { k: { into: attention.out[1]! }, v: { into: attention.out[2]! } },
    };
    if (new Set(scalesOf(operands)).size > 1) return undefined;
    return { operands, x, residual: residual ?? null, y: down.out[1]!, sum, attention };
  };
  /** Whether a layer goes on where the one before ends, in the same way. */
  const follows = (next: FoundLayer, all: readonly FoundLayer[]): boolean => {
    const last = all.at(-1)!;
    const alike = (values: (layer: FoundLayer) => readonly unknown[]) =>
      values(next).every((value, i) => value === values(last)[i]);
    return (
      next.x === last.y &&
      next.residual === last.sum &&
      isInside(last.y) &&
      readersOf(last.y).length === 1 &&
      readersOf(last.sum).length === 1 &&
      alike(({ attention }) => attention.in.slice(5)) &&
      alike(({ attention: { attrs } }) => [attrs.heads, attrs.kv_heads, attrs.head_dim, attrs.scale, attrs.causal, attrs.eps]) &&
      new Set([...all, next].flatMap(({ operands }) => scalesOf(operands))).size <= 1
    );
  };

  for (let at = 0; at < graph.ops.length; ) {
    const layers: FoundLayer[] = [];
    for (let layer = layerFrom(at); layer && (layers.length === 0 || follows(layer, layers)); layer = layerFrom(at)) {
      layers.push(layer);
      at += LAYER_OPS.length;
    }
    if (layers.length === 0) {
      ops.push(graph.ops[at]!);
      at += 1;
      continue;
    }
    const { x, residual, attention } = layers[0]!;
    const { heads, kv_heads, head_dim, scale, causal, eps } = attention.attrs;
    const [, , , , , cos, sin, past] = attention.in;
    layersOne(
      into,
      { x, residual, rope: { cos: cos!, sin: sin! }, past: past!, layers: layers.map(({ operands }) => operands) },
      { heads: heads!, kvHeads: kv_heads!, headDim: head_dim!, scale: scale!, causal: causal === 1, eps: eps! },
      { y: layers.at(-1)!.y, sum: layers.at(-1)!.sum },
    );
  }
  graph.ops = ops;
}
