import { copyFile, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { addon } from '../../lib/native.js';
import {
  Checkpoint,
  readSafetensorsHeader,
  type TensorEntry,
  writeCheckpoint,
  writeSafetensors,
} from '../../lib/weights/safetensors.js';
import { fails, fixture, scratch } from './fixtures.js';

/** A file with this header (text or object) and this many bytes after it. */
function file(header: unknown, dataBytes = 0, claimed?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(claimed ?? BigInt(json.byteLength));
  return Buffer.concat([prefix, json, Buffer.alloc(dataBytes)]);
}

const entriesOf = (checkpoint: Checkpoint): TensorEntry[] =>
  [...checkpoint.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape, data: checkpoint.bytes(name) }));

for (const name of ['base-bf16', 'base-f32-tied', 'bnb-nf4', 'bnb-nf4-double']) {
  test(`${name}: written again, the file has the bytes that safetensors wrote`, async (t) => {
    const checkpoint = await Checkpoint.open(fixture(name));
    const folder = await scratch(t);
    await writeCheckpoint(folder, entriesOf(checkpoint));
    checkpoint.close();
    t.deepEqual(await readFile(join(folder, 'model.safetensors')), await readFile(fixture(`${name}/model.safetensors`)));
  });
}

test('a tensor that starts between two elements is copied to where ops can read it, the others stay in the mapping', async (t) => {
  const folder = await scratch(t);
  const header = (pad: string): object => ({
    bytes: { dtype: 'U8', shape: [3], data_offsets: [0, 3] },
    floats: { dtype: 'F32', shape: [2], data_offsets: [3, 11] },
    nothing: { dtype: 'F32', shape: [0], data_offsets: [11, 11] },
    __metadata__: { pad },
  });
  // The data start at a multiple of 8.
  const pad = '-'.repeat(7 - ((JSON.stringify(header('')).length + 7) % 8));
  const bytes = file(header(pad), 11);
  bytes.writeFloatLE(1.5, bytes.length - 8);
  bytes.writeFloatLE(-2, bytes.length - 4);
  await writeFile(join(folder, 'model.safetensors'), bytes);
  const checkpoint = await Checkpoint.open(folder);
  t.deepEqual(checkpoint.ref('bytes'), { storage: checkpoint.ref('nothing').storage, offset: bytes.length - 11 });
  const { storage, offset } = checkpoint.ref('floats');
  t.is(offset, 0);
  t.is(checkpoint.ref('floats').storage, storage, 'copied once');
  const floats = new Float32Array(2);
  addon().read(storage, offset, floats);
  t.deepEqual(floats, Float32Array.of(1.5, -2));
  checkpoint.close();
  t.throws(() => addon().read(storage, 0, floats), { code: 'ERR_ARGUMENT' }, 'released with the mapping');
});

test('shards hold the tensors of the single file', async (t) => {
  const single = await Checkpoint.open(fixture('base-bf16'));
  const sharded = await Checkpoint.open(fixture('sharded-bf16'));
  t.deepEqual([...sharded.tensors.keys()].sort(), [...single.tensors.keys()].sort());
  t.is(sharded.files.length, 8);
  for (const name of single.tensors.keys()) t.deepEqual(sharded.bytes(name), single.bytes(name), name);
  single.close();
  sharded.close();
});

test('shards that are written keep to their size, and read back', async (t) => {
  const source = await Checkpoint.open(fixture('base-bf16'));
  const folder = await scratch(t);
  const size = 6000;
  await writeCheckpoint(folder, entriesOf(source), size);
  const written = await Checkpoint.open(folder);
  t.true(written.files.length > 8);
  for (const { tensors } of written.files) {
    const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
    t.true(bytes <= size || tensors.length === 1);
  }
  for (const name of source.tensors.keys()) t.deepEqual(written.bytes(name), source.bytes(name));
  const { metadata, weight_map: map } = JSON.parse(await readFile(join(folder, 'model.safetensors.index.json'), 'utf8'));
  t.is(metadata.total_size, 55528);
  t.is(Object.keys(map).length, source.tensors.size);
  source.close();
  written.close();
});

