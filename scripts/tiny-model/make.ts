/**
 * Makes models/vltune-tiny, the model that this project ships, from nothing: a corpus, drawn pictures, a tokenizer, random weights, vltune's
 * own full fine-tuning, and a measure of what was learned. Everything is seeded. `npm run tiny-model -- --help` lists the options.
 */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { mapBounded } from '../../lib/async.js';
import { type DeviceOption, type TrainOptions, train, VltuneError } from '../../lib/index.js';
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
import { measureSight } from './measure_sight.js';
import { askedPictures } from './pictures.js';
import { recipeWords, tokenizerTexts } from './recipe.js';
import { BATCH, PART, PICTURES, type PictureSetName, SEED, SEVERAL, STAGES, type Stage, TEXT_ROWS } from './settings.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const GOALS: readonly string[] = ['prepare', 'train', 'all'];

/** Training rows in the work folder: of text alone, and with a picture each. */
const textsFile = (rows: number): string => `texts-${rows}.jsonl`;
const picturesFile = (set: PictureSetName, part: number): string => `pictures-${set}-${part}.jsonl`;
const partsOf = (set: PictureSetName): number[] =>
  Array.from({ length: Math.ceil(PICTURES[set].count / PART) }, (_, part) => part);

const HELP = `Usage: npm run tiny-model -- [options]

  --work DIR      where corpus, pictures, start and checkpoints go (default: runs/tiny-model)
  --output DIR    where the model goes (default: models/vltune-tiny)
  --until GOAL    prepare | train | all (default: all); what is done is not done again
  --device DEVICE what trains: cpu | cuda | auto (default: auto); each gives the same bytes every time, but not the other's
  --help          this text
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      work: { type: 'string', default: join(ROOT, 'runs/tiny-model') },
      output: { type: 'string', default: join(ROOT, 'models/vltune-tiny') },
      until: { type: 'string', default: 'all' },
      device: { type: 'string', default: 'auto' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const { work, output, until } = values;
  const device = values.device as DeviceOption;
  if (!GOALS.includes(until)) throw new VltuneError('ERR_USAGE', `--until: expected one of ${GOALS.join(', ')}, got ${until}`);
  const corpus = makeCorpus({ seed: SEED, rows: TEXT_ROWS, words: recipeWords(ROOT) });
  const start = join(work, 'start');
  if (!existsSync(join(start, 'model.safetensors'))) await prepare(corpus, work, start);
  if (until === 'prepare') return;
  let trained = start;
  for (const [i, stage] of STAGES.entries()) {
    const before = trained;
    trained = join(work, `stage-${i + 1}`);
    if (!existsSync(join(trained, 'model.safetensors'))) await trainModel(stage, work, before, trained, device);
  }
  if (until === 'train') return;
  await ship(trained, output);
  const known = await measure(output, corpus);
  const sight = await measureSight(output);
  await writeFile(join(output, 'README.md'), modelCard(known, sight));
  const wrong = [...known.flatMap((result) => result.wrong), ...sight.wrong];
  await writeFile(join(work, 'wrong.json'), `${JSON.stringify(wrong, null, 1)}\n`);
  process.stderr.write(`${output}\n`);
}

/** Corpus, pictures and tokenizer, the config files and the weights to start from. */
async function prepare(corpus: Corpus, work: string, start: string): Promise<void> {
  await mkdir(start, { recursive: true });
  await writeFile(join(work, 'held-out.json'), `${JSON.stringify(corpus.heldOut, null, 1)}\n`);
  for (const count of new Set(STAGES.map(({ textRows }) => textRows))) {
    const rows = corpus.rows.slice(0, count);
    await writeFile(join(work, textsFile(count)), `${rows.map((row) => JSON.stringify(row)).join('\n')}\n`);
  }
  await drawPictures(work);

  const bpe = trainBpe(tokenizerTexts(corpus, askedPictures(SEVERAL), ROOT), SIZES.vocab);
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

/** Draws the pictures of all stages, a part to a process and a process to a core. */
async function drawPictures(work: string): Promise<void> {
  const program = fileURLToPath(new URL('./draw_part.js', import.meta.url));
  const parts = [...new Set(STAGES.flatMap(({ pictures }) => pictures))].flatMap((set) =>
    partsOf(set).map((part) => ({ set, part })),
  );
  const missing = parts.filter(({ set, part }) => !existsSync(join(work, picturesFile(set, part))));
  await mapBounded(missing, availableParallelism(), ({ set, part }) =>
    promisify(execFile)(process.execPath, [program, set, String(part), join(work, picturesFile(set, part))]),
  );
}

/** Trains every weight, those of the vision tower too; goes on from the newest checkpoint where a run was stopped. */
async function trainModel(stage: Stage, work: string, start: string, trained: string, device: DeviceOption): Promise<void> {
  const pictures = stage.pictures.flatMap((set) => partsOf(set).map((part) => picturesFile(set, part)));
  const files = [textsFile(stage.textRows), ...pictures];
  const options: TrainOptions = {
    model: start,
    dataset: files.map((name) => join(work, name)),
    outputDir: trained,
    fullFinetuning: true,
    finetuneVisionLayers: true,
    loadIn4bit: false,
    dtype: 'bfloat16',
    maxLength: BATCH.length,
    perDeviceTrainBatchSize: BATCH.batch,
    gradientAccumulationSteps: 1,
    maxSteps: stage.updates,
    learningRate: stage.learningRate,
    lrSchedulerType: stage.scheduler,
    warmupSteps: stage.warmup,
    optim: 'adamw_torch',
    weightDecay: 0.01,
    adamBeta2: 0.98,
    seed: stage.seed,
    device,
    loggingSteps: 100,
    saveSteps: 1000,
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
