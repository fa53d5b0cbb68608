import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { parse } from 'yaml';
import {
  type Adapter,
  checkAdapterFits,
  type LinearShape,
  readAdapter,
  type WriteAdapterOptions,
  writeAdapter,
} from '../../lib/weights/lora.js';
import { readSafetensorsHeader, type TensorEntry, writeSafetensors } from '../../lib/weights/safetensors.js';
import { fails, fixture, scratch } from './fixtures.js';

function optionsOf({ config, tensors }: Adapter): WriteAdapterOptions {
  return {
    baseModel: config.baseModel!,
    r: config.r,
    loraAlpha: config.loraAlpha,
    loraDropout: config.loraDropout,
    useRslora: config.useRslora,
    targetModules: config.targetModules!,
    rankPattern: config.rankPattern,
    alphaPattern: config.alphaPattern,
    modules: [...tensors].map(([name, { a, b, rank }]) => ({ name, a, b, rank })),
  };
}

test("PEFT's adapter is read: names, ranks, scales, values", async (t) => {
  const adapter = await readAdapter(fixture('adapter-lora'));
  t.deepEqual(adapter.warnings, []);
  t.is(adapter.tensors.size, 20);
  t.like(adapter.config, {
    r: 4,
    loraAlpha: 8,
    loraDropout: 0.05,
    useRslora: false,
    taskType: 'CAUSAL_LM',
    baseModel: 'test/fixtures/weights/base-bf16',
  });
  t.like(adapter.tensors.get('model.language_model.layers.0.self_attn.q_proj'), {
    rank: 4,
    scale: 2,
    inFeatures: 20,
    outFeatures: 32,
  });
  t.like(adapter.tensors.get('model.visual.merger.linear_fc1'), { rank: 4, scale: 2, inFeatures: 64, outFeatures: 64 });
  const { a, b } = adapter.tensors.get('model.language_model.layers.1.mlp.down_proj')!;
  t.deepEqual([a.length, b.length], [4 * 36, 20 * 4]);
  t.true(a.every(Number.isFinite) && b.some((value) => value !== 0));
});

test('rsLoRA, rank_pattern and alpha_pattern give the scales of PEFT; bf16 comes as F32', async (t) => {
  const { tensors } = await readAdapter(fixture('adapter-rslora'));
  const scaleOf = (name: string): number => tensors.get(name)!.scale;
  t.is(scaleOf('model.language_model.layers.0.self_attn.q_proj'), 8 / Math.sqrt(4));
  t.is(scaleOf('model.language_model.layers.1.self_attn.q_proj'), 8 / Math.sqrt(2));
  t.is(tensors.get('model.language_model.layers.1.self_attn.q_proj')!.rank, 2);
  t.is(scaleOf('model.language_model.layers.1.mlp.down_proj'), 3 / Math.sqrt(4));
  const full = (await readAdapter(fixture('adapter-lora'))).tensors.get('model.visual.blocks.0.attn.qkv')!;
  const half = tensors.get('model.visual.blocks.0.attn.qkv')!;
  t.is(half.a.length, full.a.length);
  t.true(half.a.every((value) => Number.isFinite(value) && new Uint32Array(Float32Array.of(value).buffer)[0]! % 65536 === 0));
});

test("what is written has the bytes of PEFT's files", async (t) => {
  const folder = await scratch(t);
  await writeAdapter(folder, optionsOf(await readAdapter(fixture('adapter-lora'))));
  t.deepEqual((await readdir(folder)).sort(), ['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
  for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
    t.deepEqual(await readFile(join(folder, name)), await readFile(fixture(`adapter-lora/${name}`)), name);
  }
  const rslora = await scratch(t);
  await writeAdapter(rslora, optionsOf(await readAdapter(fixture('adapter-rslora'))));
  t.is(
    await readFile(join(rslora, 'adapter_config.json'), 'utf8'),
    await readFile(fixture('adapter-rslora/adapter_config.json'), 'utf8'),
  );
});

test('an adapter goes out and comes back unchanged, module ranks included', async (t) => {
  const folder = await scratch(t);
  const values = (length: number): Float32Array => Float32Array.from({ length }, (_, i) => Math.sin(i));
  const modules = [
    { name: 'model.language_model.layers.0.mlp.up_proj', rank: 2, a: values(2 * 5), b: values(3 * 2) },
    { name: 'model.language_model.layers.1.mlp.up_proj', rank: 1, a: values(5), b: values(3) },
  ];
  await writeAdapter(folder, { baseModel: 'a "quoted": naïve name', r: 2, loraAlpha: 3, targetModules: 'all-linear', modules });
  const { config, tensors } = await readAdapter(folder);
  t.is(config.baseModel, 'a "quoted": naïve name');
  t.deepEqual(
    config.targetModules,
    modules.map(({ name }) => name),
    'all-linear is written as what it stood for',
  );
  for (const { name, a, b, rank } of modules)
    t.like(tensors.get(name), { a, b, rank, scale: 3 / rank, inFeatures: 5, outFeatures: 3 });
  const card = (await readFile(join(folder, 'README.md'), 'utf8')).split('---\n');
  t.like(parse(card[1]!), { base_model: 'a "quoted": naïve name', library_name: 'peft' });
});

test('a module whose lengths do not make matrices of its rank is not written', async (t) => {
  const folder = await scratch(t);
  const modules = [{ name: 'm', rank: 4, a: new Float32Array(6), b: new Float32Array(8) }];
  await fails(t, 'ERR_ARGUMENT', ['module m', 'rank 4'], () =>
    writeAdapter(folder, { baseModel: 'b', r: 4, loraAlpha: 4, targetModules: ['m'], modules }),
  );
  t.deepEqual(await readdir(folder), []);
});

/** adapter-lora with other values of some fields; null removes one. */
async function withConfig(folder: string, change: Readonly<Record<string, unknown>>, remove?: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  const config = JSON.parse(await readFile(fixture('adapter-lora/adapter_config.json'), 'utf8'));
  Object.assign(config, change);
  if (remove !== undefined) delete config[remove];
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify(config));
  await copyFile(fixture('adapter-lora/adapter_model.safetensors'), join(folder, 'adapter_model.safetensors'));
  return folder;
}