test('a tensor can be read in part, or where it is mapped', async (t) => {
  const checkpoint = await Checkpoint.open(fixture('sharded-bf16'));
  const name = 'model.language_model.layers.0.mlp.up_proj.weight';
  const tensor = checkpoint.get(name);
  t.like(tensor, { dtype: 'BF16', shape: [36, 20], bytes: 1440 });
  const whole = checkpoint.bytes(name);
  const part = new Uint8Array(100);
  checkpoint.read(tensor, 40, part);
  t.deepEqual(part, whole.slice(40, 140));
  t.throws(() => checkpoint.read(tensor, 1400, part), { instanceOf: RangeError });

  const { storage, offset } = checkpoint.ref(name);
  const mapped = new Uint8Array(tensor.bytes);
  addon().read(storage, offset, mapped);
  t.deepEqual(mapped, whole);
  t.is(checkpoint.ref('model.language_model.layers.0.mlp.down_proj.weight').storage, storage, 'one mapping for each file');

  await fails(t, 'ERR_BAD_CHECKPOINT', ['sharded-bf16', 'nothing.weight', 'missing'], () => checkpoint.get('nothing.weight'));
  checkpoint.close();
  await fails(t, 'ERR_ARGUMENT', ['closed'], () => checkpoint.bytes(name));
  await fails(t, 'ERR_ARGUMENT', ['closed'], () => checkpoint.ref(name));
});

const F32 = (begin: number, end: number, ...shape: number[]) => ({ dtype: 'F32', shape, data_offsets: [begin, end] });

const BROKEN: readonly (readonly [what: string, bytes: Buffer, parts: readonly string[]])[] = [
  ['an empty file', Buffer.alloc(0), ['0 bytes']],
  ['seven bytes', Buffer.alloc(7), ['7 bytes']],
  ['a length beyond the file', file({}, 0, 1000n), ['truncated', '1000']],
  ['a length beyond any file', file({}, 0, 2n ** 64n - 1n), ['18446744073709551615']],
  ['a length beyond the format', file({}, 0, 100_000_001n), ['100000001']],
  ['no header', file('', 0, 0n), ['must start with "{"']],
  ['a header that is not JSON', file('{"a": nope}'), ['not valid JSON']],
  ['a header that is a list', file('[]'), ['must start with "{"']],
  ['a header that ends early', file('{"a":{"dtype":"F32"'), ['not valid JSON', 'line 1, column']],
  ['text after the object', file('{} {}'), ['not valid JSON']],
  ['a header that is not UTF-8', file('{"\xff":1}').fill(0xff, 10, 11), ['not valid UTF-8']],
  ['a header nested deeply', file(`{"a":${'['.repeat(50_000)}${']'.repeat(50_000)}}`), ['tensor a', 'expected an object']],
  ['a name twice', file(`{"a":${JSON.stringify(F32(0, 4, 1))},"a":${JSON.stringify(F32(0, 4, 1))}}`, 4), ['"a" is there twice']],
  [
    'a name twice, once escaped',
    file(`{"a":${JSON.stringify(F32(0, 4, 1))},"\\u0061":${JSON.stringify(F32(4, 8, 1))}}`, 8),
    ['"a" is there twice'],
  ],
  ['a field twice', file('{"a":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,8]}}', 8), ['"shape" is there twice']],
  ['an unknown dtype', file({ a: { dtype: 'F128', shape: [1], data_offsets: [0, 16] } }, 16), ['tensor a', 'F128']],
  [
    'a dtype that is a prototype key',
    file({ a: { dtype: 'constructor', shape: [1], data_offsets: [0, 16] } }, 16),
    ['tensor a', 'constructor'],
  ],
  ['no dtype', file({ a: { shape: [1], data_offsets: [0, 4] } }, 4), ['tensor a', 'dtype']],
  ['a negative length', file({ a: F32(0, 4, -1) }, 4), ['tensor a', 'shape', '-1']],
  ['a fractional length', file({ a: F32(0, 4, 1.5) }, 4), ['tensor a', 'shape']],
  ['a shape whose product overflows', file({ a: F32(0, 4, 2 ** 52, 2 ** 52) }, 4), ['tensor a', 'too large']],
  ['too many dimensions', file({ a: F32(0, 4, ...Array(1000).fill(1)) }, 4), ['tensor a', 'shape']],
  ['bytes that are not those of the shape', file({ a: F32(0, 8, 3) }, 8), ['tensor a', '8 bytes', 'F32 [3] takes 12']],
  ['offsets that run backwards', file({ a: F32(8, 4, 1) }, 8), ['tensor a', 'ends before it begins']],
  ['offsets that overlap', file({ a: F32(0, 8, 2), b: F32(4, 12, 2) }, 12), ['tensor b', 'overlaps tensor a']],
  ['offsets with a hole', file({ a: F32(0, 8, 2), b: F32(12, 20, 2) }, 20), ['tensor b', 'hole of 4 bytes']],
  ['offsets beyond the file', file({ a: F32(0, 8, 2) }, 7), ['truncated', 'tensor a']],
  ['bytes that belong to nothing', file({ a: F32(0, 8, 2) }, 9), ['1 bytes after the last tensor']],
  ['an unknown field', file({ a: { ...F32(0, 4, 1), extra: 1 } }, 4), ['tensor a', '"extra"']],
  ['metadata that is not text', file({ __metadata__: { format: 1 } }), ['__metadata__.format']],
];

