import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import type { Value } from '../../lib/graph/graph.js';
import { Graph } from '../../lib/graph/graph.js';
import { planMemory } from '../../lib/graph/planner.js';
import { type Place, Program } from '../../lib/graph/program.js';
import { addon, type Storage, type TensorRef } from '../../lib/native.js';
import { swiglu } from '../../lib/ops/swiglu.js';
import { Tensor } from '../../lib/ops/tensor.js';
import { REPOSITORY, shortRun, temporaryFolder, weightDigest } from '../train/support.js';

const tensor = (storage: Storage, shape: number[], offset = 0): TensorRef => ({ storage, offset, dtype: 'f32', shape });

test.serial('every op of the table is compiled in', (t) => {
  const names = addon().opNames();
  t.true(names.length >= 25);
  t.is(new Set(names).size, names.length);
});

test.serial('a wrong handle, and one that was released, are refused', (t) => {
  const { allocate, read, release, storageBytes, run } = addon();
  const bytes = new Uint8Array(4);
  for (const wrong of [{}, null, undefined, 7, 'storage', [], new Uint8Array(8)]) {
    t.throws(() => read(wrong as unknown as Storage, 0, bytes), { code: 'ERR_ARGUMENT' });
  }
  const storage = allocate(64, 'cpu');
  t.throws(() => run(storage as never, {}), { code: 'ERR_ARGUMENT', message: /expected an executable/ });
  t.is(storageBytes(storage), 64);
  release(storage);
  t.throws(() => read(storage, 0, bytes), { code: 'ERR_ARGUMENT', message: /released/ });
});

test.serial('memory is zeroed, and reads and writes stay within it', (t) => {
  const { allocate, read, write, copy } = addon();
  const storage = allocate(16, 'cpu');
  const bytes = new Uint8Array(16).fill(9);
  read(storage, 0, bytes);
  t.deepEqual(bytes, new Uint8Array(16));
  t.throws(() => read(storage, 1, bytes), { code: 'ERR_ARGUMENT', message: /bytes 1 to 17 do not lie in a storage of 16/ });
  t.throws(() => write(storage, 16, Uint8Array.of(1)), { code: 'ERR_ARGUMENT' });
  t.throws(() => write(storage, -1, bytes), { code: 'ERR_ARGUMENT' });
  t.throws(() => copy(storage, 0, storage, 8, 9), { code: 'ERR_ARGUMENT' });
  write(storage, 4, Float32Array.of(1.5));
  const number = new Float32Array(1);
  read(storage, 4, number);
  t.is(number[0], 1.5);
});

test.serial('memory that the system cannot give is ERR_OUT_OF_MEMORY with the size', (t) => {
  t.throws(() => addon().allocate(2 ** 50, 'cpu'), { code: 'ERR_OUT_OF_MEMORY', message: /1073741824\.0 MiB/ });
});

test.serial('a build without CUDA says so', (t) => {
  t.throws(() => addon().allocate(64, 'cuda'), { code: 'ERR_NO_DEVICE' });
});

test.serial('a mapped file is read-only', (t) => {
  const path = join(temporaryFolder(t), 'file');
  writeFileSync(path, Float32Array.of(1, 2, 3, 4));
  const { mapFile, write, read, call, allocate } = addon();
  const mapped = mapFile(path);
  t.throws(() => write(mapped, 0, Uint8Array.of(1)), { code: 'ERR_ARGUMENT', message: /read-only/ });
  const four = tensor(mapped, [2, 2]);
  t.throws(() => call('add', [four, four], [four], {}), { code: 'ERR_ARGUMENT', message: /read-only/ });
  const sum = allocate(16, 'cpu');
  call('add', [four, four], [tensor(sum, [2, 2])], {});
  const numbers = new Float32Array(4);
  read(sum, 0, numbers);
  t.deepEqual(numbers, Float32Array.of(2, 4, 6, 8));
  t.throws(() => mapFile(join(path, 'nothing')), { code: 'ERR_IO' });
});

test.serial('a tensor that does not lie in its storage never reaches a kernel', (t) => {
  const storage = addon().allocate(64, 'cpu');
  const good = tensor(storage, [4, 4]);
  t.throws(() => addon().call('add', [good, tensor(storage, [4, 5])], [good], {}), { code: 'ERR_ARGUMENT' });
  t.throws(() => addon().call('add', [good, tensor(storage, [4, 4], 4)], [good], {}), { code: 'ERR_ARGUMENT' });
  t.throws(() => addon().call('add', [good, { ...good, dtype: 'f64' as never }], [good], {}), { code: 'ERR_DTYPE' });
  t.throws(() => addon().call('add', [good, { ...good, shape: [-1] }], [good], {}), { code: 'ERR_ARGUMENT' });
  t.throws(() => addon().call('add', [good, { ...good, shape: [] }], [good], {}), { code: 'ERR_SHAPE' });
  t.throws(() => addon().call('multiply', [good], [good], {}), { code: 'ERR_ARGUMENT', message: /no op named multiply/ });
});

