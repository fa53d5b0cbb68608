/** Programs on a GPU: what another thread does meanwhile, and what a run leaves behind that breaks off. */
import { addon, type Device, type Executable, type NativeOp, type NativeValue, type Storage } from '../../lib/native.js';
import { Tensor } from '../../lib/ops/tensor.js';
import { type OpCase, opCases, runCase, shapeOf } from './op_cases.js';
import { cuda } from './support.js';

const MOST = 1 << 24;
const ADDS = 400;

/** y += x, many times, while a copy of x goes to page-locked memory. */
class Adder {
  readonly x: Storage = addon().allocate(4 * MOST, 'cuda');
  readonly y: Storage = addon().allocate(4 * MOST, 'cuda');
  readonly moved: Storage = addon().allocate(4 * MOST, 'pinned');
  readonly executable: Executable;

  constructor() {
    const values = [this.x, this.y, this.moved].map(
      (storage): NativeValue => ({ dtype: 'f32', shape: ['n'], ref: { storage, offset: 0 } }),
    );
    const add: NativeOp = { op: 'add', in: [0, 1], out: [1], attrs: {} };
    const ops: NativeOp[] = [
      { op: 'move_begin', in: [0], out: [2], attrs: { slot: 0 } },
      ...Array.from({ length: ADDS }, () => add),
      { op: 'move_end', in: [0, 2], out: [], attrs: { slot: 0 } },
    ];
    this.executable = addon().compile({ dims: { n: MOST }, values, ops, workspaceOffset: 0, workspaceBytes: 0 });
    addon().write(this.x, 0, new Float32Array(MOST).fill(1));
  }

  run(n: number): Promise<void> {
    return addon().run(this.executable, { n });
  }

  clear(): void {
    for (const storage of [this.y, this.moved]) addon().write(storage, 0, new Float32Array(MOST));
  }

  release(): void {
    for (const handle of [this.executable as unknown as Storage, this.x, this.y, this.moved]) addon().release(handle);
  }
}

function read(storage: Storage, count: number): Float32Array {
  const numbers = new Float32Array(count);
  addon().read(storage, 0, numbers);
  return numbers;
}

cuda('while a program becomes a graph, the main thread reads, writes, computes, allocates and frees', async (t) => {
  const adder = new Adder();
  try {
    const other = addon().allocate(4096, 'cuda');
    const operand = { storage: other, offset: 0, dtype: 'f32' as const, shape: [1024] };
    for (let n = 1; n <= 40; n++) {
      adder.clear();
      // The second of two runs is captured.
      for (let turn = 0; turn < 2; turn++) {
        let running = true;
        const run = adder.run(n).finally(() => {
          running = false;
        });
        while (running) {
          addon().write(other, 0, new Float32Array(1024).fill(n));
          addon().call('add', [operand, operand], [operand], {});
          t.is(read(other, 1)[0], 2 * n);
          addon().release(addon().allocate(1 << 20, 'cuda'));
          addon().release(addon().allocate(1 << 12, 'pinned'));
          await new Promise((resolve) => setImmediate(resolve));
        }
        await run;
      }
      t.true(read(adder.y, n).every((sum) => sum === 2 * ADDS));
    }
    addon().release(other);
  } finally {
    adder.release();
  }
});

cuda('a run that is cancelled has ended when it says so: no copy of it is under way, and the next run is whole', async (t) => {
  const adder = new Adder();
  t.timeout(120_000);
  const cancelled = { first: 0, captured: 0 };
  try {
    // Cancelled at moments of the first run of a length, then of the second, which is captured.
    for (let attempt = 0; attempt < 40; attempt++) {
      const n = MOST - attempt;
      for (const phase of ['first', 'captured'] as const) {
        adder.clear();
        const run = adder.run(n);
        const until = performance.now() + 0.05 * attempt;
        while (performance.now() < until);
        addon().cancel(adder.executable);
        const error = await run.then(
          () => undefined,
          (reason: NodeJS.ErrnoException) => reason,
        );
        if (error) {
          t.is(error.code, 'ERR_CANCELLED', error.message);
          cancelled[phase] += 1;
          adder.clear();
          await new Promise((resolve) => setTimeout(resolve, 5));
          t.true(read(adder.moved, MOST).every((value) => value === 0));
        }
        if (phase === 'captured') continue;
        adder.clear();
        await adder.run(n);
        t.is(read(adder.moved, n)[n - 1], 1);
        t.is(read(adder.y, n)[n - 1], ADDS);
      }
    }
    t.true(cancelled.first > 0 && cancelled.captured > 0, JSON.stringify(cancelled));
  } finally {
    adder.release();
  }
});

/** What a case makes with scratch memory of NaN; undefined if it wants none, or has an operand of parts. */
async function runOverNaN({ op, inputs, outputs, attrs = {} }: OpCase, device: Device): Promise<(Tensor | null)[] | undefined> {
  const operands = [...inputs, ...outputs];
  const shapes = operands.map((operand) => operand && shapeOf(operand));
  const bytes = addon().workspace(op, shapes.slice(0, inputs.length), shapes.slice(inputs.length), attrs, device);
  if (bytes === 0 || operands.some((operand) => operand && !(operand instanceof Tensor))) return undefined;
  const placed = operands.map((operand) => operand && (operand as Tensor).to(device));
  const present = placed.filter((tensor) => tensor !== null);
  const values = present.map(
    ({ dtype, shape, ref }): NativeValue => ({ dtype, shape, ref: { storage: ref.storage, offset: ref.offset } }),
  );
  const all = placed.map((tensor) => (tensor ? present.indexOf(tensor) : -1));
  const arena = addon().allocate(bytes, device);
  addon().write(arena, 0, new Uint8Array(bytes).fill(255));
  const ops = [{ op, in: all.slice(0, inputs.length), out: all.slice(inputs.length), attrs }];
  const executable = addon().compile({ dims: {}, values, ops, arena, workspaceOffset: 0, workspaceBytes: bytes });
  try {
    await addon().run(executable, {});
    return placed.slice(inputs.length);
  } finally {
    for (const handle of [executable as unknown as Storage, arena]) addon().release(handle);
  }
}

cuda('no op reads of its scratch memory what it has not written', async (t) => {
  const ops = new Set<string>();
  for (const c of opCases()) {
    const made = await runOverNaN(c, 'cuda');
    if (!made) continue;
    ops.add(c.op);
    const expected = runCase(c, 'cuda');
    t.true(
      made.every((tensor, i) => !tensor || Buffer.from(tensor.toBytes()).equals(expected[i]!.toBytes())),
      c.name,
    );
  }
  t.true(ops.has('attention_backward'));
});
