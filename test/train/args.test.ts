import test from 'ava';
import fc from 'fast-check';
import { VltuneError } from '../../lib/errors.js';
import { checkOptions, kebabCase, nearestName, parseBytes, snakeCase } from '../../lib/options.js';
import { resolveTrainArgs, TRAIN_OPTIONS, type TrainOptions } from '../../lib/train/args.js';

const LEAST = { model: 'm', dataset: 'd.jsonl', outputDir: 'out' } as const;

function message(options: Record<string, unknown>): string {
  try {
    resolveTrainArgs({ ...LEAST, ...options } as TrainOptions);
  } catch (error) {
    if (error instanceof VltuneError && error.code === 'ERR_USAGE') return error.message;
    throw error;
  }
  return 'no error';
}

test('model, dataset and output folder are enough; the rest is the seed recipe', (t) => {
  const args = resolveTrainArgs(LEAST);
  t.like(args, {
    dataset: ['d.jsonl'],
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: 4,
    warmupSteps: 5,
    numTrainEpochs: 1,
    learningRate: 2e-5,
    loggingSteps: 1,
    optim: 'adamw_8bit',
    weightDecay: 0.01,
    lrSchedulerType: 'linear',
    seed: 3407,
    saveSteps: 500,
    maxLength: 2048,
    loadIn4bit: true,
    packing: true,
    textFormat: 'chat',
    assistantOnlyLoss: true,
    lossAverage: 'tokens',
  });
  t.deepEqual(Object.keys(args).sort(), Object.keys(TRAIN_OPTIONS).sort());
});

test('all errors come at once and name option, expectation and value', (t) => {
  const text = message({ loraR: 0, maxSteps: 0, optim: 'adam', learningRat: 1 });
  t.true(text.startsWith('4 options are wrong:'), text);
  t.regex(text, /loraR: expected an integer from 1 to 65536, got 0/);
  t.regex(text, /maxSteps: expected an integer from 1 to 1000000000 or -1, got 0/);
  t.regex(text, /optim: expected adamw_8bit or adamw_torch, got "adam"/);
  t.regex(text, /learningRat: unknown option; did you mean learningRate\?/);
});

test('what must be given is asked for', (t) => {
  t.throws(() => resolveTrainArgs({} as TrainOptions), {
    code: 'ERR_USAGE',
    message: /model: .*must be given\n.*dataset: .*\n.*outputDir: /,
  });
});

const OUT_OF_RANGE: readonly (readonly [string, unknown])[] = [
  ['learningRate', -1],
  ['learningRate', Number.NaN],
  ['learningRate', Number.POSITIVE_INFINITY],
  ['learningRate', '2e-5'],
  ['loraDropout', 1],
  ['adamBeta1', 1],
  ['adamBeta2', -0.1],
  ['adamEpsilon', 0],
  ['weightDecay', -0.1],
  ['maxGradNorm', -1],
  ['warmupRatio', 1.5],
  ['warmupSteps', -1],
  ['numTrainEpochs', 0],
  ['perDeviceTrainBatchSize', 0],
  ['perDeviceTrainBatchSize', 1.5],
  ['gradientAccumulationSteps', 0],
  ['maxLength', 1],
  ['seed', -1],
  ['seed', 2 ** 32],
  ['saveTotalLimit', 0],
  ['loraAlpha', 0],
  ['threads', 0],
  ['dtype', 'float64'],
  ['device', 'gpu'],
  ['device', 'cuda:'],
  ['device', 'cuda:-1'],
  ['saveStrategy', 'never'],
  ['textFormat', 'chatml'],
  ['packing', 'yes'],
  ['memory', '8 apples'],
  ['memory', 0],
  ['targetModules', 'q_proj('],
  ['targetModules', []],
  ['targetModules', 'q_proj,,v_proj'],
  ['dataset', []],
  ['dataset', ''],
  ['model', ''],
  ['outputDir', 3],
];
for (const [key, value] of OUT_OF_RANGE) {
  test(`${key} ${JSON.stringify(value) ?? String(value)}${typeof value === 'number' && !Number.isFinite(value) ? ` (${value})` : ''} is refused by name`, (t) => {
    t.regex(message({ [key]: value }), new RegExp(`^${key}: expected `));
  });
}