for (const [what, bytes, parts] of BROKEN) {
  test(`refused, naming file and place: ${what}`, async (t) => {
    const folder = await scratch(t);
    const path = join(folder, 'model.safetensors');
    await writeFile(path, bytes);
    await fails(t, 'ERR_BAD_CHECKPOINT', [path, ...parts], () => Checkpoint.open(folder));
    await fails(t, 'ERR_BAD_ADAPTER', [path, ...parts], () => readSafetensorsHeader(path, 'ERR_BAD_ADAPTER'));
  });
}

test('empty tensors, scalars and odd names are read and written', async (t) => {
  const folder = await scratch(t);
  const names = ['7', '__proto__', 'ümläut 模型', 'constructor', 'a"b\\c'];
  const entries: TensorEntry[] = [
    { name: 'scalar', dtype: 'F64', shape: [], data: Float64Array.of(2.5) },
    { name: 'empty', dtype: 'BF16', shape: [3, 0], data: new Uint8Array(0) },
    ...names.map((name, i): TensorEntry => ({ name, dtype: 'U8', shape: [1], data: Uint8Array.of(i) })),
  ];
  await writeSafetensors(join(folder, 'model.safetensors'), entries);
  const checkpoint = await Checkpoint.open(folder);
  t.is(checkpoint.tensors.size, entries.length);
  for (const [i, name] of names.entries()) t.deepEqual([...checkpoint.bytes(name)], [i], name);
  t.is(new Float64Array(checkpoint.bytes('scalar').slice().buffer)[0], 2.5);
  t.deepEqual(checkpoint.get('empty').shape, [3, 0]);
  checkpoint.close();
});

test('a tensor whose data is not as long as its shape says is not written', async (t) => {
  const folder = await scratch(t);
  const path = join(folder, 'x.safetensors');
  const entry = { name: 'a', dtype: 'F32', shape: [2], data: new Float32Array(3) } as const;
  await fails(t, 'ERR_ARGUMENT', ['tensor a', '8 bytes', '12'], () => writeSafetensors(path, [entry]));
  await fails(t, 'ERR_ARGUMENT', ['tensor a', 'twice'], () =>
    writeSafetensors(path, [
      { ...entry, shape: [3] },
      { ...entry, shape: [3] },
    ]),
  );
  t.deepEqual(await readdir(folder), []);
});

test('a folder without weights, a file for a folder, and pickle files are told apart', async (t) => {
  const folder = await scratch(t);
  await fails(t, 'ERR_NOT_FOUND', [join(folder, 'nowhere')], () => Checkpoint.open(join(folder, 'nowhere')));
  await fails(t, 'ERR_BAD_CHECKPOINT', [folder, 'neither model.safetensors'], () => Checkpoint.open(folder));
  await writeFile(join(folder, 'pytorch_model.bin'), 'x');
  await fails(t, 'ERR_UNSUPPORTED', ['pytorch_model.bin', 'pickle'], () => Checkpoint.open(folder));
  await fails(t, 'ERR_NOT_FOUND', ['found a file'], () => Checkpoint.open(join(folder, 'pytorch_model.bin')));
  await mkdir(join(folder, 'model.safetensors'));
  await fails(t, 'ERR_BAD_CHECKPOINT', ['found a folder'], () => Checkpoint.open(folder));
});

