/**
 * Fusion: a decision of the planner, never code in a model. Ops that read one row are put together, so that a token takes few
 * launches: a norm with the linear layers that read it (and a gate), other linear layers, and attention with the norm and rotation of
 * its heads. What is computed is the same but for the order of sums.
 */
import type { Builder } from '../ops/builder.js';
import { attentionOne, linearsOne, MOST_LINEARS } from '../ops/decode.js';
import type { LinearOperands } from '../ops/linear.js';
import type { Graph, Op, Value } from './graph.js';

/** Rewrites the ops of `graph`, whose dimensions are fixed, wherever they read one row. */
export function fuse(graph: Graph): void {
  const readers = new Map<Value, Op[]>();
  const makers = new Map<Value, Op>();
  for (const op of graph.ops) {
    for (const value of op.in) if (value) readers.set(value, [...(readers.get(value) ?? []), op]);
    for (const value of op.out) if (value) makers.set(value, op);
  }
  const readersOf = (value: Value | null | undefined): readonly Op[] => (value ? (readers.get(value) ?? []) : []);
  const isInside = (value: Value | null | undefined): boolean => value?.kind === 'arena';

  // What an op of several gives way to: nothing where the whole stands, the whole at one of them.
  const replaced = new Map<Op, (() => void) | null>();
  const ops: Op[] = [];
  const into: Builder<Value> = {
    emit(op, inputs, outputs, attrs = {}) {
      const out = outputs.map((output) => (output && 'into' in output ? output.into : null));
      ops.push({ op, in: inputs, out, attrs });
      return out;
    },
  };

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
