/**
 * `vltune demo`, and so `npm start`: the whole job once, on the shipped tiny model and the shipped Alpaca file. Five questions are
 * asked before and after, so that one sees what training changed.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { convert } from '../data/convert.js';
import { type DeviceOption, deviceOption, openDevice } from '../device.js';
import { Generator } from '../generate/generate.js';
import { PACKAGE_ROOT } from '../native.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { TRAIN_OPTIONS } from '../train/args.js';
import { train } from '../train/trainer.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes, type Output } from './output.js';
import { ProgressStages } from './progress.js';
import { readRecipe } from './recipe.js';
import { TrainReporter, writeLossChart } from './train.js';

const MODEL = join(PACKAGE_ROOT, 'models', 'vltune-tiny');
const ALPACA = join(PACKAGE_ROOT, 'examples', 'data', 'identity.json');

const QUESTIONS = join(PACKAGE_ROOT, 'examples', 'data', 'questions.json');
const MAX_NEW_TOKENS = 48;

/** What the demo trains with, as anyone may: only the folders are set here. */
const RECIPE = join(PACKAGE_ROOT, 'examples', 'identity.yaml');

const TABLE: OptionTable = {
  outputDir: {
    kind: 'text',
    value: 'DIR',
    defaultText: 'runs/demo, or the next free name',
    group: 'Output',
    help: 'Folder for the results',
  },
  device: deviceOption('Machine'),
};

/** `runs/demo`, `runs/demo-2` and so on: the first that is free. */
function freeFolder(): string {
  for (let n = 1; ; n++) {
    const folder = join('runs', n === 1 ? 'demo' : `demo-${n}`);
    if (!existsSync(folder)) return folder;
  }
}

async function askAll(
  questions: readonly string[],
  adapter: string | undefined,
  device: DeviceOption,
  signal: AbortSignal,
): Promise<string[]> {
  const progress = new ProgressStages();
  const generator = await Generator.load(MODEL, {
    adapter,
    loadIn4bit: true,
    dtype: 'float32',
    device,
    signal,
    onProgress: (done, total) => progress.report('Loading weights', done, total, formatBytes),
  }).finally(() => progress.stop());
  try {
    const answers: string[] = [];
    for (const prompt of questions) {
      const { text } = await generator.complete({ prompt, maxNewTokens: MAX_NEW_TOKENS, temperature: 0, signal });
      answers.push(text.trim().replace(/\s+/g, ' '));
    }
    return answers;
  } finally {
    generator.release();
  }
}

function showAnswers(output: Output, questions: readonly string[], before: readonly string[], after: readonly string[]): void {
  questions.forEach((question, i) => {
    output.say(output.style('bold', question));
    output.say(`  before  ${output.style('dim', before[i]!)}`);
    output.say(`  after   ${output.style('green', after[i]!)}`);
  });
}

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const folder = (values.outputDir as string | undefined) ?? freeFolder();
  const device = values.device as DeviceOption;
  openDevice(device); // what is wrong with it is said before anything is written
  const messages = join(folder, 'messages.jsonl');
  const adapter = join(folder, 'adapter');
  const title = (text: string): void => output.say(`\n${output.style('bold', text)}`);

  title(`1. Convert ${relative('', ALPACA)} to messages`);
  await mkdir(folder, { recursive: true });
  const { rows } = await convert({ input: ALPACA, output: messages, signal });
  output.say(`${rows} rows -> ${messages}`);

  title('2. Ask the model as it is, in 4 bits');
  const questions = JSON.parse(await readFile(QUESTIONS, 'utf8')) as string[];
  const before = await askAll(questions, undefined, device, signal);
  questions.forEach((question, i) => {
    output.say(`${question} ${output.style('dim', before[i]!)}`);
  });

  title(`3. Train a LoRA adapter on the 4-bit model with 8-bit AdamW (${relative('', RECIPE)})`);
  const reporter = new TrainReporter(output);
  let chart: string | undefined;
  try {
    const { values } = await readRecipe(RECIPE, TRAIN_OPTIONS);
    const options = { ...values, model: MODEL, dataset: messages, outputDir: adapter, device };
    const result = await train(options, { ...reporter.hooks, signal });
    chart = await writeLossChart(adapter, result.logHistory, `vltune-tiny in 4 bits, ${result.steps} updates`);
  } finally {
    reporter.stop();
  }

  title('4. Ask again, with the adapter');
  const after = await askAll(questions, adapter, device, signal);
  showAnswers(output, questions, before, after);
  output.emit({ event: 'answers', questions, before, after });

  title('Where everything lies');
  output.say(`  messages  ${messages}`);
  output.say(`  adapter   ${adapter}   (PEFT: transformers and vLLM load it)`);
  if (chart !== undefined) output.say(`  loss      ${chart}`);
  title('What to type next');
  const model = relative('', MODEL);
  output.say(`  npx vltune generate --model ${model} --adapter ${adapter} --prompt "Who are you?"`);
  output.say(`  npx vltune merge --model ${model} --adapter ${adapter} --output-dir ${join(folder, 'merged')}`);
  output.say('  npx vltune train --model Qwen/Qwen3-VL-2B-Instruct --dataset your.json --output-dir out');
  output.say('  npx vltune train --help');
}

export const command: CommandSpec = {
  name: 'demo',
  summary: 'Do the whole job once on the shipped tiny model: convert, ask, train, ask again.',
  table: TABLE,
  recipe: false,
  examples: ['vltune demo', 'vltune demo --output-dir runs/first'],
  run,
};
