import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { addon, type TensorRef } from '../../lib/native.js';
import { type Case, cases, check, dropoutFactors, philox, run } from './linear_cases.js';
import { bytesOf, download, filled, type Host, integers, Numbers, random, upload } from './matrices.js';

const LORA: Case = {
  n: 75,
  inputs: 130,
  outputs: 97,
  dtype: 'f32',
  weight: 'f32',
  rank: 16,
  bias: 'f32',
  dropout: 0.3,
  accumulate: true,
};

for (const dtype of ['f32', 'bf16'] as const)
  test(`linear and its backward agree with F64 sums over ragged shapes and every storage of the weight, ${dtype}`, (t) => {
    cases().forEach((c, i) => {
      if (c.dtype === dtype) t.notThrows(() => check(c, i + 1));
    });
  });

for (const isa of ['portable', 'avx2', 'avx512', 'avx512_bf16', 'amx'])
  test(`the same holds for the kernels that VLTUNE_ISA=${isa} leaves`, async (t) => {
    const module = new URL('./linear_cases.js', import.meta.url).href;
    const script = `const { checkAll } = await import(${JSON.stringify(module)}); console.log(checkAll());`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, VLTUNE_ISA: isa },
      cwd: fileURLToPath(new URL('.', import.meta.url)),
    });
    t.is(Number(stdout), cases().length);
  });

test.serial('the bits do not depend on the number of threads', (t) => {
  const { threads } = addon().cpuInfo();
  const shapes = [
    { n: 300, inputs: 96, outputs: 700 },
    { n: 37, inputs: 700, outputs: 130 },
    { n: 4, inputs: 300, outputs: 500 },
  ];
  for (const shape of shapes)
    for (const dtype of ['f32', 'bf16'] as const)
      for (const dropout of [0, 0.25]) {
        const c: Case = { ...LORA, ...shape, dtype, dropout };
        const outcome = (count: number): string[] => {
          addon().setThreads(count);
          const { y, u, dx, dweight, dbias, da, db } = run(c, 5);
          return [y, u, dx, dweight, dbias, da, db].map((tensor) => Buffer.from(bytesOf(tensor!)).toString('base64'));
        };
        const alone = outcome(1);
        for (const count of [2, 3, 5]) t.deepEqual(outcome(count), alone, `${JSON.stringify(c)} on ${count} threads`);
      }
  addon().setThreads(threads);
});