test('exclusive options are refused in pairs', (t) => {
  t.regex(message({ fullFinetuning: true, loraR: 8 }), /fullFinetuning and loraR exclude each other/);
  t.regex(message({ fullFinetuning: true, adapter: 'a' }), /fullFinetuning and adapter exclude/);
  t.regex(message({ fullFinetuning: true, loadIn4bit: true }), /fullFinetuning and loadIn4bit exclude/);
  t.regex(message({ adapter: 'a', targetModules: ['q_proj'] }), /adapter and targetModules exclude/);
  t.regex(message({ warmupSteps: 3, warmupRatio: 0.1 }), /warmupSteps and warmupRatio exclude/);
  t.regex(message({ textFormat: 'plain', assistantOnlyLoss: true }), /textFormat and assistantOnlyLoss exclude/);
  t.regex(message({ resumeFromCheckpoint: true, overwriteOutputDir: true }), /exclude each other/);
  t.regex(message({ evalSteps: 5 }), /evalSteps: expected evalDataset with it/);
});

test('the CPU does not compute in float16', (t) => {
  t.is(
    message({ dtype: 'float16', device: 'cpu' }),
    'dtype: expected float32 or bfloat16 on the CPU, got float16, which only a GPU computes in',
  );
});

test('exclusive options that only repeat the default do not clash', (t) => {
  t.is(message({ warmupSteps: 0, warmupRatio: 0.1 }), 'no error');
  t.is(message({ fullFinetuning: false, loraR: 8 }), 'no error');
  t.is(message({ fullFinetuning: true, loadIn4bit: false, useRslora: false }), 'no error');
});

test('full fine-tuning turns 4 bits off, plain text makes every token a target, a warm-up ratio replaces the steps', (t) => {
  t.false(resolveTrainArgs({ ...LEAST, fullFinetuning: true }).loadIn4bit);
  t.false(resolveTrainArgs({ ...LEAST, textFormat: 'plain' }).assistantOnlyLoss);
  t.like(resolveTrainArgs({ ...LEAST, warmupRatio: 0.1 }), { warmupSteps: 0, warmupRatio: 0.1 });
  t.like(resolveTrainArgs({ ...LEAST, warmupSteps: 7, warmupRatio: 0 }), { warmupSteps: 7, warmupRatio: 0 });
});

test('target modules are a list, all-linear or a regular expression', (t) => {
  const modules = (targetModules: string | string[]): unknown => resolveTrainArgs({ ...LEAST, targetModules }).targetModules;
  t.deepEqual(modules('q_proj, v_proj'), ['q_proj', 'v_proj']);
  t.deepEqual(modules('q_proj'), ['q_proj']);
  t.is(modules('all-linear'), 'all-linear');
  t.is(modules(String.raw`.*\.(q|v)_proj`), String.raw`.*\.(q|v)_proj`);
  t.deepEqual(modules(['mlp.up_proj']), ['mlp.up_proj']);
});

test('names in kebab and snake case are those of transformers and PEFT', (t) => {
  const names = Object.keys(TRAIN_OPTIONS).map(snakeCase);
  for (const name of ['load_in_4bit', 'per_device_train_batch_size', 'adam_beta1', 'use_rslora', 'lora_r', 'lr_scheduler_type'])
    t.true(names.includes(name), name);
  t.is(kebabCase('loadIn4bit'), 'load-in-4bit');
});

test('sizes are read with decimal and binary units', (t) => {
  t.is(parseBytes('8GB'), 8e9);
  t.is(parseBytes('1.5 GiB'), 1.5 * 2 ** 30);
  t.is(parseBytes('512mb'), 512e6);
  t.is(parseBytes('123'), 123);
  for (const bad of ['', 'GB', '-1GB', '8 PB', '1e9', '0x10']) t.is(parseBytes(bad), undefined, bad);
});

