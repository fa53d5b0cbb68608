import { readFile } from 'node:fs/promises';
import test from 'ava';
import { findNf4Tensors } from '../../lib/weights/bnb4bit.js';
import { pythonFloat } from '../../lib/weights/json.js';
import { Checkpoint, type TensorEntry, writeCheckpoint } from '../../lib/weights/safetensors.js';
import { fails, fixture, scratch } from './fixtures.js';

const configOf = async (name: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(fixture(`${name}/config.json`), 'utf8'));

test("bitsandbytes' single quantisation is read: shape, codes, scales", async (t) => {
  const checkpoint = await Checkpoint.open(fixture('bnb-nf4'));
  const tensors = findNf4Tensors(checkpoint, await configOf('bnb-nf4'));
  const expected = [...checkpoint.tensors.keys()]
    .filter((name) => name.endsWith('.quant_map'))
    .map((name) => name.replace('.quant_map', ''));
  t.deepEqual([...tensors.keys()].sort(), expected.sort());
  const name = 'model.language_model.layers.0.mlp.down_proj.weight';
  const tensor = tensors.get(name)!;
  t.like(tensor, { name, shape: [20, 36], dtype: 'bfloat16', nested: undefined, bytes: 360 + 12 * 4 });
  t.deepEqual([tensor.codes.bytes, tensor.absmax.bytes], [360, 48]);
  t.deepEqual([...tensor.parts].sort(), [name, `${name}.absmax`, `${name}.quant_map`, `${name}.quant_state.bitsandbytes__nf4`]);
  const place = tensor.place(checkpoint);
  t.is(place.offset, tensor.codes.offset);
  t.true(place.nf4 !== undefined && 'absmax' in place.nf4 && place.nf4.absmax.offset === tensor.absmax.offset);
  checkpoint.close();
});

test('double quantisation is read, and 16-bit layers beside it are left alone', async (t) => {
  const checkpoint = await Checkpoint.open(fixture('bnb-nf4-double'));
  const tensors = findNf4Tensors(checkpoint, await configOf('bnb-nf4-double'));
  t.is(tensors.size, 14);
  t.true([...tensors.keys()].every((name) => name.startsWith('model.language_model.layers.')));
  const tensor = tensors.get('model.language_model.layers.1.self_attn.q_proj.weight')!;
  t.deepEqual([...tensor.shape], [32, 20]);
  t.is(tensor.absmax.dtype, 'U8');
  t.is(tensor.nested!.absmax.bytes, 4);
  t.true(tensor.nested!.offset > 0.2 && tensor.nested!.offset < 2);
  const { nf4 } = tensor.place(checkpoint);
  t.true(nf4 !== undefined && 'nestedAbsmax' in nf4 && nf4.nestedOffset === tensor.nested!.offset);
  checkpoint.close();
});

test('a checkpoint in 16 bits has none', async (t) => {
  const checkpoint = await Checkpoint.open(fixture('base-bf16'));
  t.is(findNf4Tensors(checkpoint, await configOf('base-bf16')).size, 0);
  checkpoint.close();
});

test('other quantisations are refused by name', async (t) => {
  const checkpoint = await Checkpoint.open(fixture('base-bf16'));
  for (const [quantization, part] of [
    [{ quant_method: 'gptq', bits: 4 }, '"gptq"'],
    [{ quant_method: 'bitsandbytes', load_in_8bit: true, load_in_4bit: false }, '8 bits'],
    [{}, 'nothing'],
  ] as const) {
    await fails(t, 'ERR_UNSUPPORTED', ['config.json', part], () =>
      findNf4Tensors(checkpoint, { quantization_config: quantization }),
    );
  }
  await fails(t, 'ERR_BAD_CHECKPOINT', ['quantization_config', '"nf4"'], () =>
    findNf4Tensors(checkpoint, { quantization_config: 'nf4' }),
  );
  checkpoint.close();
});

const WEIGHT = 'model.language_model.layers.0.mlp.down_proj.weight';
const STATE = `${WEIGHT}.quant_state.bitsandbytes__nf4`;

type Change = (entries: Map<string, TensorEntry>) => void;

/** Replaces a text in the state's JSON. */
const inState =
  (from: string, to: string): Change =>
  (entries) => {
    const text = Buffer.from(entries.get(STATE)!.data as Uint8Array)
      .toString()
      .replace(from, to);
    const data = Buffer.from(text);
    entries.set(STATE, { name: STATE, dtype: 'U8', shape: [data.length], data });
  };
const replace =
  (name: string, change: Partial<TensorEntry>): Change =>
  (entries) => {
    entries.set(name, { ...entries.get(name)!, ...change });
  };
const nudged =
  (name: string, index: number): Change =>
  (entries) => {
    const data = new Float32Array((entries.get(name)!.data as Uint8Array).slice().buffer);
    data[index]! *= 1.01;
    entries.set(name, { ...entries.get(name)!, data });
  };

