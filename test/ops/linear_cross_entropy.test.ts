import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { addon, type TensorRef } from '../../lib/native.js';
import { BEFORE, type Case, cases, check, IGNORED, operandsOf, reference, run } from './linear_cross_entropy_cases.js';
import { bytesOf, download, expectClose, filled, integers, upload } from './matrices.js';

for (const dtype of ['f32', 'bf16'] as const)
  test(`loss and gradients agree with F64 over ragged shapes and every storage of the weight, ${dtype}`, (t) => {
    cases().forEach((c, i) => {
      if (c.dtype === dtype) t.notThrows(() => check(c, i + 1));
    });
  });

for (const isa of ['portable', 'avx2', 'avx512', 'avx512_bf16', 'amx'])
  test(`the same holds for the kernels that VLTUNE_ISA=${isa} leaves`, async (t) => {
    const module = new URL('./linear_cross_entropy_cases.js', import.meta.url).href;
    const script = `const { checkAll } = await import(${JSON.stringify(module)}); console.log(checkAll());`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, VLTUNE_ISA: isa },
      cwd: fileURLToPath(new URL('.', import.meta.url)),
    });
    t.is(Number(stdout), cases().length);
  });

// 60,000 words are 140 rows a chunk.
for (const dtype of ['f32', 'bf16'] as const)
  test(`several chunks, the last of few rows, are one sum, ${dtype}`, (t) => {
    t.notThrows(() => check({ n: 145, width: 5, vocab: 60000, dtype, weight: 'bf16', every: 1 }, 21));
  });

test('rows without a target add nothing and get a gradient of zero', (t) => {
  const c: Case = { n: 9, width: 8, vocab: 20, dtype: 'f32', weight: 'f32', every: 3 };
  const o = operandsOf(c, 4);
  const dx = download(run(c, o).dx);
  o.targets.forEach((target, i) => {
    const row = dx.slice(i * c.width, (i + 1) * c.width);
    t.is(
      row.every((v) => v === 0),
      target === IGNORED,
    );
  });
});

test('a list of the rows with a target changes nothing, and must be i32', (t) => {
  for (const every of [0, 3]) {
    const c: Case = { n: 9, width: 8, vocab: 20, dtype: 'f32', weight: 'f32', every };
    const o = operandsOf(c, 4);
    const listed = o.targets.flatMap((target, row) => (target === IGNORED ? [] : [row]));
    const operands = [upload(o.x), upload(o.weight), upload(integers(o.targets)), upload(filled('f32', [1], o.scale))];
    const loss = upload(filled('f32', [1], BEFORE));
    const dx = upload(filled('f32', [c.n, c.width], 0));
    addon().call('linear_cross_entropy', [...operands, upload(integers(listed))], [loss, dx, null], {});
    const plain = run(c, o);
    t.deepEqual(bytesOf(loss), bytesOf(plain.loss));
    t.deepEqual(bytesOf(dx), bytesOf(plain.dx));
    const wrong = upload(filled('f32', [3], 0));
    t.throws(() => addon().call('linear_cross_entropy', [...operands, wrong], [loss, dx, null], {}), {
      code: 'ERR_DTYPE',
      message: /rows is f32, expected i32/,
    });
  }
});

test('without dx and dweight it is the same loss', (t) => {
  for (const dtype of ['f32', 'bf16'] as const) {
    const c: Case = { n: 30, width: 40, vocab: 333, dtype, weight: 'nf4', every: 2 };
    const o = operandsOf(c, 8);
    const loss = upload(filled('f32', [1], BEFORE));
    addon().call(
      'linear_cross_entropy',
      [upload(o.x), upload(o.weight), upload(integers(o.targets)), upload(filled('f32', [1], o.scale))],
      [loss, null, null],
      {},
    );
    t.deepEqual(bytesOf(loss), bytesOf(run(c, o).loss));
  }
});