const VARIANTS: readonly (readonly [field: string, value: unknown])[] = [
  ['peft_type', 'IA3'],
  ['use_dora', true],
  ['lora_bias', true],
  ['bias', 'all'],
  ['modules_to_save', ['lm_head']],
  ['trainable_token_indices', [1, 2]],
  ['target_parameters', ['experts.gate_up_proj']],
  ['layer_replication', [[0, 2]]],
  ['use_qalora', true],
  ['alora_invocation_tokens', [5]],
  ['arrow_config', { top_k: 3 }],
  ['init_lora_weights', 'pissa_niter_4'],
  ['init_lora_weights', 'olora'],
];
for (const [field, value] of VARIANTS) {
  test(`refused by name: ${field} ${JSON.stringify(value)}`, async (t) => {
    const folder = await withConfig(await scratch(t), { [field]: value });
    await fails(t, 'ERR_UNSUPPORTED', [join(folder, 'adapter_config.json'), field], () => readAdapter(folder));
  });
}

const WRONG: readonly (readonly [field: string, value: unknown])[] = [
  ['peft_type', 3],
  ['r', 0],
  ['r', 1e9],
  ['r', '8'],
  ['lora_alpha', -1],
  ['lora_alpha', 'x'],
  ['lora_dropout', 1],
  ['use_rslora', 'yes'],
  ['target_modules', [1]],
  ['rank_pattern', { q_proj: -2 }],
  ['rank_pattern', { '(': 4 }],
  ['alpha_pattern', [1]],
  ['base_model_name_or_path', 7],
];
for (const [field, value] of WRONG) {
  test(`a value that cannot be is named: ${field} ${JSON.stringify(value)}`, async (t) => {
    const folder = await withConfig(await scratch(t), { [field]: value });
    await fails(t, 'ERR_BAD_ADAPTER', [join(folder, 'adapter_config.json'), field], () => readAdapter(folder));
  });
}

test('fields of a later PEFT are passed over with a warning; fields that are absent have their defaults', async (t) => {
  const folder = await withConfig(await scratch(t), { use_something_new: true }, 'lora_dropout');
  const { warnings, config } = await readAdapter(folder);
  t.is(warnings.length, 1);
  t.true(warnings[0]!.includes('use_something_new'));
  t.is(config.loraDropout, 0);
});

test('a rank that the tensors do not have is named with tensor and field', async (t) => {
  const one = await withConfig(join(await scratch(t), 'a'), { r: 8 });
  await fails(t, 'ERR_BAD_ADAPTER', ['lora_A', '[8, in]', 'r of adapter_config.json', '[4, 36]'], () => readAdapter(one));
  const two = await withConfig(join(await scratch(t), 'b'), { rank_pattern: { 'mlp.up_proj': 2 } });
  await fails(t, 'ERR_BAD_ADAPTER', ['up_proj.lora_A', 'rank_pattern "mlp.up_proj"', '[4, 20]'], () => readAdapter(two));
});

test('a pattern that backtracks without end is an error, not a hang', async (t) => {
  const folder = await withConfig(await scratch(t), { rank_pattern: { '([a-z_.0-9]+)+#': 2 } });
  await fails(t, 'ERR_BAD_ADAPTER', ['rank_pattern', 'too long'], () => readAdapter(folder));
});

/** adapter-lora's config with other tensors. */
async function withTensors(folder: string, entries: readonly TensorEntry[]): Promise<string> {
  await copyFile(fixture('adapter-lora/adapter_config.json'), join(folder, 'adapter_config.json'));
  await writeSafetensors(join(folder, 'adapter_model.safetensors'), entries);
  return folder;
}
const tensor = (name: string, ...shape: number[]): TensorEntry => ({
  name,
  dtype: 'F32',
  shape,
  data: new Float32Array(shape.reduce((x, y) => x * y, 1)),
});
const PAIR = 'base_model.model.model.language_model.layers.0.mlp.up_proj';