const MISTAKES: readonly (readonly [
  what: string,
  code: 'ERR_BAD_CHECKPOINT' | 'ERR_UNSUPPORTED',
  change: Change,
  parts: readonly string[],
])[] = [
  ['another type', 'ERR_BAD_CHECKPOINT', inState('"nf4"', '"fp4"'), ['quant_type', '"fp4"']],
  ['another block size', 'ERR_UNSUPPORTED', inState('"blocksize": 64', '"blocksize": 128'), ['blocksize', '128']],
  [
    'another nested block size',
    'ERR_UNSUPPORTED',
    inState('"nested_blocksize": 256', '"nested_blocksize": 512'),
    ['nested_blocksize', '512'],
  ],
  ['another dtype', 'ERR_BAD_CHECKPOINT', inState('"bfloat16"', '"int8"'), ['dtype', '"int8"']],
  ['another nested dtype', 'ERR_BAD_CHECKPOINT', inState('"float32"', '"float64"'), ['nested_dtype', '"float64"']],
  [
    'a shape that the codes do not fill',
    'ERR_BAD_CHECKPOINT',
    inState('[20, 36]', '[20, 72]'),
    ['720 bytes', '[20, 72]', '360 bytes'],
  ],
  ['a shape of three', 'ERR_BAD_CHECKPOINT', inState('[20, 36]', '[20, 6, 6]'), ['shape']],
  ['a negative shape', 'ERR_BAD_CHECKPOINT', inState('[20, 36]', '[-20, -36]'), ['shape']],
  ['no offset', 'ERR_BAD_CHECKPOINT', inState('"nested_offset"', '"nested_offsat"'), ['nested_offset', 'nothing']],
  ['a state that is not JSON', 'ERR_BAD_CHECKPOINT', inState('{', '('), ['not valid JSON']],
  [
    'scales that are missing',
    'ERR_BAD_CHECKPOINT',
    (entries) => void entries.delete(`${WEIGHT}.absmax`),
    [`${WEIGHT}.absmax`, 'missing'],
  ],
  [
    'scales of another dtype',
    'ERR_BAD_CHECKPOINT',
    replace(`${WEIGHT}.absmax`, { dtype: 'I8' }),
    [`${WEIGHT}.absmax`, 'expected U8', 'I8'],
  ],
  [
    'too few scales',
    'ERR_BAD_CHECKPOINT',
    replace(`${WEIGHT}.absmax`, { shape: [11], data: new Uint8Array(11) }),
    ['12 bytes', '11 bytes'],
  ],
  ['another map', 'ERR_BAD_CHECKPOINT', nudged(`${WEIGHT}.quant_map`, 3), [`${WEIGHT}.quant_map`, 'value 3', 'standard map']],
  [
    'another nested map',
    'ERR_BAD_CHECKPOINT',
    nudged(`${WEIGHT}.nested_quant_map`, 200),
    [`${WEIGHT}.nested_quant_map`, 'value 200'],
  ],
];
for (const [what, code, change, parts] of MISTAKES) {
  test(`refused, naming the tensor: ${what}`, async (t) => {
    const source = await Checkpoint.open(fixture('bnb-nf4-double'));
    const entries = new Map<string, TensorEntry>();
    for (const { name, dtype, shape } of source.tensors.values())
      entries.set(name, { name, dtype, shape, data: source.bytes(name) });
    source.close();
    change(entries);
    const folder = await scratch(t);
    await writeCheckpoint(folder, [...entries.values()]);
    const checkpoint = await Checkpoint.open(folder);
    t.teardown(() => checkpoint.close());
    const config = await configOf('bnb-nf4-double');
    await fails(t, code, [folder, WEIGHT, ...parts], () => findNf4Tensors(checkpoint, config));
  });
}

test('codes in another storage dtype are the same bytes', async (t) => {
  const source = await Checkpoint.open(fixture('bnb-nf4'));
  const entries = [...source.tensors.values()].map(({ name, dtype, shape }): TensorEntry => {
    const data = source.bytes(name);
    return name === WEIGHT ? { name, dtype: 'BF16', shape: [data.byteLength / 2, 1], data } : { name, dtype, shape, data };
  });
  const folder = await scratch(t);
  await writeCheckpoint(folder, entries);
  const checkpoint = await Checkpoint.open(folder);
  t.deepEqual(findNf4Tensors(checkpoint, await configOf('bnb-nf4')).get(WEIGHT)!.shape, [20, 36]);
  t.deepEqual(checkpoint.bytes(WEIGHT), source.bytes(WEIGHT));
  source.close();
  checkpoint.close();
});

test("numbers are printed as Python's repr prints them", (t) => {
  const cases: readonly (readonly [number, string])[] = [
    [2.6180827617645264, '2.6180827617645264'],
    [1, '1.0'],
    [-0, '-0.0'],
    [0.0001, '0.0001'],
    [0.00001, '1e-05'],
    [1.5e-7, '1.5e-07'],
    [1e-10, '1e-10'],
    [1e15, '1000000000000000.0'],
    [1e16, '1e+16'],
    [123456789012345680000, '1.2345678901234568e+20'],
    [-3.5, '-3.5'],
  ];
  for (const [value, text] of cases) t.is(pythonFloat(value), text);
});
