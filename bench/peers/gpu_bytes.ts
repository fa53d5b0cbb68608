/**
 * Whether NF4 and 8-bit AdamW give the bytes of bitsandbytes' own CUDA kernels on this machine's GPU: codes, scales, scales of scales,
 * dequantised values; parameters and optimizer state after 20 updates.
 *
 *     npm run bench:bytes -- --python PATH
 *
 * PATH is a Python with torch and bitsandbytes. Exit code 1 if any byte differs.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { normals } from '../../lib/bench/normals.js';
import { openDevice } from '../../lib/device.js';
import { ParameterLayout } from '../../lib/models/parameters.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { adamw } from '../../lib/ops/adamw.js';
import { nf4Dequantize, nf4Quantize, nf4QuantizeAbsmax } from '../../lib/ops/nf4.js';
import { Eager, Tensor } from '../../lib/ops/tensor.js';
import { OptimizerLayout } from '../../lib/train/optimizer.js';

const { values: options } = parseArgs({ options: { python: { type: 'string', default: 'python3' } } });
openDevice('cuda');

const NF4 = [
  { name: 'square', dtype: 'bf16', shape: [2048, 2048] },
  { name: 'tall', dtype: 'bf16', shape: [6144, 2048] },
  { name: 'f32', dtype: 'f32', shape: [1000, 192] },
  { name: 'f16', dtype: 'f16', shape: [512, 320] },
  { name: 'ragged', dtype: 'bf16', shape: [77, 64] },
] as const;
const ADAMW = {
  numels: [32_768, 98_304, 4096, 5000],
  steps: 20,
  lr: 2e-3,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weight_decay: 0.01,
};

const folder = mkdtempSync(join(tmpdir(), 'vltune-bytes-'));
let differing = 0;

function compare(what: string, ours: Uint8Array, file: string): void {
  const path = join(folder, file);
  if (!existsSync(path)) return;
  const theirs = readFileSync(path);
  let different = ours.length === theirs.length ? 0 : Math.abs(ours.length - theirs.length);
  for (let i = 0; i < Math.min(ours.length, theirs.length); i++) if (ours[i] !== theirs[i]) different += 1;
  if (different > 0) differing += 1;
  process.stdout.write(`${different === 0 ? '✔' : '✘'} ${what}: ${different} of ${theirs.length} bytes differ\n`);
}

/** Numbers of chance, shifted from case to case. */
function numbers(count: number, seed: number, deviation: number): Float32Array {
  return normals(count + seed, deviation).subarray(seed);
}