test.serial('lengths whose product overflows, and an offset between two elements, are refused', (t) => {
  const storage = addon().allocate(64, 'cpu');
  const good = tensor(storage, [4, 4]);
  for (const shape of [
    [2 ** 32, 2 ** 32],
    [2 ** 52, 2 ** 11],
    [2 ** 40, 0, 2 ** 40],
  ]) {
    t.throws(() => addon().call('add', [tensor(storage, shape), good], [good], {}), { code: 'ERR_SHAPE', message: /2\^53/ });
  }
  const between = { code: 'ERR_ARGUMENT', message: /offset 2, expected a multiple of 4/ };
  t.throws(() => addon().call('add', [tensor(storage, [2], 2), tensor(storage, [2])], [tensor(storage, [2])], {}), between);
});

test.serial('a row number is refused where there are no rows', (t) => {
  const storage = addon().allocate(64, 'cpu');
  const ids: TensorRef = { ...tensor(storage, [1]), dtype: 'i32' };
  const none = tensor(storage, [0, 4]);
  const row = tensor(storage, [1, 4]);
  const refused = { code: 'ERR_ARGUMENT', message: /\[0\] is 0, expected 0\.\.-1/ };
  t.throws(() => addon().call('embedding', [ids, none], [row], {}), refused);
  t.throws(() => addon().call('embedding_backward', [ids, row], [none], {}), refused);
  t.throws(() => addon().call('select_rows', [none, ids], [row], {}), refused);
});

test.serial('a product over nothing is zero, however many rows it has', (t) => {
  const y = Tensor.from(new Float32Array(100 * 70).fill(9), [100, 70]);
  addon().call('linear', [Tensor.zeros([100, 0]).ref, Tensor.zeros([70, 0]).ref], [y.ref], {});
  t.true(y.toFloat32().every((value) => value === 0));
});

test.serial('an attribute that must be whole and is not is refused by name', (t) => {
  const q = Tensor.zeros([2, 8]).ref;
  const angles = Tensor.zeros([2, 4]).ref;
  for (const head_dim of [Number.NaN, Number.POSITIVE_INFINITY, 1e300, 7.5]) {
    t.throws(() => addon().call('qk_norm_rope', [q, null, angles, angles], [q], { head_dim }), {
      code: 'ERR_ARGUMENT',
      message: /attribute head_dim is .*, expected a whole number/,
    });
  }
});

test.serial('a program cannot write to a mapped file, nor keep scratch memory at an odd place', (t) => {
  const path = join(temporaryFolder(t), 'file');
  writeFileSync(path, new Float32Array(64));
  const mapped = addon().mapFile(path);
  const compile = (storage: Storage, workspaceOffset: number) =>
    addon().compile({
      dims: {},
      values: [{ dtype: 'f32', shape: [4], ref: { storage, offset: 0 } }],
      ops: [{ op: 'add', in: [0, 0], out: [0], attrs: {} }],
      arena: addon().allocate(256, 'cpu'),
      workspaceOffset,
      workspaceBytes: 64,
    });
  t.throws(() => compile(mapped, 0), { code: 'ERR_ARGUMENT', message: /add: an output lies in a mapped file/ });
  t.throws(() => compile(addon().allocate(16, 'cpu'), 8), {
    code: 'ERR_ARGUMENT',
    message: /workspace: offset 8, expected a multiple of 64/,
  });
  t.notThrows(() => compile(addon().allocate(16, 'cpu'), 64));
});

function swigluProgram(rows: number): { program: Program; storages: Storage[] } {
  const graph = new Graph({ n: rows });
  const gate = graph.value('io', 'gate', 'f32', ['n', 256]);
  let y: Value = gate;
  for (let i = 0; i < 40; i++) y = swiglu(graph, y, gate);
  const plan = planMemory(graph);
  const storage = addon().allocate(rows * 1024, 'cpu');
  const arena = addon().allocate(plan.arenaBytes, 'cpu');
  return {
    program: Program.compile(graph, plan, arena, new Map<Value, Place>([[gate, { storage, offset: 0 }]])),
    storages: [storage, arena],
  };
}

test.serial('a length beyond the planned one is refused', async (t) => {
  const { program } = swigluProgram(8);
  await program.run({ n: 8 });
  await t.throwsAsync(program.run({ n: 9 }), { code: 'ERR_SHAPE', message: /dimension n: expected 0 to 8, got 9/ });
});