test('a misspelled name finds the one it meant, a far one none', (t) => {
  const names = Object.keys(TRAIN_OPTIONS).map(kebabCase);
  t.is(nearestName('learning-rat', names), 'learning-rate');
  t.is(nearestName('lora-rank', names), 'lora-r');
  t.is(nearestName('max-setps', names), 'max-steps');
  t.is(nearestName('zzzzzz', names), undefined);
});

test('no value of any type makes the check throw anything but its own list', (t) => {
  const keys = fc.oneof(fc.constantFrom(...Object.keys(TRAIN_OPTIONS)), fc.string());
  fc.assert(
    fc.property(fc.dictionary(keys, fc.anything()), (values) => {
      const { errors } = checkOptions(TRAIN_OPTIONS, { values, isText: () => true });
      return errors.every((error) => error.length > 0 && !error.includes('\n'));
    }),
  );
  t.pass();
});

test('the tower joins the default target modules when its layers are asked for, and a list that was given stays as it is', (t) => {
  const targets = (options: Partial<TrainOptions>) => resolveTrainArgs({ ...LEAST, ...options }).targetModules;
  const language = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
  t.deepEqual(targets({}), language);
  t.deepEqual(targets({ finetuneVisionLayers: false }), language);
  t.deepEqual(targets({ finetuneVisionLayers: true }), [
    ...language,
    ...['attn.qkv', 'attn.proj', 'mlp.linear_fc1', 'mlp.linear_fc2'],
  ]);
  t.deepEqual(targets({ finetuneVisionLayers: true, targetModules: ['q_proj'] }), ['q_proj']);
});

test('options that say where adapters go leave something, and go with a new adapter', (t) => {
  const off = { finetuneVisionLayers: false, finetuneLanguageLayers: false };
  t.regex(
    message(off),
    /finetuneVisionLayers and finetuneLanguageLayers are both off: nothing of the model would get an adapter/,
  );
  t.regex(
    message({ finetuneAttentionModules: false, finetuneMlpModules: false }),
    /finetuneAttentionModules and finetuneMlpModules are both off: nothing of the layers/,
  );
  t.regex(message({ adapter: 'a', finetuneMlpModules: false }), /adapter and finetuneMlpModules exclude each other/);
  t.regex(message({ fullFinetuning: true, finetuneLanguageLayers: false }), /fullFinetuning and finetuneLanguageLayers exclude/);
  t.is(message({ fullFinetuning: true, finetuneVisionLayers: false }), 'no error', 'it keeps the tower as it is');
});

test('sizes of images and of what is kept of them are checked', (t) => {
  t.is(resolveTrainArgs(LEAST).visionCache, 2e9);
  t.is(resolveTrainArgs({ ...LEAST, visionCache: '512MiB' }).visionCache, 2 ** 29);
  t.is(resolveTrainArgs({ ...LEAST, visionCache: 0 }).visionCache, 0);
  t.regex(message({ visionCache: -1 }), /visionCache: expected a size such as .*, or 0, got -1/);
  t.regex(message({ imageMinPixels: 10, imageMaxPixels: 9 }), /imageMinPixels: expected at most imageMaxPixels \(9\), got 10/);
  t.regex(message({ videoMinFrames: 5, videoMaxFrames: 4 }), /videoMinFrames: expected at most videoMaxFrames \(4\), got 5/);
  t.regex(message({ videoMinPixels: 10, videoMaxPixels: 9 }), /videoMinPixels: expected at most videoMaxPixels \(9\), got 10/);
  t.regex(message({ videoFps: 0 }), /videoFps: expected .*0\.001/);
  t.regex(message({ imageProcessor: 'cv2' }), /imageProcessor: expected torchvision or pil, got "cv2"/);
});
