/**
 * Reverse-mode differentiation of a graph: walks its ops backwards and lets each op's rule append the ops of its gradient.
 * Gradients of parameters accumulate in place in the flat gradient buffer; those of other values live in the arena.
 */
import { VltuneError } from '../errors.js';
import type { Attrs, Builder, Into, OutputSpec } from '../ops/builder.js';
import { add } from '../ops/elementwise.js';
import type { Graph, Op, Value } from './graph.js';

export type GradientRule = (backward: Backward, op: Op) => void;

export class Backward implements Builder<Value> {
  readonly #graph: Graph;
  readonly #parameterGradients: ReadonlyMap<Value, Value>;
  readonly #wanted: ReadonlySet<Value>;
  readonly #gradients = new Map<Value, { value: Value; shared: boolean }>();

  constructor(graph: Graph, parameterGradients: ReadonlyMap<Value, Value>) {
    this.#graph = graph;
    this.#parameterGradients = parameterGradients;
    this.#wanted = dependents(graph, new Set(parameterGradients.keys()));
  }

  emit(
    op: string,
    inputs: readonly (Value | null)[],
    outputs: readonly (OutputSpec | Into<Value> | null)[],
    attrs?: Attrs,
  ): (Value | null)[] {
    return this.#graph.emit(op, inputs, outputs, attrs);
  }

  /** Whether anything trainable lies behind this value. */
  wants(value: Value | null | undefined): value is Value {
    return value != null && value.kind === 'arena' && this.#wanted.has(value);
  }

  /** The gradient that has arrived at a value, or null. */
  gradientOf(value: Value | null | undefined): Value | null {
    return (value && this.#gradients.get(value)?.value) ?? null;
  }

  /** Where a parameter's gradient accumulates; null for a frozen one. */
  parameter(value: Value | null | undefined): Into<Value> | null {
    const gradient = value && this.#parameterGradients.get(value);
    return gradient ? { into: gradient } : null;
  }

  /** An existing gradient of `value` that an op may accumulate into; null if there is none of its own. */
  accumulator(value: Value): Into<Value> | null {
    const existing = this.#gradients.get(value);
    return existing && !existing.shared ? { into: existing.value } : null;
  }

  /** Adds `gradient` to what has arrived at `value`. `shared`: other values have the same gradient, so it must not be written to. */
  contribute(value: Value, gradient: Value, shared = false): void {
    const existing = this.#gradients.get(value);
    if (!existing) this.#gradients.set(value, { value: gradient, shared });
    else if (existing.value !== gradient)
      this.#gradients.set(value, { value: add(this, existing.value, gradient), shared: false });
  }

  /** Lets the loss write the gradients that it makes in its forward pass. */
  amend(op: Op, out: readonly (Value | null)[]): void {
    op.out = out;
  }

  newValue(spec: OutputSpec): Value {
    return this.#graph.value('arena', spec.name ?? 'gradient', spec.dtype, spec.shape);
  }
}

/** Every value that depends on one of `roots`. */
function dependents(graph: Graph, roots: ReadonlySet<Value>): Set<Value> {
  const found = new Set(roots);
  for (const op of graph.ops) {
    if (op.in.some((value) => value && found.has(value))) for (const value of op.out) if (value) found.add(value);
  }
  return found;
}

/** Appends the backward pass of all ops of `graph`. `parameterGradients` maps each trainable value to its gradient's place. */
export function differentiate(
  graph: Graph,
  parameterGradients: ReadonlyMap<Value, Value>,
  rules: ReadonlyMap<string, GradientRule>,
): void {
  const backward = new Backward(graph, parameterGradients);
  for (const op of graph.ops.toReversed()) {
    const rule = rules.get(op.op);
    if (rule) {
      rule(backward, op);
    } else if (op.out.some((value) => value && backward.gradientOf(value))) {
      throw new VltuneError('ERR_INTERNAL', `${op.op} has no gradient rule, but a gradient arrives at it`);
    }
  }
}
