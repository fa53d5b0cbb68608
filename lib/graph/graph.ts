/**
 * A program under construction: ops over values with a dtype and a shape. Nothing is allocated here. A dimension that varies
 * between runs (tokens, sequences) is a name whose largest length is known.
 */
import { VltuneError } from '../errors.js';
import { type Dim, type DType, dtypeBytes } from '../native.js';
import type { Attrs, Builder, Into, OutputSpec, Shaped } from '../ops/builder.js';

/**
 * Where a value lives. `weight`: frozen, loaded once. `param` and `grad`: the flat trainable buffer and its gradient.
 * `state`: the optimizer's. `io`: small inputs and results of a run. `arena`: everything else, at offsets that are planned.
 * `host`: pinned memory of the host, where a GPU puts down what it will want again.
 */
export type Kind = 'weight' | 'param' | 'grad' | 'state' | 'io' | 'arena' | 'host';

export interface Value extends Shaped {
  readonly id: number;
  readonly name: string;
  readonly kind: Kind;
}

export interface Op {
  readonly op: string;
  readonly in: readonly (Value | null)[];
  /** The gradient rule of the loss adds outputs; nothing else changes an op. */
  out: readonly (Value | null)[];
  readonly attrs: Attrs;
}

export class Graph implements Builder<Value> {
  /** The largest length of each named dimension. */
  readonly dims: Readonly<Record<string, number>>;
  readonly values: Value[] = [];
  ops: Op[] = [];

  constructor(dims: Readonly<Record<string, number>>) {
    this.dims = dims;
  }

  value(kind: Kind, name: string, dtype: DType, shape: readonly Dim[]): Value {
    for (const dim of shape) {
      if (typeof dim === 'string' && this.dims[dim] === undefined)
        throw new VltuneError('ERR_SHAPE', `${name}: unknown dimension ${dim}`);
    }
    const value: Value = { id: this.values.length, name, kind, dtype, shape };
    this.values.push(value);
    return value;
  }

  emit(
    op: string,
    inputs: readonly (Value | null)[],
    outputs: readonly (OutputSpec | Into<Value> | null)[],
    attrs: Attrs = {},
  ): (Value | null)[] {
    const out = outputs.map((output) => this.#output(op, output));
    this.ops.push({ op, in: inputs, out, attrs });
    return out;
  }

  #output(op: string, output: OutputSpec | Into<Value> | null): Value | null {
    if (output === null) return null;
    if ('into' in output) return output.into;
    return this.value('arena', output.name ?? op, output.dtype, output.shape);
  }
}

/** Bytes of a value at the largest lengths (NF4: its codes). */
export function valueBytes(value: Shaped, dims: Readonly<Record<string, number>>): number {
  return dtypeBytes(
    value.dtype,
    value.shape.reduce<number>((count, dim) => count * (typeof dim === 'number' ? dim : dims[dim]!), 1),
  );
}