try {
  const inputs = NF4.map(({ shape, dtype }, i) => {
    const count = shape[0] * shape[1];
    return Tensor.from(Float32Array.from(numbers(count, 1 + i, 0.02)), shape, dtype, 'cuda');
  });
  NF4.forEach(({ name }, i) => {
    writeFileSync(join(folder, `${name}.x`), inputs[i]!.toBytes());
  });
  const parameters = ADAMW.numels.map((numel, i) => Float32Array.from(numbers(numel, 100 + i, 0.05)));
  const gradients = Array.from({ length: ADAMW.steps }, (_, step) =>
    ADAMW.numels.map((numel, i) => Float32Array.from(numbers(numel, 1000 + 7 * step + i, 10 ** -(1 + i)))),
  );
  parameters.forEach((values, i) => {
    writeFileSync(join(folder, `adamw.${i}.p`), values);
  });
  gradients.forEach((step, t) => {
    step.forEach((values, i) => {
      writeFileSync(join(folder, `adamw.${i}.g.${t}`), values);
    });
  });
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify({ nf4: NF4, adamw: ADAMW }));
  const peer = spawnSync(options.python, [join(PACKAGE_ROOT, 'bench', 'peers', 'gpu_bytes.py'), folder], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (peer.status !== 0) throw new Error(`gpu_bytes.py ended with ${peer.status ?? peer.error?.message}`);

  const ops = new Eager();
  NF4.forEach(({ name, dtype, shape }, i) => {
    const { codes, absmax } = nf4Quantize(ops, inputs[i]!);
    compare(`${name} ${dtype}: codes`, codes.toBytes(), `${name}.codes`);
    compare(`${name} ${dtype}: absmax`, absmax.toBytes(), `${name}.absmax`);
    const { absmaxU8, nestedAbsmax, offset } = nf4QuantizeAbsmax(ops, absmax);
    compare(`${name} ${dtype}: 8-bit absmax`, absmaxU8.toBytes(), `${name}.absmax_u8`);
    compare(`${name} ${dtype}: nested absmax`, nestedAbsmax.toBytes(), `${name}.nested_absmax`);
    compare(`${name} ${dtype}: offset`, offset.toBytes(), `${name}.offset`);
    if (dtype === 'f16') return; // vltune dequantises to F32 and BF16
    const matrix = Tensor.nf4(shape, codes, { absmaxU8, nestedAbsmax, offset: offset.toFloat32()[0]! });
    compare(`${name} ${dtype}: dequantised`, nf4Dequantize(ops, matrix, dtype).toBytes(), `${name}.y`);
  });

  const layout = new ParameterLayout(
    ADAMW.numels.map((numel, i) => ({ name: String(i), shape: [numel], decays: true, isEmbedding: false })),
  );
  const optimizer = new OptimizerLayout(layout, 'adamw_8bit');
  const flat = (parts: readonly Float32Array[]): Float32Array => {
    const values = new Float32Array(layout.elements);
    for (const [i, { offset }] of layout.parameters.entries()) values.set(parts[i]!, offset);
    return values;
  };
  const on = (values: Float32Array): Tensor => Tensor.from(values, [values.length], 'f32', 'cuda');
  const params = on(flat(parameters));
  const state = optimizer.arrays.map(({ dtype, elements }) => Tensor.zeros([elements], dtype, 'cuda'));
  const [m8, v8, m8Absmax, v8Absmax, m32, v32] = state as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
  const segments = Tensor.from(optimizer.segments, [optimizer.segmentCount, 6], 'i32', 'cuda');
  for (const [t, step] of gradients.entries()) {
    const hyper = on(Float32Array.of(ADAMW.lr, ADAMW.betas[0]!, ADAMW.betas[1]!, ADAMW.eps, ADAMW.weight_decay, t + 1, 0, 0));
    const operands = { grads: on(flat(step)), clip: on(Float32Array.of(1)), hyper, segments };
    adamw(ops, operands, { into: params }, { m8, v8, m8Absmax, v8Absmax, m32, v32 }, 'bitsandbytes');
  }
  const bytes = { p: params.toBytes(), m: m8.toBytes(), v: v8.toBytes(), ma: m8Absmax.toBytes(), va: v8Absmax.toBytes() };
  for (const [i, { offset, numel }] of layout.parameters.entries()) {
    const at = optimizer.segments[i * 6 + 2]! * 256;
    const blocks = Math.ceil(numel / 256);
    const what = `adamw ${numel} after ${ADAMW.steps} updates`;
    compare(`${what}: parameters`, bytes.p.subarray(offset * 4, (offset + numel) * 4), `adamw.${i}.p.after`);
    compare(`${what}: state1`, bytes.m.subarray(at, at + numel), `adamw.${i}.state1`);
    compare(`${what}: state2`, bytes.v.subarray(at, at + numel), `adamw.${i}.state2`);
    compare(`${what}: absmax1`, bytes.ma.subarray((at / 256) * 4, (at / 256 + blocks) * 4), `adamw.${i}.absmax1`);
    compare(`${what}: absmax2`, bytes.va.subarray((at / 256) * 4, (at / 256 + blocks) * 4), `adamw.${i}.absmax2`);
  }
  process.stdout.write(differing === 0 ? 'every byte is the same\n' : `${differing} arrays differ\n`);
  process.exitCode = differing === 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
