/**
 * A builder that notes the ops that are asked of it, with tensors of its own. On the CPU it makes programs of them, and what is timed
 * is a program's run, as in training: scratch memory is there beforehand, and one crossing into native code serves many calls. On a
 * GPU each launch is timed by the GPU itself, with a cold cache.
 */
import { addon, type Device, type DType, type NativeOp, type NativeValue, type Storage } from '../native.js';
import type { Attrs, Builder, Into, OutputSpec } from '../ops/builder.js';
import { Tensor } from '../ops/tensor.js';
import type { Batch, Timed } from './harness.js';
import { normals } from './normals.js';

export class Recorder implements Builder<Tensor>, Timed {
  readonly #device: Device;
  readonly #tensors: Tensor[] = [];
  readonly #ops: { op: string; in: (Tensor | null)[]; out: (Tensor | null)[]; attrs: Attrs }[] = [];

  constructor(device: Device = 'cpu') {
    this.#device = device;
  }

  emit(
    op: string,
    inputs: readonly (Tensor | null)[],
    outputs: readonly (OutputSpec | Into<Tensor> | null)[],
    attrs: Attrs = {},
  ): (Tensor | null)[] {
    const out = outputs.map((output) => {
      if (output === null) return null;
      return 'into' in output ? output.into : this.zeros(output.shape as number[], output.dtype as 'f32');
    });
    this.#ops.push({ op, in: [...inputs], out, attrs });
    return out;
  }

  /** Runs now, once, what was noted so far, and forgets it: to prepare the inputs of what is to be timed. */
  prepare(): void {
    for (const { op, in: inputs, out, attrs } of this.#ops.splice(0)) {
      const refs = (tensors: readonly (Tensor | null)[]) => tensors.map((tensor) => tensor?.ref ?? null);
      addon().call(op, refs(inputs), refs(out), attrs);
    }
  }

  zeros(shape: readonly number[], dtype: Exclude<DType, 'nf4'> = 'f32'): Tensor {
    return this.#own(Tensor.zeros(shape, dtype, this.#device));
  }

  integers(values: Int32Array, shape: readonly number[] = [values.length]): Tensor {
    return this.#own(Tensor.from(values, shape, 'i32', this.#device));
  }

  /** Normal numbers of the given deviation, from a table that repeats: what they are does not change the time. */
  normal(shape: readonly number[], dtype: 'f32' | 'bf16' = 'f32', deviation = 1): Tensor {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    const table = normals(NORMALS, deviation);
    // A length that shares no factor with the usual dimensions, so that rows differ.
    for (let at = 0; at < values.length; at += table.length) values.set(table.subarray(0, values.length - at), at);
    return this.#own(Tensor.from(values, shape, dtype, this.#device));
  }

  repeat(calls: number): Batch {
    if (this.#device === 'cuda') return { run: () => this.#timeLaunches(calls), release: () => {} };
    const index = new Map<Tensor, number>();
    const values: NativeValue[] = [];
    const indexOf = (tensor: Tensor | null): number => {
      if (tensor === null) return -1;
      const known = index.get(tensor);
      if (known !== undefined) return known;
      const { storage, offset, dtype, shape, nf4 } = tensor.ref;
      index.set(tensor, values.length);
      return values.push({ dtype, shape, ref: { storage, offset, ...(nf4 && { nf4 }) } }) - 1;
    };
    const once: NativeOp[] = this.#ops.map(({ op, in: inputs, out, attrs }) => ({
      op,
      in: inputs.map(indexOf),
      out: out.map(indexOf),
      attrs,
    }));
    const workspaceBytes = Math.max(
      0,
      ...this.#ops.map(({ op, in: inputs, out, attrs }) => addon().workspace(op, inputs, out, attrs, 'cpu')),
    );
    const arena = addon().allocate(workspaceBytes, 'cpu');
    const ops = Array.from({ length: calls }, () => once).flat();
    const executable = addon().compile({ dims: {}, values, ops, arena, workspaceOffset: 0, workspaceBytes });
    return {
      run: async () => {
        const start = performance.now();
        await addon().run(executable, {});
        return (performance.now() - start) / 1000;
      },
      release: () => {
        addon().release(executable as unknown as Storage);
        addon().release(arena);
      },
    };
  }

  /** Seconds that the GPU spent on so many launches of each op. */
  async #timeLaunches(repeats: number): Promise<number> {
    const refs = (tensors: readonly (Tensor | null)[]) => tensors.map((tensor) => tensor?.ref ?? null);
    let microseconds = 0;
    for (const { op, in: inputs, out, attrs } of this.#ops) {
      const times = await addon().timeOp(op, refs(inputs), refs(out), attrs, { repeats, flushL2: true });
      microseconds += times.reduce((sum, time) => sum + time, 0);
    }
    return microseconds / 1e6;
  }

  /** Frees the tensors. */
  release(): void {
    for (const tensor of this.#tensors.splice(0)) tensor.release();
    this.#ops.length = 0;
  }

  #own(tensor: Tensor): Tensor {
    this.#tensors.push(tensor);
    return tensor;
  }
}

/** A length that shares no factor with the usual dimensions, so that rows differ. */
const NORMALS = 65_521;
