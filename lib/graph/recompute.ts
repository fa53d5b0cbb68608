/**
 * Recomputation: a decision of the planner, never code in a model. Values that the backward pass needs are dropped after the
 * forward pass and made again by a copy of their op, just before the first backward op that reads them.
 */
import type { Graph, Op, Value } from './graph.js';

/**
 * How much of a block is made again instead of kept: nothing, its elementwise ops, all but the residual stream; with `host` that
 * too leaves the device, for pinned memory, and comes back for the backward pass.
 */
export const RECOMPUTE_LEVELS = ['none', 'elementwise', 'layers', 'host'] as const;
export type RecomputeLevel = (typeof RECOMPUTE_LEVELS)[number];

/** The norms, each with the place of its residual operand. The sum that they write is their third output. */
const NORMS: ReadonlyMap<string, number> = new Map([
  ['rms_norm', 2],
  ['layer_norm', 3],
]);

const ELEMENTWISE = new Set([...NORMS.keys(), 'swiglu', 'gelu', 'qk_norm_rope', 'qkv_rope']);
const LAYERS = new Set([...ELEMENTWISE, 'linear', 'attention', 'cast']);
const MADE_AGAIN: Readonly<Record<RecomputeLevel, ReadonlySet<string>>> = {
  none: new Set(),
  elementwise: ELEMENTWISE,
  layers: LAYERS,
  host: LAYERS,
};

/** Ops of the backward pass that a copy from the host is begun before it is wanted: about a block's. */
const FETCH_AHEAD = 24;

/**
 * The blocks of a forward pass: what lies between two sums of the residual stream, so attention and feed-forward of a decoder layer
 * are a block each. Block b is made of the ops from `starts[b]` on; what comes before the first belongs to none. A block of which the
 * backward pass reads nothing, as all of a frozen vision tower, keeps nothing and is not counted.
 */
export function blockStarts(forward: readonly Op[], backward: readonly Op[]): number[] {
  const read = new Set(backward.flatMap((op) => op.in));
  const norms = forward.flatMap((op, index) => (NORMS.has(op.op) ? [index] : []));
  return norms.filter((start, i) =>
    forward.slice(start, norms[i + 1]).some((op) => op.out.some((value) => value !== null && read.has(value))),
  );
}

/**
 * The level of each of `blocks` blocks at a setting from 0 to 3 * blocks: memory falls with each step, and speed a little. The
 * elementwise ops go first, being cheap; then whole blocks; then the residual stream. The first blocks go before the last: their
 * turn in the backward pass comes when the others' memory is free.
 */
export function levelsAt(setting: number, blocks: number): RecomputeLevel[] {
  return Array.from({ length: blocks }, (_, block) => {
    const level = Math.ceil((setting - block) / blocks);
    return RECOMPUTE_LEVELS[Math.min(Math.max(level, 0), RECOMPUTE_LEVELS.length - 1)]!;
  });
}

/**
 * Rewrites `graph`, whose first `forwardOps` ops are the forward pass; `levels` names each block's level, or that of all. The
 * residual sums that norms write are what is always kept: from them a norm is made again without its residual operand.
 */
export function recompute(graph: Graph, forwardOps: number, levels: RecomputeLevel | readonly RecomputeLevel[]): void {
  const forward = graph.ops.slice(0, forwardOps);
  const backward = graph.ops.slice(forwardOps);
  const starts = blockStarts(forward, backward);
  const producers = new Map<Value, Op>();
  const again = new Set<Op>();
  const hosted = new Map<Value, Value>();
  const rewritten: Op[] = [];
  let leaving: Move | undefined;
  let block = -1;
  const sumOf = (op: Op): Value | null => (NORMS.has(op.op) ? (op.out[2] ?? null) : null);
  // What the backward pass does not read has no reason to leave.
  const wanted = new Set(backward.flatMap((op) => op.in));
  forward.forEach((op, index) => {
    if (index === starts[block + 1]) block += 1;
    const level = typeof levels === 'string' ? levels : (levels[block] ?? 'none');
    if (MADE_AGAIN[level].has(op.op)) again.add(op);
    for (const value of op.out) if (value?.kind === 'arena') producers.set(value, op);
    rewritten.push(op);
    const sum = sumOf(op);
    // The norm after it is the last in the forward pass to read a sum: until then the copy has time, and takes no memory of its own.
    if (leaving && NORMS.has(op.op)) {
      rewritten.push(leaving.end);
      leaving = undefined;
    }
    if (sum && level === 'host' && wanted.has(sum)) {
      const host = graph.value('host', sum.name, sum.dtype, sum.shape);
      leaving = move(sum, host, hosted.size);
      hosted.set(sum, host);
      rewritten.push(leaving.begin);
    }
  });
  if (leaving) rewritten.push(leaving.end);
  if (again.size === 0) return;

  const copies = new Map<Value, Value>();
  const copied = new Set<Op>();

  const keeps = (op: Op, value: Value): boolean => !again.has(op) || value === sumOf(op);

  // The value to read in the backward pass in place of one of the forward pass.
  const available = (value: Value | null): Value | null => {
    if (!value) return null;
    const producer = producers.get(value);
    const host = hosted.get(value);
    if (host) return copies.get(value) ?? fetch(value, host);
    if (!producer || keeps(producer, value)) return value;
    if (!copied.has(producer)) copy(producer);
    return copies.get(value)!;
  };

  const forwardEnd = rewritten.length;
  let fetched = forwardEnd;
  // Wanted now: the copy began some ops ago, though not before the one wanted last was there.
  const fetch = (value: Value, host: Value): Value => {
    const back = graph.value('arena', `${value.name} again`, value.dtype, value.shape);
    copies.set(value, back);
    const { begin, end } = move(host, back, [...hosted.keys()].indexOf(value));
    rewritten.splice(Math.max(fetched, rewritten.length - FETCH_AHEAD), 0, begin);
    fetched = rewritten.push(end);
    return back;
  };

  const copy = (op: Op): void => {
    copied.add(op);
    const sum = sumOf(op);
    const residual = NORMS.get(op.op);
    const inputs = sum
      ? op.in.map((value, i) => (i === 0 ? available(sum) : i === residual ? null : value))
      : op.in.map(available);
    const out = op.out.map((value) => {
      if (!value || value === sum) return null;
      const fresh = graph.value('arena', `${value.name} again`, value.dtype, value.shape);
      copies.set(value, fresh);
      return fresh;
    });
    rewritten.push({ op: op.op, in: inputs, out, attrs: op.attrs });
  };

  for (const op of backward) {
    const inputs = op.in.map(available);
    rewritten.push({ ...op, in: inputs });
  }
  graph.ops = rewritten;
}

interface Move {
  readonly begin: Op;
  readonly end: Op;
}

/** The same numbers elsewhere, copied beside the ops between `begin` and `end`. */
function move(from: Value, to: Value, slot: number): Move {
  return {
    begin: { op: 'move_begin', in: [from], out: [to], attrs: { slot } },
    end: { op: 'move_end', in: [from, to], out: [], attrs: { slot } },
  };
}
