import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { addon, type TensorRef } from '../../lib/native.js';
import {
  attend,
  attrsOf,
  type CaseResult,
  type CasesReport,
  randoms,
  runCases,
  type Storable,
  tensor,
} from './attention_cases.js';
import { type AttentionShape, attentionReference } from './attention_reference.js';

/** F32 sums of up to 260 terms of order 1; bf16 rounds inputs of the backward (o) and every output to 8 bits. */
const BOUNDS: Readonly<Record<Storable, number>> = { f32: 2e-6, bf16: 6e-3 };

function withinBounds(t: ExecutionContext, results: readonly CaseResult[]): void {
  for (const { name, dtype, distances } of results)
    for (const [output, distance] of Object.entries(distances))
      t.true(distance <= BOUNDS[dtype], `${dtype}, ${name}: ${output} is ${distance} off`);
}

function otherProcess(env: Readonly<Record<string, string>>, ...args: readonly string[]): CasesReport {
  const script = fileURLToPath(new URL('attention_cases.js', import.meta.url));
  return JSON.parse(
    execFileSync(process.execPath, [script, ...args], { env: { ...process.env, ...env }, encoding: 'utf8', maxBuffer: 1 << 26 }),
  ) as CasesReport;
}

test('attention, its gradients and cached attention agree with F64 over ragged shapes', (t) => {
  const report = runCases(true);
  t.is(report.training.length, 72);
  withinBounds(t, report.training);
  withinBounds(t, report.cached);
});

for (const isa of ['portable', 'avx2']) {
  test(`the ${isa} kernels agree with F64 over ragged shapes`, (t) => {
    const report = otherProcess({ VLTUNE_ISA: isa });
    if (addon().cpuInfo().isa !== 'portable') t.is(report.isa, isa);
    withinBounds(t, report.training);
    withinBounds(t, report.cached);
  });
}

test('the bits do not depend on the number of threads', (t) => {
  const one = otherProcess({ VLTUNE_NUM_THREADS: '1' }, 'digests');
  for (const threads of ['2', '5']) {
    const other = otherProcess({ VLTUNE_NUM_THREADS: threads }, 'digests');
    const digests = (report: CasesReport): string[] =>
      [...report.training, ...report.cached].map((c) => `${c.name} ${c.dtype} ${c.digest}`);
    t.deepEqual(digests(other), digests(one));
  }
});

test('the gradients are the slope of the F64 forward', (t) => {
  const shape: AttentionShape = { heads: 4, kvHeads: 2, headDim: 24, causal: true, scale: 0.4, lengths: [37, 1, 70] };
  const random = randoms(5);
  const [wide, narrow] = [108 * 96, 108 * 48];
  const [q, k, v, dout] = [random(wide, 'f32'), random(narrow, 'f32'), random(narrow, 'f32'), random(wide, 'f32')];
  const gradients = attend(shape, 'f32', q, k, v, dout);
  const loss = (inputs: { q: Float32Array; k: Float32Array; v: Float32Array }): number =>
    attentionReference(shape, inputs).o.reduce((sum, x, i) => sum + x * dout[i]!, 0);
  for (const [operand, values, gradient] of [
    ['q', q, gradients.dq],
    ['k', k, gradients.dk],
    ['v', v, gradients.dv],
  ] as const) {
    const direction = random(values.length, 'f32');
    // Steps as they are after rounding to F32, so that only the curvature is left as an error.
    const step = 2 ** -10;
    const up = values.map((x, i) => x + step * direction[i]!);
    const down = values.map((x, i) => x - step * direction[i]!);
    const slope = loss({ q, k, v, [operand]: up }) - loss({ q, k, v, [operand]: down });
    const expected = gradient.reduce((sum, g, i) => sum + g * (up[i]! - down[i]!), 0);
    const size = Math.hypot(...gradient) * step * 2;
    t.true(Math.abs(slope - expected) < 1e-4 * size, `d${operand}: slope ${slope}, by the gradient ${expected}`);
    t.true(Math.abs(expected) > 1e-2 * size, `d${operand}: the direction tells something`);
  }
});

test('scores far apart neither overflow nor give NaN', (t) => {
  const shape: AttentionShape = { heads: 1, kvHeads: 1, headDim: 32, causal: true, scale: 1, lengths: [150] };
  const random = randoms(3);
  const [q, k] = [random(4800, 'f32').map((x) => x * 60), random(4800, 'f32').map((x) => x * 60)];
  const [v, dout] = [random(4800, 'f32'), random(4800, 'f32')];
  const got = attend(shape, 'f32', q, k, v, dout);
  for (const values of Object.values(got) as Float32Array[]) t.true(values.every(Number.isFinite));
  const { o } = attentionReference(shape, { q, k, v });
  // Scores are of order 10^4, so F32 knows them to 10^-3.
  t.true(got.o.every((x, i) => Math.abs(x - o[i]!) < 0.02));
});