test('tensors that are not of plain LoRA are refused by name', async (t) => {
  const good = [tensor(`${PAIR}.lora_A.weight`, 4, 20), tensor(`${PAIR}.lora_B.weight`, 36, 4)];
  for (const [extra, part] of [
    [tensor(`${PAIR}.lora_magnitude_vector`, 36), 'DoRA'],
    [tensor('base_model.model.lm_head.weight', 60, 20), 'lora_A.weight'],
    [tensor('base_model.model.model.language_model.embed_tokens.lora_embedding_A', 4, 60), 'embeddings'],
    [tensor('model.layers.0.x.lora_A.weight', 4, 20), 'base_model.model.'],
  ] as const) {
    const folder = await withTensors(await scratch(t), [...good, extra]);
    await fails(t, 'ERR_BAD_ADAPTER', [extra.name, part], () => readAdapter(folder));
  }
  await fails(t, 'ERR_BAD_ADAPTER', ['up_proj', 'lora_A but no lora_B'], async () =>
    readAdapter(await withTensors(await scratch(t), good.slice(0, 1))),
  );
  await fails(t, 'ERR_BAD_ADAPTER', ['holds no tensor'], async () => readAdapter(await withTensors(await scratch(t), [])));
  const bytes: TensorEntry = { name: `${PAIR}.lora_A.weight`, dtype: 'U8', shape: [4, 20], data: new Uint8Array(80) };
  await fails(t, 'ERR_BAD_ADAPTER', ['expected F32, BF16 or F16', 'U8'], async () =>
    readAdapter(await withTensors(await scratch(t), [bytes, good[1]!])),
  );
});

test('a folder that is not an adapter says what is missing', async (t) => {
  const folder = await scratch(t);
  await fails(t, 'ERR_NOT_FOUND', [join(folder, 'x')], () => readAdapter(join(folder, 'x')));
  await fails(t, 'ERR_NOT_FOUND', ['found a file'], () => readAdapter(fixture('adapter-lora/adapter_config.json')));
  await fails(t, 'ERR_BAD_ADAPTER', ['adapter_config.json', 'no such file'], () => readAdapter(folder));
  await copyFile(fixture('adapter-lora/adapter_config.json'), join(folder, 'adapter_config.json'));
  await fails(t, 'ERR_BAD_ADAPTER', ['adapter_model.safetensors', 'no such file'], () => readAdapter(folder));
  await writeFile(join(folder, 'adapter_model.bin'), '');
  await fails(t, 'ERR_UNSUPPORTED', ['adapter_model.bin', 'pickle'], () => readAdapter(folder));
});

test('an adapter of another model is refused: names, shapes and how many', async (t) => {
  const adapter = await readAdapter(fixture('adapter-lora'));
  const linears = new Map<string, LinearShape>(
    [...adapter.tensors].map(([name, { inFeatures, outFeatures }]) => [name, { inFeatures, outFeatures }]),
  );
  t.notThrows(() => checkAdapterFits(adapter, linears));

  const fewer = new Map([...linears].filter(([name]) => !name.includes('visual')));
  await fails(t, 'ERR_BAD_ADAPTER', ['6 of its 20 modules', 'model.visual.blocks.0.attn.qkv', 'and 3 more', 'base-bf16'], () =>
    checkAdapterFits(adapter, fewer),
  );

  const wider = new Map(
    [...linears].map(([name, shape]) => [name, name.endsWith('up_proj') ? { inFeatures: 40, outFeatures: 72 } : shape]),
  );
  await fails(t, 'ERR_BAD_ADAPTER', ['2 have another shape', 'layers.0.mlp.up_proj is [36, 20]', '[72, 40]'], () =>
    checkAdapterFits(adapter, wider),
  );

  const older = {
    ...adapter,
    tensors: new Map(
      [...adapter.tensors].filter(([n]) => !n.includes('visual')).map(([n, m]) => [n.replace('language_model.', ''), m]),
    ),
  };
  await fails(t, 'ERR_BAD_ADAPTER', ['14 of its 14', 'model.layers.0', 'model.language_model.layers', 'apply nothing'], () =>
    checkAdapterFits(older, linears),
  );
});

test('tensors of the written file are F32 and named as PEFT names them', async (t) => {
  const folder = await scratch(t);
  const modules = [{ name: 'model.visual.merger.linear_fc1', rank: 1, a: new Float32Array(2), b: new Float32Array(3) }];
  await writeAdapter(folder, { baseModel: 'b', r: 1, loraAlpha: 1, targetModules: ['linear_fc1'], modules });
  const { tensors, metadata } = await readSafetensorsHeader(join(folder, 'adapter_model.safetensors'));
  t.deepEqual(metadata, { format: 'pt' });
  t.deepEqual(
    tensors.map(({ name, dtype, shape }) => [name, dtype, ...shape]),
    [
      ['base_model.model.model.visual.merger.linear_fc1.lora_A.weight', 'F32', 1, 2],
      ['base_model.model.model.visual.merger.linear_fc1.lora_B.weight', 'F32', 3, 1],
    ],
  );
});
