/**
 * Recomputation: a decision of the planner, never code in a model. Values that the backward pass needs are dropped after the
 * forward pass and made again by a copy of their op, just before the first backward op that reads them.
 */
import type { Graph, Op, Value } from './graph.js';

/** How much is made again instead of kept, from nothing to all but the residual stream. */
export const RECOMPUTE_LEVELS = ['none', 'elementwise', 'layers'] as const;
export type RecomputeLevel = (typeof RECOMPUTE_LEVELS)[number];

const ELEMENTWISE = new Set(['rms_norm', 'swiglu', 'qk_norm_rope']);
const LAYERS = new Set([...ELEMENTWISE, 'linear', 'attention']);

/**
 * Rewrites `graph`, whose first `forwardOps` ops are the forward pass. The residual sums that `rms_norm` writes are what is
 * always kept: from them a norm is made again without its residual operand.
 */
export function recompute(graph: Graph, forwardOps: number, level: RecomputeLevel): void {
  if (level === 'none') return;
  const again = level === 'elementwise' ? ELEMENTWISE : LAYERS;
  const forward = graph.ops.slice(0, forwardOps);
  const backward = graph.ops.slice(forwardOps);
  const producers = new Map<Value, Op>();
  for (const op of forward) for (const value of op.out) if (value?.kind === 'arena') producers.set(value, op);

  const rewritten: Op[] = [...forward];
  const copies = new Map<Value, Value>();
  const copied = new Set<Op>();

  const keeps = (op: Op, value: Value): boolean => !again.has(op.op) || (op.op === 'rms_norm' && value === op.out[2]);

  // The value to read in the backward pass in place of one of the forward pass.
  const available = (value: Value | null): Value | null => {
    if (!value) return null;
    const producer = producers.get(value);
    if (!producer || keeps(producer, value)) return value;
    if (!copied.has(producer)) copy(producer);
    return copies.get(value)!;
  };

  const copy = (op: Op): void => {
    copied.add(op);
    const sum = op.op === 'rms_norm' ? op.out[2] : null;
    const inputs = sum ? [sum, op.in[1]!, null] : op.in.map(available);
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