test('Philox4x32-10 gives the published words', (t) => {
  // Random123's known answers (kat_vectors), counter and key all zeros and all ones.
  t.deepEqual(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  t.deepEqual(philox([-1, -1, -1, -1], [-1, -1]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
});

/** drop(x) itself: x of ones through an adapter whose A is the identity. */
function maskOf(n: number, width: number, p: number, key: readonly number[], site: number): Float64Array {
  const identity = { ...filled('f32', [width, width], 0) };
  for (let j = 0; j < width; j++) identity.values[j * width + j] = 1;
  const zeros = upload(filled('f32', [width, width], 0));
  const u = upload(filled('f32', [n, width], 0));
  addon().call(
    'linear',
    [upload(filled('f32', [n, width], 1)), zeros, null, upload(identity), zeros, upload(integers(key))],
    [upload(filled('f32', [n, width], 0)), u],
    {
      scale: 1,
      dropout: p,
      site,
    },
  );
  return download(u);
}

test('dropout keeps the elements that Philox says, and scales them by 1 / (1 - p)', (t) => {
  const mask = maskOf(61, 70, 0.3, [123456789, -987654321], 7);
  t.deepEqual(mask, dropoutFactors(61, 70, 0.3));
});

test('dropout drops a share p, and another key or layer drops others', (t) => {
  const [n, width] = [200, 64];
  const dropped = (mask: Float64Array): number => mask.reduce((count, v) => count + (v === 0 ? 1 : 0), 0) / mask.length;
  for (const p of [0.05, 0.5, 0.9]) {
    const deviation = Math.sqrt((p * (1 - p)) / (n * width));
    t.true(Math.abs(dropped(maskOf(n, width, p, [1, 2], 3)) - p) < 4 * deviation, `p = ${p}`);
  }
  const first = maskOf(n, width, 0.5, [1, 2], 3);
  for (const other of [maskOf(n, width, 0.5, [1, 3], 3), maskOf(n, width, 0.5, [1, 2], 4)]) {
    const same = other.reduce((count, v, i) => count + (v === first[i] ? 1 : 0), 0) / other.length;
    t.true(Math.abs(same - 0.5) < 4 * Math.sqrt(0.25 / other.length));
  }
});

test('the gradients are those of the forward with the same mask, by finite differences', (t) => {
  const numbers = new Numbers(11);
  const [n, inputs, outputs, rank] = [5, 12, 9, 3];
  const hosts = {
    x: random(numbers, 'f32', [n, inputs]),
    weight: random(numbers, 'f32', [outputs, inputs]),
    bias: random(numbers, 'f32', [outputs]),
    a: random(numbers, 'f32', [rank, inputs]),
    b: random(numbers, 'f32', [outputs, rank]),
  };
  const dy = random(numbers, 'f32', [n, outputs]);
  const rng = upload(integers([42, 43]));
  const attrs = { scale: 0.7, dropout: 0.4, site: 2 };
  const zeros = (shape: readonly number[]): TensorRef => upload(filled('f32', shape, 0));
  const u = zeros([n, rank]);
  const loss = (): number => {
    const y = zeros([n, outputs]);
    addon().call(
      'linear',
      [upload(hosts.x), upload(hosts.weight), upload(hosts.bias), upload(hosts.a), upload(hosts.b), rng],
      [y, u],
      attrs,
    );
    return download(y).reduce((sum, value, i) => sum + value * dy.values[i]!, 0);
  };
  loss();
  const gradients = {
    x: zeros(hosts.x.shape),
    weight: zeros(hosts.weight.shape),
    bias: zeros(hosts.bias.shape),
    a: zeros(hosts.a.shape),
    b: zeros(hosts.b.shape),
  };
  addon().call(
    'linear_backward',
    [upload(dy), upload(hosts.x), upload(hosts.weight), upload(hosts.a), upload(hosts.b), u, rng],
    [gradients.x, gradients.weight, gradients.bias, gradients.a, gradients.b],
    attrs,
  );
  for (const name of ['x', 'weight', 'bias', 'a', 'b'] as const) {
    const host: Host = hosts[name];
    const got = download(gradients[name]);
    for (let i = 0; i < got.length; i++) {
      const kept = host.values[i]!;
      // The loss is linear in each single element, so a wide step costs no accuracy.
      host.values[i] = kept + 1;
      const up = loss();
      host.values[i] = kept - 1;
      const down = loss();
      host.values[i] = kept;
      t.true(
        Math.abs((up - down) / 2 - got[i]!) < 2e-5 * (1 + Math.abs(got[i]!)),
        `d${name}[${i}]: ${got[i]} against ${(up - down) / 2}`,
      );
    }
  }
});

test('each output is computed alone as it is with the others', (t) => {
  const all = run(LORA, 9);
  const on = [all.hosts.dy, all.hosts.x, all.hosts.weight, all.hosts.a!, all.hosts.b!].map(upload);
  const u = all.u!;
  const rng = upload(integers([123456789, -987654321]));
  const attrs = { scale: 1.5, dropout: LORA.dropout, site: 7, accumulate: 1 };
  const outputs = [all.dx, all.dweight, all.dbias, all.da!, all.db!];
  outputs.forEach((whole, i) => {
    const alone = upload(filled(whole.dtype, whole.shape, all.before));
    const needsX = i === 1 || i === 3;
    addon().call(
      'linear_backward',
      [on[0]!, needsX ? on[1]! : null, on[2]!, on[3]!, on[4]!, i === 4 ? u : null, rng],
      outputs.map((_, j) => (j === i ? alone : null)),
      attrs,
    );
    t.deepEqual(bytesOf(alone), bytesOf(whole), ['dx', 'dweight', 'dbias', 'da', 'db'][i]);
  });
});

test('no rows: the outputs are empty and the gradients stay', (t) => {
  const weight = upload(filled('f32', [3, 4], 1));
  t.notThrows(() =>
    addon().call(
      'linear',
      [upload(filled('f32', [0, 4], 0)), weight, null, null, null, null],
      [upload(filled('f32', [0, 3], 0)), null],
      {},
    ),
  );
  const dweight = upload(filled('f32', [3, 4], 5));
  const empty = (width: number): TensorRef => upload(filled('f32', [0, width], 0));
  addon().call(
    'linear_backward',
    [empty(3), empty(4), weight, null, null, null, null],
    [empty(4), dweight, null, null, null],
    {},
  );
  t.true(download(dweight).every((v) => v === 5));
});

test('operands that do not fit are refused by name, with both shapes', (t) => {
  const of = (shape: readonly number[], dtype: 'f32' | 'bf16' = 'f32'): TensorRef => upload(filled(dtype, shape, 1));
  const forward = (inputs: (TensorRef | null)[], outputs: (TensorRef | null)[], attrs: Record<string, number> = {}): void =>
    addon().call('linear', inputs, outputs, attrs);
  const x = of([2, 4]);
  const w = of([3, 4]);
  const y = of([2, 3]);
  t.throws(() => forward([x, of([3, 5]), null, null, null, null], [y, null]), {
    code: 'ERR_SHAPE',
    message: /linear: weight has shape \[3,5\], expected \[\*,4\]/,
  });
  t.throws(() => forward([x, w, null, null, null, null], [of([3, 2]), null]), {
    code: 'ERR_SHAPE',
    message: /linear: y has shape \[3,2\], expected \[2,3\]/,
  });
  t.throws(() => forward([x, w, of([4]), null, null, null], [y, null]), {
    code: 'ERR_SHAPE',
    message: /linear: bias has shape \[4\], expected \[3\]/,
  });
  t.throws(() => forward([x, w, null, null, null, null], [of([2, 3], 'bf16'), null]), {
    code: 'ERR_DTYPE',
    message: /linear: y is bf16, expected f32/,
  });
  t.throws(() => forward([upload(integers([1, 2])), w, null, null, null, null], [y, null]), {
    code: 'ERR_DTYPE',
    message: /linear: x is i32, expected f32 or bf16/,
  });
  t.throws(() => forward([x, w, null, of([2, 4]), null, null], [y, of([2, 2])]), {
    code: 'ERR_ARGUMENT',
    message: /lora_b is missing/,
  });
  t.throws(() => forward([x, w, null, of([2, 4]), of([3, 2]), null], [y, null]), {
    code: 'ERR_ARGUMENT',
    message: /linear: u is missing/,
  });
  t.throws(() => forward([x, w, null, of([2, 4]), of([3, 1]), null], [y, of([2, 2])]), {
    code: 'ERR_SHAPE',
    message: /lora_b has shape \[3,1\], expected \[3,2\]/,
  });
  t.throws(() => forward([x, w, null, of([2, 4]), of([3, 2]), upload(integers([1, 2]))], [y, of([2, 2])], { dropout: 1 }), {
    code: 'ERR_ARGUMENT',
    message: /dropout must be at least 0 and below 1, got 1/,
  });
  t.throws(() => forward([x, null, null, null, null, null], [y, null]), {
    code: 'ERR_ARGUMENT',
    message: /linear: weight is missing/,
  });
  const backward = (inputs: (TensorRef | null)[], outputs: (TensorRef | null)[]): void =>
    addon().call('linear_backward', inputs, outputs, {});
  t.throws(() => backward([y, null, w, null, null, null, null], [null, of([3, 4]), null, null, null]), {
    code: 'ERR_ARGUMENT',
    message: /linear_backward: x is missing/,
  });
  t.throws(() => backward([x, null, w, null, null, null, null], [of([2, 4]), null, null, null, null]), {
    code: 'ERR_SHAPE',
    message: /weight has shape \[3,4\], expected \[4,\*\]/,
  });
});
