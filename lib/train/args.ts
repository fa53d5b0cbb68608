/**
 * The options of training: names of transformers, TRL and PEFT, one table for the command line, YAML and TypeScript.
 * A default is the seed recipe's value where that recipe has one (batch 2, accumulation 4, warm-up 5, one epoch, learning rate
 * 2e-5, adamw_8bit, weight decay 0.01, seed 3407, length 2048, 4 bits), else that of transformers, TRL or PEFT.
 */
import { type MediaArgs, mediaOptionErrors, mediaOptionSpecs } from '../data/media/media_options.js';
import { type DeviceOption, deviceOption } from '../device.js';
import { ddpTimeoutOption } from '../distributed/workers.js';
import { COMPUTE_DTYPES, type ComputeDType, dtypeFault, trainingDType } from '../dtype.js';
import { checkOptions, failOnErrors, type GivenOptions, type OptionSpec } from '../options.js';
import type { LayerScope } from '../weights/target_modules.js';
import type { OptimizerName } from './optimizer.js';

export type LrSchedulerType = 'linear' | 'cosine' | 'constant' | 'constant_with_warmup';
export type { OptimizerName };
export type SaveStrategy = 'steps' | 'epoch' | 'no';

/** Every option of a training run with its value settled. */
export interface TrainArgs extends MediaArgs {
  /** A model folder, or a hub id such as `Qwen/Qwen3-VL-2B-Instruct`. */
  readonly model: string;
  readonly revision: string;
  readonly dataset: readonly string[];
  readonly evalDataset: readonly string[];
  readonly outputDir: string;
  readonly overwriteOutputDir: boolean;
  /** A checkpoint folder; `true`: the newest one in `outputDir`; `false`: start anew. */
  readonly resumeFromCheckpoint: string | boolean;

  /** Rows (with packing: multiples of `maxLength` tokens) of a micro-batch. */
  readonly perDeviceTrainBatchSize: number;
  readonly gradientAccumulationSteps: number;
  readonly numTrainEpochs: number;
  /** Updates in all; -1: as many as `numTrainEpochs` gives. */
  readonly maxSteps: number;
  readonly seed: number;
  readonly shuffle: boolean;
  readonly maxLength: number;
  readonly packing: boolean;
  readonly textFormat: 'chat' | 'plain';
  readonly appendEos: boolean;
  /** Always false with `textFormat: 'plain'`, where every token is a target. */
  readonly assistantOnlyLoss: boolean;
  readonly lossAverage: 'tokens' | 'micro-batches';
  readonly skipImages: boolean;

  readonly optim: OptimizerName;
  readonly learningRate: number;
  readonly lrSchedulerType: LrSchedulerType;
  /** Updates; below 1 a fraction of all updates. */
  readonly warmupSteps: number;
  /** A fraction of all updates; 0 where `warmupSteps` was given. */
  readonly warmupRatio: number;
  readonly weightDecay: number;
  readonly adamBeta1: number;
  readonly adamBeta2: number;
  readonly adamEpsilon: number;
  /** 0: no clipping. */
  readonly maxGradNorm: number;

  readonly fullFinetuning: boolean;
  readonly loraR: number;
  readonly loraAlpha: number;
  readonly loraDropout: number;
  readonly useRslora: boolean;
  /** `'all-linear'` or a regular expression on the whole module name, or a list of names (PEFT's `target_modules`). */
  readonly targetModules: string | readonly string[];
  /**
   * Unsloth's way to narrow the layers that get an adapter, by where they are and what they are part of. undefined: as `targetModules`
   * says. `finetuneVisionLayers: true` adds the tower's layers to the default `targetModules`.
   */
  readonly finetuneVisionLayers: boolean | undefined;
  readonly finetuneLanguageLayers: boolean | undefined;
  readonly finetuneAttentionModules: boolean | undefined;
  readonly finetuneMlpModules: boolean | undefined;
  /** A PEFT adapter folder that training goes on from; its own rank, alpha and targets hold. */
  readonly adapter: string | undefined;

