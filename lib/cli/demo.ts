/**
 * `vltune demo`, and so `npm start`: the whole job once, on the shipped tiny model and the shipped Alpaca file. The same questions are asked
 * before and after, so that one sees what training on text changed, and that sight stayed.
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { convert } from '../data/convert.js';
import { type DeviceOption, deviceOption, openDevice } from '../device.js';
import { writeFileAtomic } from '../files.js';
import { PACKAGE_ROOT } from '../native.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { type Accuracy, QUESTIONS_FILE, type QuestionEntry } from '../report/questions.js';
import { writeReport } from '../report/report.js';
import { TRAIN_OPTIONS } from '../train/args.js';
import { train } from '../train/trainer.js';
import type { CommandContext, CommandSpec } from './command.js';
import { ask, demoQuestions, judged } from './demo_questions.js';
import { formatCount, formatTable, type Output } from './output.js';
import { readRecipe } from './recipe.js';
import { TrainReporter, writeLossChart } from './train.js';

const MODEL = join(PACKAGE_ROOT, 'models', 'vltune-tiny');
const ALPACA = join(PACKAGE_ROOT, 'examples', 'data', 'identity.json');

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

function sayAnswers(output: Output, { question, alt, before, after, rightBefore, rightAfter }: QuestionEntry): void {
  const mark = (right: boolean | undefined): string => (right === undefined ? '' : right ? '  ✓' : '  ✗');
  const picture = alt === undefined ? '' : output.style('dim', `[picture: ${alt}] `);
  output.say(`${picture}${output.style('bold', question)}`);
  output.say(`  before  ${output.style('dim', before)}${mark(rightBefore)}`);
  output.say(`  after   ${output.style('green', after)}${mark(rightAfter)}`);
}

/** One question of each group, then right answers by group. */
function saySight(output: Output, entries: readonly QuestionEntry[], accuracies: readonly Accuracy[]): void {
  for (const name of new Set(entries.map(({ group }) => group))) sayAnswers(output, entries.find(({ group }) => group === name)!);
  const row = ({ group, asked, before, after }: Accuracy): string[] => [
    group ?? 'all',
    ...[asked, before, after].map(formatCount),
  ];
  output.say(`\n${formatTable(['pictures', 'asked', 'right before', 'right after'], accuracies.map(row), [1, 2, 3])}`);
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
  const questions = await demoQuestions(MODEL);
  const pictures = questions.filter(({ picture }) => picture !== undefined).length;
  const before = await ask(questions, { model: MODEL, device, signal });
  questions.forEach(({ question, picture }, i) => {
    if (picture === undefined) output.say(`${question} ${output.style('dim', before[i]!)}`);
  });
  if (pictures > 0) output.say(`and ${formatCount(pictures)} questions about pictures, answered below`);

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
  const after = await ask(questions, { model: MODEL, adapter, device, signal });
  const entries = judged(questions, before, after);
  const texts = entries.filter(({ image }) => image === undefined);
  for (const entry of texts) sayAnswers(output, entry);
  output.emit({
    event: 'answers',
    questions: texts.map(({ question }) => question),
    before: texts.map((entry) => entry.before),
    after: texts.map((entry) => entry.after),
  });
  await writeFileAtomic(join(adapter, QUESTIONS_FILE), `${JSON.stringify(entries, null, 1)}\n`);
  const report = await writeReport({ folder: adapter });
  output.emit({ event: 'report', ...report });
  if (pictures > 0) {
    title('5. And what does it see, after training on text alone?');
    saySight(output, entries.slice(texts.length), report.accuracies);
  }

  title('Where everything lies');
  output.say(`  messages  ${messages}`);
  output.say(`  adapter   ${adapter}   (PEFT: transformers and vLLM load it)`);
  if (chart !== undefined) output.say(`  loss      ${chart}`);
  output.say(`  report    ${report.output}   (open it in a browser)`);
  title('What to type next');
  const model = relative('', MODEL);
  output.say(`  npx vltune generate --model ${model} --adapter ${adapter} --prompt "Who are you?"`);
  output.say(`  npx vltune merge --model ${model} --adapter ${adapter} --output-dir ${join(folder, 'merged')}`);
  output.say('  npx vltune train --model Qwen/Qwen3-VL-2B-Instruct --dataset your.json --output-dir out');
  output.say('  npx vltune train --help');
}

export const command: CommandSpec = {
  name: 'demo',
  summary: 'Do the whole job once on the shipped tiny model: convert, ask, train, ask again, report.',
  table: TABLE,
  recipe: false,
  examples: ['vltune demo', 'vltune demo --output-dir runs/first'],
  run,
};
