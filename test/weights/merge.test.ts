import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { readAdapter, writeAdapter } from '../../lib/weights/lora.js';
import { mergeAdapter } from '../../lib/weights/merge.js';
import { Checkpoint } from '../../lib/weights/safetensors.js';
import { fails, fixture, scratch } from './fixtures.js';

for (const [adapter, expected] of [
  ['adapter-lora', 'merged-lora'],
  ['adapter-rslora', 'merged-rslora'],
] as const) {
  test(`${adapter} into bf16: the bytes of PEFT's merge_and_unload`, async (t) => {
    const outputDir = join(await scratch(t), 'merged');
    const { merged } = await mergeAdapter({ model: fixture('base-bf16'), adapter: fixture(adapter), outputDir });
    t.is(merged, 20);
    t.deepEqual((await readdir(outputDir)).sort(), ['config.json', 'generation_config.json', 'model.safetensors']);
    t.deepEqual(await readFile(join(outputDir, 'model.safetensors')), await readFile(fixture(`${expected}/model.safetensors`)));
    t.deepEqual(await readFile(join(outputDir, 'config.json')), await readFile(fixture('base-bf16/config.json')));
  });
}

test('into F32 with a tied head: PEFT to the last bit or two of the sum, untouched tensors to the byte', async (t) => {
  const outputDir = join(await scratch(t), 'merged');
  await mergeAdapter({ model: fixture('base-f32-tied'), adapter: fixture('adapter-lora'), outputDir });
  const ours = await Checkpoint.open(outputDir);
  const theirs = await Checkpoint.open(fixture('merged-f32-tied'));
  const { tensors } = await readAdapter(fixture('adapter-lora'));
  for (const name of theirs.tensors.keys()) {
    if (!tensors.has(name.replace(/\.weight$/, ''))) {
      t.deepEqual(ours.bytes(name), theirs.bytes(name), name);
      continue;
    }
    const [a, b] = [ours, theirs].map((checkpoint) => new Float32Array(checkpoint.bytes(name).buffer)) as [
      Float32Array,
      Float32Array,
    ];
    // Four products of size 0.1 are summed in another order or with other intermediate rounding.
    const off = a.findIndex((value, i) => Math.abs(value - b[i]!) > 2 ** -22);
    t.is(off, -1, `${name}[${off}]: ${a[off]} for ${b[off]}`);
  }
  ours.close();
  theirs.close();
});

test('shards stay shards, with their index', async (t) => {
  const outputDir = join(await scratch(t), 'merged');
  const progress: number[] = [];
  await mergeAdapter({
    model: fixture('sharded-bf16'),
    adapter: fixture('adapter-lora'),
    outputDir,
    onProgress: ({ bytes }) => progress.push(bytes),
  });
  t.deepEqual((await readdir(outputDir)).sort(), (await readdir(fixture('sharded-bf16'))).sort());
  t.is(progress.at(-1), 55528);
  const ours = await Checkpoint.open(outputDir);
  const theirs = await Checkpoint.open(fixture('merged-lora'));
  for (const name of theirs.tensors.keys()) t.deepEqual(ours.bytes(name), theirs.bytes(name), name);
  ours.close();
  theirs.close();
});

test('tokenizer, template and licence come along; other weights, folders and the card do not', async (t) => {
  const model = await scratch(t);
  for (const name of await readdir(fixture('base-bf16'))) await copyFile(join(fixture('base-bf16'), name), join(model, name));
  const kept = ['tokenizer.json', 'chat_template.jinja', 'merges.txt', 'LICENSE'];
  for (const name of [...kept, 'pytorch_model.bin', 'adapter_config.json', 'README.md', '.gitattributes'])
    await writeFile(join(model, name), name);
  await mkdir(join(model, 'original.json'));
  const outputDir = join(await scratch(t), 'merged');
  await mergeAdapter({ model, adapter: fixture('adapter-lora'), outputDir });
  t.deepEqual((await readdir(outputDir)).sort(), [...kept, 'config.json', 'generation_config.json', 'model.safetensors'].sort());
});

test('a 4-bit base, a full folder and an adapter of another model leave nothing behind', async (t) => {
  const folder = await scratch(t);
  const outputDir = join(folder, 'merged');
  const adapter = fixture('adapter-lora');
  await fails(t, 'ERR_UNSUPPORTED', ['bnb-nf4', '4 bits', '16-bit weights instead'], () =>
    mergeAdapter({ model: fixture('bnb-nf4'), adapter, outputDir }),
  );
  await fails(t, 'ERR_USAGE', ['--output-dir', 'not empty'], () =>
    mergeAdapter({ model: fixture('base-bf16'), adapter, outputDir: fixture('base-bf16') }),
  );
  const other = join(folder, 'adapter');
  const modules = [{ name: 'model.layers.0.mlp.up_proj', rank: 1, a: new Float32Array(20), b: new Float32Array(36) }];
  await writeAdapter(other, { baseModel: 'other', r: 1, loraAlpha: 1, targetModules: ['up_proj'], modules });
  await fails(t, 'ERR_BAD_ADAPTER', ['model.layers.0.mlp.up_proj', 'apply nothing'], () =>
    mergeAdapter({ model: fixture('base-bf16'), adapter: other, outputDir }),
  );
  t.deepEqual(await readdir(folder), ['adapter']);
});

test('a tied head is not merged into, and a sum that is not finite is refused by tensor', async (t) => {
  const folder = await scratch(t);
  const outputDir = join(folder, 'merged');
  const head = join(folder, 'head');
  await writeAdapter(head, {
    baseModel: 'b',
    r: 1,
    loraAlpha: 1,
    targetModules: ['lm_head'],
    modules: [{ name: 'lm_head', rank: 1, a: new Float32Array(20), b: new Float32Array(60) }],
  });
  await fails(t, 'ERR_UNSUPPORTED', ['tie_word_embeddings'], () =>
    mergeAdapter({ model: fixture('base-f32-tied'), adapter: head, outputDir }),
  );
  const huge = join(folder, 'huge');
  await writeAdapter(huge, {
    baseModel: 'b',
    r: 1,
    loraAlpha: 1e30,
    targetModules: ['lm_head'],
    modules: [{ name: 'lm_head', rank: 1, a: new Float32Array(20).fill(1e10), b: new Float32Array(60).fill(1) }],
  });
  await fails(t, 'ERR_BAD_ADAPTER', ['lm_head.weight', 'infinite'], () =>
    mergeAdapter({ model: fixture('base-bf16'), adapter: huge, outputDir }),
  );
  t.deepEqual((await readdir(folder)).sort(), ['head', 'huge']);
});

test('an aborted merge is cancelled and leaves nothing', async (t) => {
  const folder = await scratch(t);
  const controller = new AbortController();
  const merging = mergeAdapter({
    model: fixture('base-bf16'),
    adapter: fixture('adapter-lora'),
    outputDir: join(folder, 'merged'),
    signal: controller.signal,
    onProgress: () => controller.abort(),
  });
  await fails(t, 'ERR_CANCELLED', ['merging'], () => merging);
  t.deepEqual(await readdir(folder), []);
});
