/** A compiled graph: what native code runs, one call a run, off the main thread. */
import { VltuneError } from '../errors.js';
import { addon, type Executable, type Nf4Ref, type Storage } from '../native.js';
import type { Graph, Value } from './graph.js';
import type { Plan } from './planner.js';

/** Where a value that is not in the arena lies. */
export interface Place {
  readonly storage: Storage;
  readonly offset: number;
  readonly nf4?: Nf4Ref;
}

export class Program {
  readonly #executable: Executable;

  private constructor(executable: Executable) {
    this.#executable = executable;
  }

  /** `arena` holds at least `plan.arenaBytes`; `places` names every value outside of it that an op touches. */
  static compile(graph: Graph, plan: Plan, arena: Storage, places: ReadonlyMap<Value, Place>): Program {
    const used = [...new Set(graph.ops.flatMap((op) => [...op.in, ...op.out]))].filter((value) => value !== null);
    const index = new Map(used.map((value, i) => [value, i]));
    const indexOf = (value: Value | null): number => (value ? index.get(value)! : -1);
    return new Program(
      addon().compile({
        dims: graph.dims,
        values: used.map((value) => {
          const { dtype, shape } = value;
          if (value.kind === 'arena') return { dtype, shape, arena: plan.offsets.get(value)! };
          const place = places.get(value);
          if (!place) throw new VltuneError('ERR_INTERNAL', `${value.kind} ${value.name} has no place in memory`);
          return { dtype, shape, ref: place };
        }),
        ops: graph.ops.map((op) => ({ op: op.op, in: op.in.map(indexOf), out: op.out.map(indexOf), attrs: op.attrs })),
        arena,
        workspaceOffset: plan.workspaceOffset,
        workspaceBytes: plan.workspaceBytes,
      }),
    );
  }

  /** Runs all ops with these lengths of the named dimensions, `repeats` times. Rejects with ERR_CANCELLED when `signal` aborts it. */
  async run(lengths: Readonly<Record<string, number>>, signal?: AbortSignal, repeats = 1): Promise<void> {
    if (signal?.aborted) throw new VltuneError('ERR_CANCELLED', 'the run was cancelled');
    const cancel = () => addon().cancel(this.#executable);
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      await addon().run(this.#executable, lengths, repeats);
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Measure each op of the runs to come, or no longer. On the CPU they always are. */
  measureOps(on: boolean): void {
    addon().profile(this.#executable, on);
  }

  /** Milliseconds that each op has taken in all runs so far, by the op's name, the most expensive first. */
  profile(): { readonly op: string; readonly calls: number; readonly milliseconds: number }[] {
    const byOp = new Map<string, { op: string; calls: number; milliseconds: number }>();
    for (const { op, calls, nanoseconds } of addon().times(this.#executable)) {
      const entry = byOp.get(op) ?? { op, calls: 0, milliseconds: 0 };
      byOp.set(op, entry);
      entry.calls += calls;
      entry.milliseconds += nanoseconds / 1e6;
    }
    return [...byOp.values()].sort((a, b) => b.milliseconds - a.milliseconds);
  }

  /** Frees what only this program holds. */
  release(): void {
    addon().release(this.#executable);
  }
}