interface Operands {
  q: TensorRef;
  k: TensorRef;
  v: TensorRef;
  bounds: TensorRef;
  o: TensorRef;
  lse: TensorRef;
}

function call(change: Partial<Operands> & { attrs?: Record<string, number> }): () => void {
  const shape: AttentionShape = { heads: 4, kvHeads: 2, headDim: 16, causal: true, scale: 0.25, lengths: [4, 6] };
  const x = {
    q: tensor('f32', [10, 64]),
    k: tensor('f32', [10, 32]),
    v: tensor('f32', [10, 32]),
    bounds: tensor('i32', [3], Int32Array.of(0, 4, 10)),
    o: tensor('f32', [10, 64]),
    lse: tensor('f32', [4, 10]),
    ...change,
  };
  return () => addon().call('attention', [x.q, x.k, x.v, x.bounds], [x.o, x.lse], { ...attrsOf(shape), ...change.attrs });
}

test('operands that do not fit are refused by name', (t) => {
  t.notThrows(call({}));
  const refused = (change: Parameters<typeof call>[0], code: string, message: RegExp): void => {
    const error = t.throws(call(change), { message });
    t.is((error as Error & { code?: string }).code, code);
  };
  refused({ q: tensor('f32', [10, 60]) }, 'ERR_SHAPE', /attention: q has shape \[10,60\], expected \[\*,64\]/);
  refused({ k: tensor('f32', [9, 32]) }, 'ERR_SHAPE', /attention: k has shape \[9,32\], expected \[10,32\]/);
  refused({ v: tensor('bf16', [10, 32]) }, 'ERR_DTYPE', /attention: v is bf16, expected f32/);
  refused({ lse: tensor('f32', [10, 4]) }, 'ERR_SHAPE', /attention: lse has shape \[10,4\], expected \[4,10\]/);
  refused({ o: tensor('bf16', [10, 64]) }, 'ERR_DTYPE', /attention: o is bf16, expected f32/);
  refused({ bounds: tensor('bf16', [3]) }, 'ERR_DTYPE', /attention: bounds is bf16, expected i32/);
  refused({ bounds: tensor('i32', [3], Int32Array.of(1, 4, 10)) }, 'ERR_ARGUMENT', /bounds\[0\] is 1, expected 0/);
  refused(
    { bounds: tensor('i32', [4], Int32Array.of(0, 7, 4, 10)) },
    'ERR_ARGUMENT',
    /bounds\[2\] is 4, expected at least bounds\[1\], 7/,
  );
  refused(
    { bounds: tensor('i32', [3], Int32Array.of(0, 4, 9)) },
    'ERR_ARGUMENT',
    /bounds\[2\] is 9, expected the number of tokens, 10/,
  );
  refused({ attrs: { kv_heads: 3 } }, 'ERR_ARGUMENT', /attribute heads is 4, expected a multiple of kv_heads, 3/);
  refused({ attrs: { head_dim: 264 } }, 'ERR_ARGUMENT', /attribute head_dim is 264, expected a whole number from 1 to 256/);
  refused({ attrs: { scale: 0 } }, 'ERR_ARGUMENT', /attribute scale is 0, expected a positive number/);
});

test('a cache that is too short is refused before anything is written', (t) => {
  const attrs = { heads: 2, kv_heads: 1, head_dim: 8, scale: 1, causal: 1 };
  const ones = (rows: number, width: number): TensorRef => tensor('f32', [rows, width], new Float32Array(rows * width).fill(1));
  const caches = [tensor('f32', [12, 8]), tensor('f32', [12, 8])];
  for (const past of [10, -1]) {
    const call = (): void =>
      addon().call(
        'attention_cached',
        [ones(3, 16), ones(3, 8), ones(3, 8), tensor('i32', [1], Int32Array.of(past))],
        [ones(3, 16), ...caches],
        attrs,
      );
    const error = t.throws(call, {
      message: new RegExp(`past is ${past}, expected 0 to 9 \\(a cache of 12 rows less 3 new ones\\)`),
    });
    t.is((error as Error & { code?: string }).code, 'ERR_ARGUMENT');
  }
  for (const cache of caches) {
    const values = new Float32Array(96);
    addon().read(cache.storage, 0, values);
    t.true(values.every((x) => x === 0));
  }
});

test('scratch memory for many tokens is enough for fewer', (t) => {
  const attrs = { heads: 16, kv_heads: 8, head_dim: 128, scale: 1, causal: 1 };
  const bytes = (rows: number): number => {
    const [q, kv, cache] = [
      [rows, 2048],
      [rows, 1024],
      [40_960, 1024],
    ].map((shape) => ({ dtype: 'f32' as const, shape }));
    return addon().workspace(
      'attention_cached',
      [q!, kv!, kv!, { dtype: 'i32', shape: [1] }],
      [q!, cache!, cache!],
      attrs,
      'cpu',
    );
  };
  const most = bytes(512);
  for (const rows of [1, 4, 8, 9, 100]) t.true(bytes(rows) <= most, `${rows} rows: ${bytes(rows)} of ${most}`);
});