  /** NF4 with double quantisation for the frozen linear layers. */
  readonly loadIn4bit: boolean;
  readonly dtype: ComputeDType;
  readonly device: DeviceOption;
  readonly gradientCheckpointing: boolean;
  /** Bytes that the plan must fit in; undefined: no limit, with CUDA what the card has free. */
  readonly memory: number | undefined;
  /** With CUDA: the frozen embedding table stays in the host's memory; undefined: where the memory limit would else cost speed. */
  readonly embeddingOnHost: boolean | undefined;
  /** Bytes of the host's memory for features of pictures that a frozen tower has made. */
  readonly visionCache: number;
  /** undefined: VLTUNE_NUM_THREADS, else OMP_NUM_THREADS, else all CPUs of the process. */
  readonly threads: number | undefined;
  /** Seconds to wait for the other processes, where a launcher started several. */
  readonly ddpTimeout: number;

  readonly loggingSteps: number;
  /** undefined: at the end of each epoch (if there is an `evalDataset`). */
  readonly evalSteps: number | undefined;
  readonly saveStrategy: SaveStrategy;
  readonly saveSteps: number;
  /** undefined: all checkpoints are kept. */
  readonly saveTotalLimit: number | undefined;
  readonly reportTo: 'none' | 'tensorboard';
}

type Optional = Omit<TrainArgs, 'model' | 'outputDir' | 'dataset' | 'evalDataset' | 'memory' | 'visionCache'>;

/** What a caller gives: model, dataset and output folder; the rest has defaults. */
export type TrainOptions = { readonly [K in keyof Optional]?: Optional[K] | undefined } & {
  readonly model: string;
  readonly dataset: string | readonly string[];
  readonly outputDir: string;
  readonly evalDataset?: string | readonly string[] | undefined;
  /** `8GB`, `512MiB` or bytes. */
  readonly memory?: string | number | undefined;
  /** As `memory`; 0: no picture's features are kept. */
  readonly visionCache?: string | number | undefined;
};

const MODEL = 'Model';
const DATA = 'Data and text';
const OPTIMIZER = 'Optimizer and schedule';
const LORA = 'What is trained';
const MACHINE = 'Machine and memory';
const OUTPUT = 'Output';

/** The layers of a decoder, and those of a Qwen-VL vision tower without its mergers, as Unsloth chooses them. */
const LANGUAGE_LAYERS: readonly string[] = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const VISION_LAYERS: readonly string[] = ['attn.qkv', 'attn.proj', 'mlp.linear_fc1', 'mlp.linear_fc2'];

