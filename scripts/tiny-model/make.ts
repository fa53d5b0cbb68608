/**
 * Makes models/vltune-tiny, the model that this project ships, from nothing: a corpus, a tokenizer, random weights, vltune's own full
 * fine-tuning, and a measure of what was learned. Everything is seeded. `npm run tiny-model -- --help` lists the options.
 */
import { existsSync, readdirSync } from 'node:fs';
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type TrainOptions, train, VltuneError } from '../../lib/index.js';
import { type TensorEntry, writeCheckpoint } from '../../lib/weights/safetensors.js';
import { addedTokenIds, tokenizerJson, trainBpe } from './bpe.js';
import { type Corpus, makeCorpus } from './corpus.js';
import {
  chatTemplate,
  configJson,
  generationConfigJson,
  PREPROCESSOR_CONFIG,
  SIZES,
  tokenizerConfigJson,
  VIDEO_PREPROCESSOR_CONFIG,
} from './files.js';
import { initialTensors } from './init.js';
import { measure, modelCard } from './measure.js';
import { recipeWords, tokenizerTexts } from './recipe.js';
import { RUN, SEED } from './settings.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const STAGES: readonly string[] = ['prepare', 'train', 'all'];

const HELP = `Usage: npm run tiny-model -- [options]

  --work DIR      where the corpus, the start and the checkpoints go (default: runs/tiny-model)
  --output DIR    where the model goes (default: models/vltune-tiny)
  --until STAGE   prepare | train | all (default: all); a stage that is done is not done again
  --help          this text
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      work: { type: 'string', default: join(ROOT, 'runs/tiny-model') },
      output: { type: 'string', default: join(ROOT, 'models/vltune-tiny') },
      until: { type: 'string', default: 'all' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const { work, output, until } = values;
  if (!STAGES.includes(until)) throw new VltuneError('ERR_USAGE', `--until: expected one of ${STAGES.join(', ')}, got ${until}`);
  const corpus = makeCorpus({ seed: SEED, rows: RUN.rows, words: recipeWords(ROOT) });
  const start = join(work, 'start');
  const trained = join(work, 'trained');
  if (!existsSync(join(start, 'model.safetensors'))) await prepare(corpus, work, start);
  if (until === 'prepare') return;
  if (!existsSync(join(trained, 'model.safetensors'))) await trainModel(work, start, trained);
  if (until === 'train') return;
  await ship(trained, output);
  const results = await measure(output, corpus);
  await writeFile(join(output, 'README.md'), modelCard(results));
  const wrong = results.flatMap((result) => result.wrong);
  await writeFile(join(work, 'wrong.json'), `${JSON.stringify(wrong, null, 1)}\n`);
  process.stderr.write(`${output}\n`);
}

/** Corpus and tokenizer, the config files and the weights to start from. */
async function prepare(corpus: Corpus, work: string, start: string): Promise<void> {
  await mkdir(start, { recursive: true });
  await writeFile(join(work, 'train.jsonl'), `${corpus.rows.map((row) => JSON.stringify(row)).join('\n')}\n`);
  await writeFile(join(work, 'held-out.json'), `${JSON.stringify(corpus.heldOut, null, 1)}\n`);

  const bpe = trainBpe(tokenizerTexts(corpus, ROOT), SIZES.vocab);
  const ids = addedTokenIds(bpe);
  const json = (name: string, value: object) => writeFile(join(start, name), `${JSON.stringify(value, null, 2)}\n`);
  await Promise.all([
    json('tokenizer.json', tokenizerJson(bpe)),
    json('tokenizer_config.json', tokenizerConfigJson(ids)),
    json('config.json', configJson(ids, 'float32')),
    json('generation_config.json', generationConfigJson(ids)),
    json('preprocessor_config.json', PREPROCESSOR_CONFIG),
    json('video_preprocessor_config.json', VIDEO_PREPROCESSOR_CONFIG),
    writeFile(join(start, 'chat_template.jinja'), chatTemplate(ROOT)),
  ]);
  await writeCheckpoint(
    start,
    initialTensors(SEED).map(({ name, shape, data }): TensorEntry => ({ name, dtype: 'F32', shape, data })),
  );
}

/** Trains every weight of the language model; goes on from the newest checkpoint where a run was stopped. */
async function trainModel(work: string, start: string, trained: string): Promise<void> {
  const options: TrainOptions = {
    model: start,
    dataset: join(work, 'train.jsonl'),
    outputDir: trained,
    fullFinetuning: true,
    loadIn4bit: false,
    dtype: 'bfloat16',
    maxLength: RUN.length,
    perDeviceTrainBatchSize: RUN.batch,
    gradientAccumulationSteps: 1,
    numTrainEpochs: RUN.epochs,
    learningRate: RUN.learningRate,
    lrSchedulerType: 'cosine',
    warmupSteps: 100,
    optim: 'adamw_torch',
    weightDecay: 0.01,
    adamBeta2: 0.98,
    seed: SEED,
    device: 'cpu', // the shipped bytes are the CPU's
    loggingSteps: 20,
    saveSteps: 400,
    saveTotalLimit: 1,
    resumeFromCheckpoint: existsSync(trained) && readdirSync(trained).some((name) => name.startsWith('checkpoint-')),
  };
  await train(options, {
    onEvent: (event) => process.stderr.write(`${JSON.stringify(event)}\n`),
  });
}

/** The files of a model folder; what else a run leaves (checkpoints, its log) stays where it is. */
const MODEL_FILES = [
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'preprocessor_config.json',
  'video_preprocessor_config.json',
];

async function ship(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true });
  await mkdir(to, { recursive: true });
  for (const name of MODEL_FILES) await copyFile(join(from, name), join(to, name));
}

await main();