test('dx alone and dweight alone are what they are together', (t) => {
  const c: Case = { n: 30, width: 40, vocab: 333, dtype: 'f32', weight: 'f32', every: 2 };
  const o = operandsOf(c, 8);
  const together = run(c, o);
  const inputs = [upload(o.x), upload(o.weight), upload(integers(o.targets)), upload(filled('f32', [1], o.scale))];
  const dx = upload(filled('f32', [c.n, c.width], 3));
  addon().call('linear_cross_entropy', inputs, [upload(filled('f32', [1], 0)), dx, null], {});
  t.deepEqual(bytesOf(dx), bytesOf(together.dx));
  const dweight = upload(filled('f32', [c.vocab, c.width], BEFORE));
  addon().call('linear_cross_entropy', inputs, [upload(filled('f32', [1], 0)), null, dweight], {});
  t.deepEqual(bytesOf(dweight), bytesOf(together.dweight));
});

test('logits of any size: no overflow, and a sure answer has no loss', (t) => {
  const c: Case = { n: 2, width: 1, vocab: 40, dtype: 'f32', weight: 'f32', every: 1 };
  const x = { ...filled('f32', [2, 1], 1) };
  const weight = { ...filled('f32', [40, 1], -30000) };
  weight.values[17] = 30000;
  const o = { x, weight, targets: [17, 3], scale: 1 };
  const got = run(c, o);
  t.is(download(got.loss)[0]! - BEFORE, 60000);
  expectClose('dx', got.dx, reference(c, o).dx, 1e-6);
});

test.serial('the bits do not depend on the number of threads', (t) => {
  const { threads } = addon().cpuInfo();
  for (const dtype of ['f32', 'bf16'] as const) {
    const c: Case = { n: 200, width: 96, vocab: 2100, dtype, weight: 'nf4-double', every: 2 };
    const o = operandsOf(c, 3);
    const outcome = (count: number): string[] => {
      addon().setThreads(count);
      const { loss, dx, dweight } = run(c, o);
      return [loss, dx, dweight].map((tensor) => Buffer.from(bytesOf(tensor)).toString('base64'));
    };
    const alone = outcome(1);
    for (const count of [2, 3]) t.deepEqual(outcome(count), alone);
  }
  addon().setThreads(threads);
});

test('operands that do not fit and targets out of range are refused by name', (t) => {
  const of = (shape: readonly number[]): TensorRef => upload(filled('f32', shape, 1));
  const call = (targets: TensorRef, inputs: Partial<Record<'x' | 'weight' | 'scale' | 'dx', TensorRef>> = {}): void =>
    addon().call(
      'linear_cross_entropy',
      [inputs.x ?? of([2, 4]), inputs.weight ?? of([5, 4]), targets, inputs.scale ?? of([1])],
      [of([1]), inputs.dx ?? null, null],
      {},
    );
  const good = upload(integers([1, 2]));
  t.notThrows(() => call(good));
  t.throws(() => call(upload(integers([1, 5]))), { code: 'ERR_ARGUMENT', message: /targets\[1\] is 5, expected 0..4/ });
  t.throws(() => call(upload(integers([-1, 2]))), { code: 'ERR_ARGUMENT', message: /targets\[0\] is -1/ });
  t.throws(() => call(upload(integers([1, 2, 3]))), { code: 'ERR_SHAPE', message: /targets has shape \[3\], expected \[2\]/ });
  t.throws(() => call(of([2])), { code: 'ERR_DTYPE', message: /targets is f32, expected i32/ });
  t.throws(() => call(good, { weight: of([5, 3]) }), {
    code: 'ERR_SHAPE',
    message: /weight has shape \[5,3\], expected \[\*,4\]/,
  });
  t.throws(() => call(good, { dx: of([4, 2]) }), { code: 'ERR_SHAPE', message: /dx has shape \[4,2\], expected \[2,4\]/ });
});

// 2,048 words are 4,096 rows a chunk: 5,120 rows make two of 2,560, 4,096 one that is larger.
test('scratch memory for many rows is enough for fewer', (t) => {
  const bytes = (rows: number): number => {
    const tensor = (dtype: 'f32' | 'i32', ...shape: number[]) => ({ dtype, shape });
    const [x, weight] = [tensor('f32', rows, 64), tensor('f32', 2048, 64)];
    const inputs = [x, weight, tensor('i32', rows), tensor('f32', 1), tensor('i32', rows)];
    return addon().workspace('linear_cross_entropy', inputs, [tensor('f32', 1), x, weight], {}, 'cpu');
  };
  const most = bytes(5120);
  for (const rows of [1, 31, 1000, 4095, 4096, 4097]) t.true(bytes(rows) <= most, `${rows} rows: ${bytes(rows)} of ${most}`);
});
