import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { findNf4Tensors } from '../../lib/weights/bnb4bit.js';
import { quantizeCheckpoint } from '../../lib/weights/quantize.js';
import { Checkpoint } from '../../lib/weights/safetensors.js';
import { fails, fixture, scratch } from './fixtures.js';

const json = async (path: string): Promise<Record<string, unknown>> => JSON.parse(await readFile(path, 'utf8'));

test('double quantisation: the file and the config that transformers and bitsandbytes save', async (t) => {
  const outputDir = join(await scratch(t), 'nf4');
  const result = await quantizeCheckpoint({ model: fixture('base-bf16'), outputDir });
  t.is(result.quantized, 14);
  t.is(result.bytesBefore, 55528);
  t.deepEqual(await readFile(join(outputDir, 'model.safetensors')), await readFile(fixture('bnb-nf4-double/model.safetensors')));
  const { quantization_config: theirs } = await json(fixture('bnb-nf4-double/config.json'));
  t.deepEqual(await json(join(outputDir, 'config.json')), {
    ...(await json(fixture('base-bf16/config.json'))),
    quantization_config: theirs,
  });
  t.deepEqual((await readdir(outputDir)).sort(), ['config.json', 'generation_config.json', 'model.safetensors']);
});

test('single quantisation: the tensors that bitsandbytes saves', async (t) => {
  const outputDir = join(await scratch(t), 'nf4');
  await quantizeCheckpoint({ model: fixture('base-bf16'), outputDir, doubleQuant: false });
  const ours = await Checkpoint.open(outputDir);
  const theirs = await Checkpoint.open(fixture('bnb-nf4'));
  for (const { name, dtype, shape } of ours.tensors.values()) {
    if (name.startsWith('model.visual')) continue; // that fixture has the vision tower in 4 bits too
    t.like(theirs.get(name), { dtype, shape: [...shape] });
    t.deepEqual(ours.bytes(name), theirs.bytes(name), name);
  }
  t.is(findNf4Tensors(ours, await json(join(outputDir, 'config.json'))).size, 14);
  ours.close();
  theirs.close();
});

test('numbers of the config keep the spelling that Python reads types from', async (t) => {
  const outputDir = join(await scratch(t), 'nf4');
  await quantizeCheckpoint({ model: fixture('base-bf16'), outputDir });
  const text = await readFile(join(outputDir, 'config.json'), 'utf8');
  t.true(text.includes('"llm_int8_threshold": 6.0'));
  t.true(text.includes('"rope_theta": 5000000.0') && text.includes('"rms_norm_eps": 1e-06'));
});

test('vision tower and head keep their bytes, in F32 and with a tied head too', async (t) => {
  const outputDir = join(await scratch(t), 'nf4');
  await quantizeCheckpoint({ model: fixture('base-f32-tied'), outputDir });
  const ours = await Checkpoint.open(outputDir);
  const source = await Checkpoint.open(fixture('base-f32-tied'));
  const config = await json(join(outputDir, 'config.json'));
  const quantized = findNf4Tensors(ours, config);
  t.is(quantized.size, 14);
  t.is(quantized.get('model.language_model.layers.0.mlp.up_proj.weight')!.dtype, 'float32');
  t.like(config.quantization_config, { bnb_4bit_compute_dtype: 'float32' });
  for (const name of source.tensors.keys()) if (!quantized.has(name)) t.deepEqual(ours.bytes(name), source.bytes(name), name);
  ours.close();
  source.close();
});

test('shards are read; progress ends at the whole', async (t) => {
  const outputDir = join(await scratch(t), 'nf4');
  let last = { bytes: 0, totalBytes: -1 };
  await quantizeCheckpoint({ model: fixture('sharded-bf16'), outputDir, onProgress: (progress) => (last = progress) });
  t.is(last.bytes, last.totalBytes);
  t.deepEqual(await readFile(join(outputDir, 'model.safetensors')), await readFile(fixture('bnb-nf4-double/model.safetensors')));
});

test('what is quantised already, a full folder and an abort leave nothing behind', async (t) => {
  const folder = await scratch(t);
  const outputDir = join(folder, 'nf4');
  await fails(t, 'ERR_UNSUPPORTED', ['bnb-nf4', 'quantised already'], () =>
    quantizeCheckpoint({ model: fixture('bnb-nf4'), outputDir }),
  );
  await fails(t, 'ERR_USAGE', ['--output-dir', 'not empty'], () =>
    quantizeCheckpoint({ model: fixture('base-bf16'), outputDir: fixture('base-bf16') }),
  );
  const controller = new AbortController();
  const quantizing = quantizeCheckpoint({
    model: fixture('base-bf16'),
    outputDir,
    signal: controller.signal,
    onProgress: () => controller.abort(),
  });
  await fails(t, 'ERR_CANCELLED', ['quantising'], () => quantizing);
  t.deepEqual(await readdir(folder), []);
});