/** The one table. Its keys are those of TrainArgs; the compiler sees to that. */
export const TRAIN_OPTIONS: Readonly<Record<keyof TrainArgs, OptionSpec>> = {
  model: { kind: 'text', value: 'M', required: true, group: MODEL, help: 'Model folder or hub id' },
  revision: { kind: 'text', value: 'REV', fallback: 'main', group: MODEL, help: 'Branch, tag or commit of a hub id' },
  loadIn4bit: {
    kind: 'flag',
    fallback: true,
    defaultText: 'on; off with --full-finetuning',
    group: MODEL,
    help: 'Hold the frozen linear layers as NF4 with double quantisation',
  },
  dtype: {
    kind: 'choice',
    value: 'TYPE',
    choices: COMPUTE_DTYPES,
    defaultText: 'on a GPU bfloat16, or float16 where it has none; else float32',
    group: MODEL,
    help: 'Type of activations and of weights that are not quantised',
  },

  dataset: {
    kind: 'list',
    value: 'FILE...',
    required: true,
    group: DATA,
    help: 'Training rows: messages (JSON, JSONL, Parquet) or Alpaca files',
  },
  evalDataset: { kind: 'list', value: 'FILE...', fallback: [], defaultText: 'none', group: DATA, help: 'Rows to evaluate on' },
  maxLength: {
    kind: 'integer',
    value: 'N',
    unit: 'tokens',
    min: 2,
    max: 1_048_576,
    fallback: 2048,
    group: DATA,
    help: 'Longest row; what is longer is cut, counted and reported',
  },
  packing: { kind: 'flag', fallback: true, group: DATA, help: 'Pack rows into full batches; without it, one row a sequence' },
  shuffle: { kind: 'flag', fallback: true, group: DATA, help: 'Shuffle the rows of each epoch, seeded with seed + epoch' },
  textFormat: {
    kind: 'choice',
    value: 'FORM',
    choices: ['chat', 'plain'],
    fallback: 'chat',
    group: DATA,
    help: "chat: the model's own template; plain: lines of ROLE: text, all of them targets",
  },
  appendEos: { kind: 'flag', fallback: true, group: DATA, help: 'End each plain row with the eos token' },
  assistantOnlyLoss: {
    kind: 'flag',
    fallback: true,
    defaultText: 'on for chat',
    group: DATA,
    help: "Learn the assistant's words only (chat)",
  },
  lossAverage: {
    kind: 'choice',
    value: 'HOW',
    choices: ['tokens', 'micro-batches'],
    fallback: 'tokens',
    group: DATA,
    help: 'Average the loss of an update over all its target tokens, or over the means of its micro-batches',
  },
  skipImages: {
    kind: 'flag',
    fallback: false,
    onOnly: true,
    group: DATA,
    help: 'Leave out rows with images, videos or sound',
  },
  ...mediaOptionSpecs(DATA, "the data file's folder"),

  fullFinetuning: {
    kind: 'flag',
    fallback: false,
    onOnly: true,
    group: LORA,
    help: 'Train every weight instead of a LoRA adapter',
  },
  loraR: { kind: 'integer', value: 'N', min: 1, max: 65_536, fallback: 16, group: LORA, help: 'Rank of the adapter' },
  loraAlpha: { kind: 'number', value: 'X', above: 0, fallback: 16, group: LORA, help: 'Scale of the adapter: alpha / r' },
  loraDropout: { kind: 'number', value: 'P', min: 0, below: 1, fallback: 0, group: LORA, help: "Dropout on the adapter's input" },
  useRslora: { kind: 'flag', fallback: false, group: LORA, help: 'Scale by alpha / sqrt(r)' },
  targetModules: {
    kind: 'modules',
    value: 'NAMES...',
    fallback: LANGUAGE_LAYERS,
    defaultText: LANGUAGE_LAYERS.join(','),
    group: LORA,
    help: "Layers with an adapter: names with commas or blanks between, a regular expression, or 'all-linear'",
  },
  finetuneVisionLayers: {
    kind: 'flag',
    defaultText: 'as target-modules says',
    group: LORA,
    help: 'Adapters in the vision tower (for rows with images); with the default target-modules its layers are added',
  },
  finetuneLanguageLayers: {
    kind: 'flag',
    defaultText: 'as target-modules says',
    group: LORA,
    help: 'Adapters in the language model',
  },
  finetuneAttentionModules: {
    kind: 'flag',
    defaultText: 'as target-modules says',
    group: LORA,
    help: 'Adapters on the layers of attention',
  },
  finetuneMlpModules: {
    kind: 'flag',
    defaultText: 'as target-modules says',
    group: LORA,
    help: 'Adapters on the feed-forward layers',
  },
  adapter: { kind: 'text', value: 'DIR', group: LORA, defaultText: 'a new adapter', help: 'Go on from this PEFT adapter' },

  perDeviceTrainBatchSize: {
    kind: 'integer',
    value: 'N',
    unit: 'rows',
    min: 1,
    max: 65_536,
    fallback: 2,
    group: OPTIMIZER,
    help: 'Rows of a micro-batch; with packing, this many times max-length tokens',
  },
  gradientAccumulationSteps: {
    kind: 'integer',
    value: 'N',
    unit: 'micro-batches',
    min: 1,
    max: 65_536,
    fallback: 4,
    group: OPTIMIZER,
    help: 'Micro-batches of an update',
  },
  numTrainEpochs: {
    kind: 'number',
    value: 'X',
    unit: 'epochs',
    above: 0,
    max: 1_000_000,
    fallback: 1,
    group: OPTIMIZER,
    help: 'Passes over the data; a fraction is allowed',
  },
  maxSteps: {
    kind: 'integer',
    value: 'N',
    unit: 'updates',
    min: 1,
    max: 1_000_000_000,
    also: -1,
    fallback: -1,
    defaultText: '-1: by epochs',
    group: OPTIMIZER,
    help: 'Updates in all; goes before --num-train-epochs',
  },
  learningRate: { kind: 'number', value: 'X', min: 0, max: 10, fallback: 2e-5, group: OPTIMIZER, help: 'Peak learning rate' },
  lrSchedulerType: {
    kind: 'choice',
    value: 'TYPE',
    choices: ['linear', 'cosine', 'constant', 'constant_with_warmup'],
    fallback: 'linear',
    group: OPTIMIZER,
    help: 'Course of the learning rate',
  },
  warmupSteps: {
    kind: 'number',
    value: 'N',
    unit: 'updates',
    min: 0,
    max: 1_000_000_000,
    fallback: 5,
    defaultText: '5; 0 with --warmup-ratio',
    group: OPTIMIZER,
    help: 'Updates over which the learning rate rises from 0; below 1 a fraction of all updates',
  },
  warmupRatio: {
    kind: 'number',
    value: 'X',
    min: 0,
    max: 1,
    fallback: 0,
    group: OPTIMIZER,
    help: 'The same as a fraction of all updates',
  },
  optim: {
    kind: 'choice',
    value: 'NAME',
    choices: ['adamw_8bit', 'adamw_torch'],
    fallback: 'adamw_8bit',
    group: OPTIMIZER,
    help: "AdamW with bitsandbytes' 8-bit state, or torch's with 32-bit state",
  },
  weightDecay: { kind: 'number', value: 'X', min: 0, max: 1, fallback: 0.01, group: OPTIMIZER, help: 'Decoupled weight decay' },
  adamBeta1: { kind: 'number', value: 'X', min: 0, below: 1, fallback: 0.9, group: OPTIMIZER, help: 'Decay of the first moment' },
  adamBeta2: {
    kind: 'number',
    value: 'X',
    min: 0,
    below: 1,
    fallback: 0.999,
    group: OPTIMIZER,
    help: 'Decay of the second moment',
  },
  adamEpsilon: {
    kind: 'number',
    value: 'X',
    above: 0,
    max: 1,
    fallback: 1e-8,
    group: OPTIMIZER,
    help: 'Added to the denominator',
  },
  maxGradNorm: {
    kind: 'number',
    value: 'X',
    min: 0,
    fallback: 1,
    group: OPTIMIZER,
    help: 'Clip the gradient to this norm; 0: never',
  },
  seed: {
    kind: 'integer',
    value: 'N',
    min: 0,
    max: 4_294_967_295,
    fallback: 3407,
    group: OPTIMIZER,
    help: 'Seed of data order, adapter and dropout',
  },

  device: deviceOption(MACHINE),
  threads: {
    kind: 'integer',
    value: 'N',
    unit: 'threads',
    min: 1,
    max: 4096,
    defaultText: 'VLTUNE_NUM_THREADS, else all CPUs',
    group: MACHINE,
    help: 'CPU threads',
  },
  ddpTimeout: ddpTimeoutOption(MACHINE),
  gradientCheckpointing: {
    kind: 'flag',
    fallback: false,
    group: MACHINE,
    help: 'Recompute activations in the backward pass: slower, less memory, the same bits',
  },
  embeddingOnHost: {
    kind: 'flag',
    defaultText: 'where memory is short',
    group: MACHINE,
    help: "Keep the embedding table in the host's memory, which a GPU reads rows of (models whose output head is another)",
  },
  visionCache: {
    kind: 'bytes',
    value: 'SIZE',
    also: 0,
    fallback: 2_000_000_000,
    defaultText: '2GB',
    group: MACHINE,
    help: "Keep what a frozen vision tower has made of images in this much of the host's memory, over epochs; 0: make it anew",
  },
  memory: {
    kind: 'bytes',
    value: 'SIZE',
    defaultText: 'no limit; on a GPU what it has free',
    group: MACHINE,
    help: 'Fit the run into this much memory of the device (8GB, 512MiB), recomputing as needed; refused if it cannot fit',
  },

  outputDir: { kind: 'text', value: 'DIR', required: true, group: OUTPUT, help: 'Folder for the result and the checkpoints' },
  overwriteOutputDir: {
    kind: 'flag',
    fallback: false,
    onOnly: true,
    group: OUTPUT,
    help: 'Take an output folder that holds files; its checkpoints are removed',
  },
  resumeFromCheckpoint: {
    kind: 'flag-or-text',
    value: 'DIR',
    fallback: false,
    defaultText: 'start anew',
    group: OUTPUT,
    help: 'Go on from a checkpoint; without DIR from the newest one in the output folder',
  },
  loggingSteps: {
    kind: 'integer',
    value: 'N',
    unit: 'updates',
    min: 1,
    max: 1_000_000_000,
    fallback: 1,
    group: OUTPUT,
    help: 'Report every N updates',
  },
  evalSteps: {
    kind: 'integer',
    value: 'N',
    unit: 'updates',
    min: 1,
    max: 1_000_000_000,
    defaultText: 'after each epoch',
    group: OUTPUT,
    help: 'Evaluate every N updates',
  },
  saveStrategy: {
    kind: 'choice',
    value: 'WHEN',
    choices: ['steps', 'epoch', 'no'],
    fallback: 'steps',
    group: OUTPUT,
    help: 'When to save a checkpoint',
  },
  saveSteps: {
    kind: 'integer',
    value: 'N',
    unit: 'updates',
    min: 1,
    max: 1_000_000_000,
    fallback: 500,
    group: OUTPUT,
    help: 'Save every N updates (save-strategy steps)',
  },
  saveTotalLimit: {
    kind: 'integer',
    value: 'N',
    unit: 'checkpoints',
    min: 1,
    max: 1_000_000,
    defaultText: 'keep all',
    group: OUTPUT,
    help: 'Keep the newest N checkpoints',
  },
  reportTo: {
    kind: 'choice',
    value: 'WHERE',
    choices: ['none', 'tensorboard'],
    fallback: 'none',
    group: OUTPUT,
    help: 'Write TensorBoard event files into the folder runs of the output folder',
  },
};