type WeightMap = Readonly<Record<string, unknown>>;
const HEAD = 'lm_head.weight';
const without = (map: WeightMap, name: string): WeightMap =>
  Object.fromEntries(Object.entries(map).filter(([key]) => key !== name));

/** What each makes of the sharded fixture's weight_map, and what the error must name. */
const INDEX_MISTAKES: readonly (readonly [what: string, change: (map: WeightMap) => unknown, parts: readonly string[]])[] = [
  ['no weight_map', () => undefined, ['index.json', 'weight_map', 'nothing']],
  ['a weight_map that is a list', () => [], ['index.json', 'weight_map', 'a list']],
  ['an empty weight_map', () => ({}), ['index.json', 'names no tensor']],
  [
    'a missing shard',
    (map) => ({ ...map, [HEAD]: 'model-00009-of-00008.safetensors' }),
    ['index.json', 'model-00009-of-00008', HEAD],
  ],
  [
    'a path that leaves the folder',
    (map) => ({ ...map, [HEAD]: '../x.safetensors' }),
    [HEAD, '../x.safetensors', 'leaves the folder'],
  ],
  ['an absolute path', (map) => ({ ...map, [HEAD]: '/etc/passwd' }), [HEAD, 'leaves the folder']],
  ['a pickle shard', (map) => ({ ...map, [HEAD]: 'pytorch_model.bin' }), [HEAD, 'not a safetensors file']],
  ['a number for a file', (map) => ({ ...map, [HEAD]: 3 }), [HEAD, 'expected a file name', '3']],
  ['the wrong shard', (map) => ({ ...map, [HEAD]: 'model-00001-of-00008.safetensors' }), ['model-00001', HEAD, 'missing']],
  [
    'a tensor that no shard has',
    (map) => ({ ...map, extra: 'model-00001-of-00008.safetensors' }),
    ['model-00001', 'extra', 'missing'],
  ],
  [
    'a tensor left out',
    (map) => without(map, 'model.visual.pos_embed.weight'),
    ['model-00001', 'model.visual.pos_embed.weight', 'not in the index'],
  ],
];

for (const [what, change, parts] of INDEX_MISTAKES) {
  test(`an index is refused: ${what}`, async (t) => {
    const folder = await scratch(t);
    for (const name of await readdir(fixture('sharded-bf16')))
      await copyFile(join(fixture('sharded-bf16'), name), join(folder, name));
    const path = join(folder, 'model.safetensors.index.json');
    const { weight_map: map } = JSON.parse(await readFile(path, 'utf8')) as { weight_map: WeightMap };
    await writeFile(path, JSON.stringify({ weight_map: change(map) }));
    await fails(t, 'ERR_BAD_CHECKPOINT', [folder, ...parts], () => Checkpoint.open(folder));
  });
}

test('an index that is not JSON names the line and the column', async (t) => {
  const folder = await scratch(t);
  await writeFile(join(folder, 'model.safetensors.index.json'), '{\n "weight_map": {,}\n}');
  await fails(t, 'ERR_BAD_CHECKPOINT', ['index.json', 'line 2, column 17'], () => Checkpoint.open(folder));
});

test("the hub cache's links to blobs outside the folder are followed", async (t) => {
  const folder = await scratch(t);
  await mkdir(join(folder, 'snapshot'));
  await mkdir(join(folder, 'blobs'));
  await copyFile(fixture('base-bf16/model.safetensors'), join(folder, 'blobs/1234'));
  await symlink('../blobs/1234', join(folder, 'snapshot/model.safetensors'));
  const checkpoint = await Checkpoint.open(join(folder, 'snapshot'));
  t.is(checkpoint.tensors.size, 64);
  t.is(checkpoint.bytes('lm_head.weight').byteLength, 2400);
  checkpoint.close();
});
