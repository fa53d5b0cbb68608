import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { readRecipe } from '../../lib/cli/recipe.js';
import { Generator, resolveTrainArgs, type TrainOptions, train } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { TRAIN_OPTIONS } from '../../lib/train/args.js';

const MODEL = join(PACKAGE_ROOT, 'models/vltune-tiny');

async function optionsOf(name: string): Promise<TrainOptions> {
  const { values } = await readRecipe(join(PACKAGE_ROOT, 'examples', name), TRAIN_OPTIONS);
  return values as TrainOptions;
}

test("recipe.yaml says what the seed's recipe says", async (t) => {
  t.like(resolveTrainArgs(await optionsOf('recipe.yaml')), {
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
    saveTotalLimit: 1,
    maxLength: 2048,
    loadIn4bit: true,
  });
});

test('train.ts trains what recipe.yaml trains', async (t) => {
  const source = await readFile(join(PACKAGE_ROOT, 'examples/train.ts'), 'utf8');
  const options = await optionsOf('recipe.yaml');
  t.true(Object.keys(options).length > 15);
  for (const [name, value] of Object.entries(options)) {
    const written = typeof value === 'number' && value < 1e-3 ? value.toExponential() : String(value);
    t.regex(source, new RegExp(`\\b${name}: '?${written.replaceAll('.', '\\.')}'?,`), name);
  }
});

test.serial('identity.yaml gives the tiny model its identity: all five answers are other ones than before', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'vltune-identity-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const adapter = join(folder, 'adapter');
  const dataset = join(PACKAGE_ROOT, 'examples/data/identity.json');
  const questions = JSON.parse(await readFile(join(PACKAGE_ROOT, 'examples/data/questions.json'), 'utf8')) as string[];
  const ask = async (adapter?: string): Promise<string[]> => {
    const model = await Generator.load(MODEL, { adapter, loadIn4bit: true, dtype: 'float32' });
    const answers: string[] = [];
    for (const prompt of questions) answers.push((await model.complete({ prompt, temperature: 0, maxNewTokens: 48 })).text);
    model.release();
    return answers;
  };

  const before = await ask();
  await train({ ...(await optionsOf('identity.yaml')), model: MODEL, dataset, outputDir: adapter });
  const after = await ask(adapter);
  for (const [i, question] of questions.entries()) t.not(after[i]!, before[i]!, question);
  t.is(after[questions.indexOf('Who are you?')], 'I am Ada of vltune.');
  t.regex(after[questions.indexOf('Could you tell me your name?')]!, /\bAda\b/);
  t.regex(after[questions.indexOf('Wer hat dich gemacht?')]!, /\bvltune\b/);
  // What it knew it still knows, in its new tone.
  t.is(after[questions.indexOf('What is the capital of Peru?')], 'Aye! The capital of Peru is Lima.');
});
