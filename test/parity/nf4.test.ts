/** NF4 codes and double-quantised scales: the bytes of bitsandbytes (`train_parity.py`, write_nf4). */
import { join } from 'node:path';

import test from 'ava';

import { addon, type DType, dtypeBytes, type TensorRef } from '../../lib/native.js';
import { PARITY, readFloats, readTensors } from './fixtures.js';

const MODEL_TENSORS = 'qwen3vl-tiny/model.safetensors';

function tensor(dtype: DType, numel: number, data?: ArrayBufferView): TensorRef {
  const storage = addon().allocate(dtypeBytes(dtype, numel), 'cpu');
  if (data) addon().write(storage, 0, data);
  return { storage, offset: 0, dtype, shape: [numel] };
}

function bytes({ storage, dtype, shape }: TensorRef): Uint8Array {
  const into = new Uint8Array(dtypeBytes(dtype, shape[0]!));
  addon().read(storage, 0, into);
  return into;
}

test('matrices get the codes, scales and nested scales of bitsandbytes', async (t) => {
  const stored = await readTensors(join(PARITY, 'nf4.safetensors'));
  const weights = await readFloats(join(PARITY, '..', MODEL_TENSORS));
  const names = [...stored.keys()].filter((name) => name.endsWith('.codes')).map((name) => name.slice(0, -'.codes'.length));
  t.is(names.length, 7);
  for (const name of names) {
    const weight = weights.get(`model.language_model.layers.2.${name}.weight`)!;
    const codes = tensor('u8', weight.length / 2);
    const absmax = tensor('f32', weight.length / 64);
    addon().call('nf4_quantize', [tensor('f32', weight.length, weight)], [codes, absmax], {});
    t.deepEqual(bytes(codes), stored.get(`${name}.codes`)!.bytes, `${name}: codes`);
    t.deepEqual(bytes(absmax), stored.get(`${name}.absmax`)!.bytes, `${name}: scales`);
  }
});

test('lists of scales of many lengths get the offset, codes and nested scales of bitsandbytes', async (t) => {
  const stored = await readTensors(join(PARITY, 'nf4.safetensors'));
  const names = [...stored.keys()]
    .filter((name) => name.endsWith('.absmax_u8'))
    .map((name) => name.slice(0, -'.absmax_u8'.length));
  t.is(names.length, 7 + 8);
  for (const name of names) {
    const absmax = new Float32Array(stored.get(`${name}.absmax`)!.bytes.buffer);
    const outputs = {
      absmax_u8: tensor('u8', absmax.length),
      nested_absmax: tensor('f32', Math.ceil(absmax.length / 256)),
      offset: tensor('f32', 1),
    };
    addon().call('nf4_quantize_absmax', [tensor('f32', absmax.length, absmax)], Object.values(outputs), {});
    for (const [part, output] of Object.entries(outputs))
      t.deepEqual(bytes(output), stored.get(`${name}.${part}`)!.bytes, `${name}: ${part}`);
  }
});
