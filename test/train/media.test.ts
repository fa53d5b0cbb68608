/** Runs over rows with pictures and videos: what is trained, what stays, and that a run goes on in the same bits. */
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { plan, type TrainOptions, train } from '../../lib/index.js';
import { readAdapter } from '../../lib/weights/lora.js';
import { readSafetensorsHeader, readTensor } from '../../lib/weights/safetensors.js';
import { digests, MODEL, REPOSITORY, ROWS, shortRun, temporaryFolder, weightDigest } from './support.js';

const PICTURES: string = join(REPOSITORY, 'test/fixtures/media-rows/rows.jsonl');

function seeing(outputDir: string, more: Partial<TrainOptions> = {}): TrainOptions {
  return shortRun(outputDir, { dataset: [PICTURES], maxLength: 200, maxSteps: 6, loraR: 8, ...more });
}

const out = (t: ExecutionContext): string => join(temporaryFolder(t), 'out');

for (const [where, options] of [
  ['the language model', {}],
  ['the tower too', { finetuneVisionLayers: true }],
] as const) {
  test.serial(`a run with adapters in ${where} goes on from a checkpoint in the same bits`, async (t) => {
    const [whole, halves] = [out(t), out(t)];
    await train(seeing(whole, { ...options, saveSteps: 3 }));
    mkdirSync(halves);
    cpSync(join(whole, 'checkpoint-3'), join(halves, 'checkpoint-3'), { recursive: true });
    await train(seeing(halves, { ...options, saveSteps: 3, resumeFromCheckpoint: true, visionCache: 0, threads: 1 }));
    t.is(weightDigest(halves), weightDigest(whole));
    const { 'training_args.json': _, ...last } = digests(join(halves, 'checkpoint-6'));
    const { 'training_args.json': __, ...expected } = digests(join(whole, 'checkpoint-6'));
    t.deepEqual(last, expected);
  });
}

test.serial('text alone loads no tower, whatever adapters are named', async (t) => {
  const text = await plan(seeing(out(t), { dataset: [ROWS] }));
  const named = await plan(seeing(out(t), { dataset: [ROWS], finetuneVisionLayers: true }));
  const pictures = await plan(seeing(out(t)));
  const tower = await plan(seeing(out(t), { finetuneVisionLayers: true }));
  t.is(named.kinds.weights, text.kinds.weights);
  t.is(named.trainableParameters, text.trainableParameters);
  t.true(pictures.kinds.weights > text.kinds.weights);
  t.is(pictures.trainableParameters, text.trainableParameters);
  t.true(tower.trainableParameters > pictures.trainableParameters);
  t.true(pictures.plannedMemoryBytes > text.plannedMemoryBytes);
});

test.serial('adapters are where the options put them, and the file says so', async (t) => {
  const folder = out(t);
  const options = {
    finetuneVisionLayers: true,
    finetuneLanguageLayers: false,
    finetuneMlpModules: false,
    maxSteps: 2,
    loraDropout: 0,
  };
  await train(seeing(folder, options));
  const { config, tensors } = await readAdapter(folder);
  const names = [...tensors.keys()].sort();
  t.deepEqual(
    names,
    [0, 1].flatMap((i) => ['proj', 'qkv'].map((layer) => `model.visual.blocks.${i}.attn.${layer}`)),
  );
  t.deepEqual([...(config.targetModules as readonly string[])].sort(), names);
  for (const [name, { b }] of tensors)
    t.true(
      b.some((value) => value !== 0),
      `${name} has learnt`,
    );
});

test.serial('where text alone goes on from an adapter of the tower, pictures are evaluated with it', async (t) => {
  const adapter = out(t);
  await train(seeing(adapter, { finetuneVisionLayers: true, learningRate: 0.05, saveStrategy: 'no' }));
  const loss = async (more: Partial<TrainOptions>): Promise<number> => {
    let found = Number.NaN;
    const options = { evalDataset: [PICTURES], evalSteps: 1, maxSteps: 1, learningRate: 0, saveStrategy: 'no', ...more } as const;
    await train(seeing(out(t), { ...options, ...(more.adapter && { loraR: undefined, loraDropout: undefined }) }), {
      onEvent: (event) => {
        if (event.event === 'eval') found = event.eval_loss;
      },
    });
    return found;
  };
  const [text, pictures] = [await loss({ adapter, dataset: [ROWS] }), await loss({ adapter })];
  t.true(Math.abs(text - pictures) < 1e-3 * pictures, `${text}, ${pictures}`);
  const towerless = out(t);
  const { tensors } = await readAdapter(adapter);
  t.true([...tensors.keys()].some((name) => name.startsWith('model.visual.')));
  await train(
    seeing(towerless, {
      adapter,
      loraR: undefined,
      loraDropout: undefined,
      dataset: [ROWS],
      maxSteps: 1,
      learningRate: 0,
      saveStrategy: 'no',
    }),
  );
  t.deepEqual([...(await readAdapter(towerless)).tensors.keys()].sort(), [...tensors.keys()].sort(), 'none is lost');
});

test.serial('full fine-tuning trains the tower on pictures, unless it is to stay', async (t) => {
  const before = await readSafetensorsHeader(join(MODEL, 'model.safetensors'));
  const changed = async (folder: string): Promise<string[]> => {
    const after = await readSafetensorsHeader(join(folder, 'model.safetensors'));
    const names: string[] = [];
    for (const tensor of before.tensors) {
      const found = after.tensors.find(({ name }) => name === tensor.name)!;
      if (!Buffer.from(await readTensor(tensor)).equals(await readTensor(found))) names.push(tensor.name);
    }
    return names;
  };
  const options = { fullFinetuning: true, dtype: 'float32', optim: 'adamw_torch', maxSteps: 1, warmupSteps: 0 } as const;
  const { loraR: _, loraDropout: __, ...full } = seeing(out(t), options);
  const [both, language] = [out(t), out(t)];
  await train({ ...full, outputDir: both });
  await train({ ...full, outputDir: language, finetuneVisionLayers: false });
  const isTower = (name: string) => name.includes('.visual.');
  const [all, some] = [await changed(both), await changed(language)];
  t.true(all.filter(isTower).length > 20);
  t.is(some.filter(isTower).length, 0);
  t.deepEqual(
    all.filter((name) => !isTower(name)),
    some,
  );
});