test.serial('an abort stops a run between two ops, and the program runs again', async (t) => {
  const { program } = swigluProgram(20_000);
  const controller = new AbortController();
  const running = program.run({ n: 20_000 }, controller.signal);
  controller.abort();
  await t.throwsAsync(running, { code: 'ERR_CANCELLED' });
  await program.run({ n: 20_000 });
  t.pass();
});

test.serial('a cancellation that comes when no run is under way stops none later', async (t) => {
  const storage = addon().allocate(64, 'cpu');
  const executable = addon().compile({
    dims: {},
    values: [{ dtype: 'f32', shape: [16], ref: { storage, offset: 0 } }],
    ops: [{ op: 'add', in: [0, 0], out: [0], attrs: {} }],
    workspaceOffset: 0,
    workspaceBytes: 0,
  });
  addon().cancel(executable);
  await t.notThrowsAsync(addon().run(executable, {}));
});

test.serial('the number of threads may change, and times be read, while a program runs', async (t) => {
  const { program } = swigluProgram(20_000);
  const threads = addon().cpuInfo().threads;
  try {
    let running = true;
    const run = program.run({ n: 20_000 }).finally(() => {
      running = false;
    });
    let changes = 0;
    while (running) {
      addon().setThreads(1 + (changes++ % 3));
      t.is(program.profile()[0]?.op, 'swiglu');
      await new Promise((resolve) => setImmediate(resolve));
    }
    await run;
    t.true(changes > 0);
    t.is(program.profile()[0]?.calls, 40);
  } finally {
    addon().setThreads(threads);
  }
});

test.serial('memory that a running program uses outlives its release', async (t) => {
  const { program, storages } = swigluProgram(20_000);
  const running = program.run({ n: 20_000 });
  for (const storage of storages) addon().release(storage);
  program.release();
  await running;
  t.pass();
});

test.serial('a run leaves the event loop free', async (t) => {
  const { program } = swigluProgram(50_000);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const started = performance.now();
  await program.run({ n: 50_000 });
  const passed = performance.now() - started;
  clearInterval(timer);
  t.true(passed < 20 || ticks > 2, `${ticks} ticks in ${passed.toFixed(0)} ms`);
});

test.serial('training works in worker threads, two of them at a time, to the bytes of the main thread', async (t) => {
  const folder = temporaryFolder(t);
  const { train } = await import('../../lib/index.js');
  await train(shortRun(join(folder, 'main'), { maxSteps: 4, saveStrategy: 'no' }));
  const source = `
    const { workerData } = require('node:worker_threads');
    import(workerData.index).then(({ train }) => train(workerData.options));`;
  await Promise.all(
    ['one', 'two'].map(
      (name) =>
        new Promise<void>((resolve, reject) => {
          const options = shortRun(join(folder, name), { maxSteps: 4, saveStrategy: 'no' });
          const worker = new Worker(source, {
            eval: true,
            workerData: { index: join(REPOSITORY, 'dist/lib/index.js'), options },
          });
          worker.on('error', reject);
          worker.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`exit code ${code}`))));
        }),
    ),
  );
  for (const name of ['one', 'two']) t.is(weightDigest(join(folder, name)), weightDigest(join(folder, 'main')), name);
});

test.serial('a worker that is terminated in the middle of a run does not take the process with it', async (t) => {
  const folder = temporaryFolder(t);
  const options = shortRun(join(folder, 'run'), { maxSteps: 100_000, saveStrategy: 'no' });
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    import(workerData.index).then(({ train }) => train(workerData.options, { onEvent: (e) => e.event === 'step' && parentPort.postMessage(e.step) }));`;
  const worker = new Worker(source, { eval: true, workerData: { index: join(REPOSITORY, 'dist/lib/index.js'), options } });
  await new Promise((resolve) => worker.once('message', resolve));
  await worker.terminate();
  const { program } = swigluProgram(8);
  await program.run({ n: 8 });
  t.pass();
});

test.serial('a process that exits in the middle of a run exits with its own code', (t) => {
  const folder = temporaryFolder(t);
  const options = JSON.stringify(shortRun(join(folder, 'run'), { maxSteps: 100_000, saveStrategy: 'no' }));
  const source = `
    const { train } = await import(${JSON.stringify(join(REPOSITORY, 'dist/lib/index.js'))});
    train(${options}, { onEvent: (e) => e.event === 'step' && e.step === 2 && setTimeout(() => process.exit(7), 3) });`;
  const { status, signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' });
  t.is(signal, null, stderr);
  t.is(status, 7, stderr);
});
