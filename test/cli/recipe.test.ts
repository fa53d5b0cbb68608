import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { readRecipe } from '../../lib/cli/recipe.js';
import { resolveTrainArgs, TRAIN_OPTIONS, type TrainOptions } from '../../lib/train/args.js';
import { ALPACA, jsonLines, MODEL, scratch, vltune } from './run.js';

test('names are snake or kebab case, and no_ turns a flag off', async (t) => {
  const path = join(await scratch(t), 'r.yaml');
  await writeFile(
    path,
    'learning_rate: 2e-5\nmax-steps: 3\nno_packing: true\ndataset: [a, b]\nload_in_4bit: false\nsave_strategy: no\n',
  );
  const { values } = await readRecipe(path, TRAIN_OPTIONS);
  t.deepEqual(values, {
    learningRate: 2e-5,
    maxSteps: 3,
    packing: false,
    dataset: ['a', 'b'],
    loadIn4bit: false,
    saveStrategy: 'no',
  });
});

test('a broken recipe is refused with file, line and column', async (t) => {
  const folder = await scratch(t);
  const recipe = async (text: string | Uint8Array): Promise<string> => {
    const path = join(folder, 'r.yaml');
    await writeFile(path, text);
    return path;
  };
  const refused = async (text: string | Uint8Array, message: RegExp): Promise<void> => {
    await t.throwsAsync(readRecipe(await recipe(text), TRAIN_OPTIONS), { code: 'ERR_USAGE', message });
  };
  await refused('model: a\n  max_steps: 3\n', /r\.yaml:\d+:\d+: not valid YAML/);
  await refused('model: a\nmodel: b\n', /r\.yaml:2:1: not valid YAML: Map keys must be unique/);
  await refused('model: a\nmax_steps: 1\nmax-steps: 2\n', /max_steps and max-steps are the same option/);
  await refused('- a\n- b\n', /expected options/);
  await refused('', /expected options, one 'name: value' a line, got nothing/);
  await refused(new Uint8Array([0x6d, 0xff, 0xfe]), /not valid UTF-8/);
  await t.throwsAsync(readRecipe(join(folder, 'none.yaml'), TRAIN_OPTIONS), {
    code: 'ERR_NOT_FOUND',
    message: /none\.yaml: no such recipe/,
  });
  await t.throwsAsync(readRecipe(folder, TRAIN_OPTIONS), { code: 'ERR_USAGE', message: /found a folder/ });
});

test('all that is wrong in a recipe and on the command line is told at once, each by the name it was given', async (t) => {
  const path = join(await scratch(t), 'r.yaml');
  await writeFile(path, 'model: m\nlearning_rat: 1\nmax_steps: many\n');
  const { code, stderr } = await vltune(['train', path, '--seed', '-1', '--dataset', 'd', '--output-dir', 'o']);
  t.is(code, 2);
  t.regex(stderr, /^vltune: 3 options are wrong:$/m);
  t.regex(stderr, /r\.yaml: learning_rat: unknown option; did you mean --learning-rate\?/);
  t.regex(stderr, /r\.yaml: max_steps: expected an integer from 1 to 1000000000 or -1, got "many"/);
  t.regex(stderr, /--seed: expected an integer from 0 to 4294967295, got -1/);
});

test('the command line goes before the recipe', async (t) => {
  const folder = await scratch(t);
  const path = join(folder, 'r.yaml');
  await writeFile(path, `model: ${MODEL}\ndataset: ${ALPACA}\nmax_length: 64\nmax_steps: 7\nlearning-rate: 1e-3\n`);
  const { code, stdout, stderr } = await vltune(['plan', path, '--max-steps', '3', '--json']);
  t.is(code, 0, stderr);
  t.is(jsonLines(stdout)[0]!.steps, 3);
});

test('the shipped recipe is the seed recipe, which the defaults are too', async (t) => {
  const { values } = await readRecipe('examples/recipe.yaml', TRAIN_OPTIONS);
  const { model, dataset, outputDir } = values as unknown as TrainOptions;
  const { saveTotalLimit, ...recipe } = resolveTrainArgs(values as unknown as TrainOptions);
  const { saveTotalLimit: keepsAll, ...defaults } = resolveTrainArgs({ model, dataset, outputDir });
  t.deepEqual(recipe, defaults);
  t.is(saveTotalLimit, 1);
  t.is(keepsAll, undefined);
});