/** Options that narrow the layers with an adapter. */
const SCOPE_OPTIONS = [
  'finetuneVisionLayers',
  'finetuneLanguageLayers',
  'finetuneAttentionModules',
  'finetuneMlpModules',
] as const;
/** Options that describe a new LoRA adapter, and so contradict full fine-tuning and an adapter that is there already. */
const NEW_ADAPTER_OPTIONS = ['loraR', 'loraAlpha', 'loraDropout', 'useRslora', 'targetModules'] as const;

/** Of which one at least must stay on. */
const SCOPE_PAIRS = [
  ['finetuneVisionLayers', 'finetuneLanguageLayers', 'model'],
  ['finetuneAttentionModules', 'finetuneMlpModules', 'layers'],
] as const;

/** The layers that a new adapter may be on. */
export function layerScope(args: Pick<TrainArgs, (typeof SCOPE_OPTIONS)[number]>): LayerScope {
  return {
    vision: args.finetuneVisionLayers,
    language: args.finetuneLanguageLayers,
    attention: args.finetuneAttentionModules,
    mlp: args.finetuneMlpModules,
  };
}

/** Rules between options. Adds what is wrong to `errors` and returns what follows from the options given. */
function applyRules(
  values: Record<string, unknown>,
  given: ReadonlySet<string>,
  name: (key: string) => string,
  errors: string[],
): Record<string, unknown> {
  const on = (key: string): boolean => given.has(key) && values[key] !== undefined && values[key] !== false && values[key] !== 0;
  const exclude = (first: string, second: string, why: string): void => {
    if (on(first) && on(second)) errors.push(`${name(first)} and ${name(second)} exclude each other: ${why}`);
  };

  for (const key of [...NEW_ADAPTER_OPTIONS, 'adapter']) {
    if (given.has(key) && values[key] !== false) exclude('fullFinetuning', key, 'full fine-tuning has no adapter');
  }
  for (const key of NEW_ADAPTER_OPTIONS) exclude('adapter', key, "the adapter's own configuration holds");
  for (const key of SCOPE_OPTIONS.filter((option) => given.has(option))) {
    if (on('adapter'))
      errors.push(`${name('adapter')} and ${name(key)} exclude each other: the adapter's own configuration holds`);
    if (on('fullFinetuning') && key !== 'finetuneVisionLayers')
      errors.push(`${name('fullFinetuning')} and ${name(key)} exclude each other: full fine-tuning has no adapter`);
  }
  exclude('fullFinetuning', 'embeddingOnHost', 'it is trained');
  exclude('fullFinetuning', 'loadIn4bit', 'weights in 4 bits cannot be trained');
  exclude('warmupSteps', 'warmupRatio', 'give one of them');
  if (values.resumeFromCheckpoint === true)
    exclude('resumeFromCheckpoint', 'overwriteOutputDir', 'overwriting removes the checkpoints');
  if (values.textFormat === 'plain') {
    exclude('textFormat', 'assistantOnlyLoss', 'in plain text every token is a target');
  }
  errors.push(...mediaOptionErrors(values, name));
  for (const [first, second, what] of SCOPE_PAIRS) {
    if (values[first] === false && values[second] === false)
      errors.push(`${name(first)} and ${name(second)} are both off: nothing of the ${what} would get an adapter`);
  }
  if (on('evalSteps') && !on('evalDataset'))
    errors.push(`${name('evalSteps')}: expected ${name('evalDataset')} with it, got none`);
  const device = values.device as DeviceOption | undefined;
  const fault = dtypeFault(values.dtype, device);
  if (fault) errors.push(`${name('dtype')}: ${fault}`);

  return {
    loadIn4bit: values.fullFinetuning === true ? false : values.loadIn4bit,
    targetModules:
      values.finetuneVisionLayers === true && !given.has('targetModules')
        ? [...LANGUAGE_LAYERS, ...VISION_LAYERS]
        : values.targetModules,
    dtype: values.dtype ?? trainingDType(device),
    warmupSteps: on('warmupRatio') && !on('warmupSteps') ? 0 : values.warmupSteps,
    warmupRatio: on('warmupSteps') ? 0 : values.warmupRatio,
    assistantOnlyLoss: values.textFormat === 'plain' ? false : values.assistantOnlyLoss,
  };
}

/**
 * Checks the options of a run and settles every value. Throws one ERR_USAGE that lists all that is wrong; a misspelled name
 * is answered with the nearest known one. `naming` tells how options are called where they came from (the command line).
 */
export function resolveTrainArgs(options: TrainOptions, naming: Omit<GivenOptions, 'values'> = {}): TrainArgs {
  const name = naming.nameOf ?? ((key: string): string => key);
  const { values, given, errors } = checkOptions(TRAIN_OPTIONS, { ...naming, values: { ...options } });
  const settled = { ...values, ...applyRules(values, given, name, errors) };
  failOnErrors(errors);
  const complete = Object.fromEntries(Object.keys(TRAIN_OPTIONS).map((key) => [key, settled[key as keyof typeof settled]]));
  return complete as unknown as TrainArgs;
}
