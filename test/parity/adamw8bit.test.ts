/** 8-bit AdamW over 20 steps of the same gradients: state bytes of bitsandbytes' CUDA kernel (`adamw8bit_parity.py`). */
import { join } from 'node:path';

import test from 'ava';

import { type Addon, addon, type DType, type Storage } from '../../lib/native.js';
import { bf16ToF32 } from '../../lib/weights/float16.js';
import { PARITY, readTensors, type StoredTensor } from './fixtures.js';

const STEPS = 20;
const BLOCK = 256;
/** As `adamw8bit_parity.py` has them; offsets are in blocks of 256 elements. */
const TENSORS = [
  { name: 'ragged', numel: 4452, offset: 0, state: 0, eight: true, decays: true },
  { name: 'plain', numel: 4096, offset: 18, state: 18, eight: true, decays: false },
  { name: 'small', numel: 1000, offset: 34, state: 0, eight: false, decays: true },
] as const;
const ELEMENTS = 38 * BLOCK;
const ELEMENTS_8 = 34 * BLOCK;
const ELEMENTS_32 = 4 * BLOCK;

class Buffers {
  readonly #native: Addon = addon();
  readonly #storages = new Map<string, { storage: Storage; dtype: DType; length: number }>();

  make(name: string, dtype: 'f32' | 'i32' | 'u8', length: number): void {
    this.#storages.set(name, { storage: this.#native.allocate(length * (dtype === 'u8' ? 1 : 4), 'cpu'), dtype, length });
  }

  ref(name: string) {
    const { storage, dtype, length } = this.#storages.get(name)!;
    return { storage, offset: 0, dtype, shape: name === 'segments' ? [length / 6, 6] : [length] };
  }

  write(name: string, data: ArrayBufferView, offset = 0): void {
    this.#native.write(this.#storages.get(name)!.storage, offset, data);
  }

  read<T extends ArrayBufferView>(name: string, offset: number, into: T): T {
    this.#native.read(this.#storages.get(name)!.storage, offset, into);
    return into;
  }
}

function floats(tensor: StoredTensor): Float32Array {
  if (tensor.dtype === 'F32') return new Float32Array(tensor.bytes.buffer);
  const values = new Float32Array(tensor.bytes.length / 2);
  bf16ToF32(new Uint16Array(tensor.bytes.buffer), values);
  return values;
}

test('8-bit AdamW state after 1, 2 and 20 steps has the bytes of the reference, parameters its values', async (t) => {
  const stored = await readTensors(join(PARITY, 'adamw8bit.safetensors'));
  const gradients = floats(stored.get('gradients')!);
  const gradientsSmall = floats(stored.get('gradients_small')!);
  const gradient = (name: string, numel: number, step: number): Float32Array => {
    if (name === 'small') return gradientsSmall.subarray((step - 1) * numel, step * numel);
    const row = gradients.slice((step - 1) * 4452, (step - 1) * 4452 + numel);
    return name === 'ragged' ? row : row.map((value) => (Number.isFinite(value) ? value : 0));
  };

  const buffers = new Buffers();
  for (const name of ['grads', 'params']) buffers.make(name, 'f32', ELEMENTS);
  buffers.make('clip', 'f32', 1);
  buffers.make('hyper', 'f32', 8);
  buffers.make('segments', 'i32', TENSORS.length * 6);
  for (const name of ['m8', 'v8']) buffers.make(name, 'u8', ELEMENTS_8);
  for (const name of ['m8_absmax', 'v8_absmax']) buffers.make(name, 'f32', ELEMENTS_8 / BLOCK);
  for (const name of ['m32', 'v32']) buffers.make(name, 'f32', ELEMENTS_32);
  buffers.write('clip', Float32Array.of(1));
  buffers.write(
    'segments',
    Int32Array.from(TENSORS.flatMap((s) => [s.offset, s.numel, s.state, Number(s.eight), Number(s.decays), 0])),
  );
  for (const { name, numel, offset } of TENSORS) {
    const start = floats(stored.get(name === 'small' ? 'start_small' : 'start')!).subarray(0, numel);
    buffers.write('params', start, offset * BLOCK * 4);
  }

  for (let step = 1; step <= STEPS; step++) {
    for (const { name, numel, offset } of TENSORS) buffers.write('grads', gradient(name, numel, step), offset * BLOCK * 4);
    buffers.write('hyper', Float32Array.of(1e-3, 0.9, 0.999, 1e-8, 0.01, step, 0, 0));
    addon().call(
      'adamw',
      ['grads', 'clip', 'hyper', 'segments'].map((name) => buffers.ref(name)),
      ['params', 'm8', 'v8', 'm8_absmax', 'v8_absmax', 'm32', 'v32'].map((name) => buffers.ref(name)),
      { variant: 0 },
    );
    for (const { name, numel, offset, state, eight } of TENSORS) {
      const expected = (key: string) => stored.get(`${name}.${step}.${key}`);
      if (!expected('param')) continue;
      const blocks = Math.ceil(numel / BLOCK);
      if (eight) {
        for (const [array, key] of [
          ['m8', 'state1'],
          ['v8', 'state2'],
        ] as const) {
          const codes = buffers.read(array, state * BLOCK, new Uint8Array(numel));
          t.is(differing(codes, expected(key)!.bytes), 0, `${name}, step ${step}: codes of ${key}`);
          const absmax = buffers.read(`${array}_absmax`, state * 4, new Uint8Array(blocks * 4));
          t.deepEqual(absmax, expected(key.replace('state', 'absmax'))!.bytes, `${name}, step ${step}: scales of ${key}`);
        }
      } else {
        for (const [array, key] of [
          ['m32', 'state1'],
          ['v32', 'state2'],
        ] as const) {
          const values = buffers.read(array, state * BLOCK * 4, new Uint8Array(numel * 4));
          t.is(differing(values, expected(key)!.bytes), 0, `${name}, step ${step}: ${key}`);
        }
      }
      // The kernel's division and square root are approximate, so its last bits are nobody's to match.
      const params = buffers.read('params', offset * BLOCK * 4, new Float32Array(numel));
      const wanted = floats(expected('param')!);
      const worst = Math.max(...params.map((value, i) => Math.abs(value - wanted[i]!) / Math.max(Math.abs(wanted[i]!), 1e-3)));
      t.true(worst < 1e-6, `${name}, step ${step}: parameters differ by ${worst}`);
    }
  }
});

function differing(a: Uint8Array, b: Uint8Array): number {
  let count = Math.abs(a.length - b.length);
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) count++;
  return count;
}
