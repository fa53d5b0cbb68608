/**
 * Checkpoints of a run: folders `checkpoint-N` in the output folder, each whole or absent (built beside, synced, renamed).
 *
 *   checkpoint-N/  adapter_config.json, adapter_model.safetensors (or a full model), written by the caller
 *                  optimizer.safetensors    the optimizer's state
 *                  trainer_state.json       transformers' TrainerState: step, epoch, log history
 *                  training_args.json       the options, and what identifies model and data
 *
 * Learning rate, data order and dropout are functions of step and seed, so they need no state of their own.
 */
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VltuneError } from '../errors.js';
import { ioError, writeFileAtomic, writeFolderAtomic } from '../files.js';
import { showValue, snakeCase } from '../options.js';
import { readJsonObject } from '../weights/json.js';
import { readSafetensorsHeader, type TensorEntry, type TensorInfo, writeSafetensors } from '../weights/safetensors.js';
import { TRAIN_OPTIONS, type TrainArgs } from './args.js';

export const OPTIMIZER_FILE = 'optimizer.safetensors';
export const STATE_FILE = 'trainer_state.json';
export const ARGS_FILE = 'training_args.json';

/** One entry of the log history: `step`, `epoch` and what was measured (`loss`, `grad_norm`, `learning_rate`, `eval_loss`). */
export type LogEntry = Readonly<Record<string, number>>;

/** Where a run stands. */
export interface RunState {
  /** Updates done. */
  readonly globalStep: number;
  readonly epoch: number;
  /** Updates of the whole run. */
  readonly maxSteps: number;
  /** Tokens read so far, without padding. */
  readonly numInputTokensSeen: number;
  readonly logHistory: readonly LogEntry[];
}

/** What must be the same for a run to go on with the same bits, beside the options. */
export interface RunIdentity {
  /** Fingerprints of the weights and of the rows. */
  readonly model: string;
  readonly dataset: string;
  /** Micro-batches of an update: gradient accumulation steps times processes, which may trade with each other. */
  readonly microBatches: number;
}

export interface NewCheckpoint {
  readonly args: TrainArgs;
  readonly state: RunState;
  readonly identity: RunIdentity;
  readonly optimizer: readonly TensorEntry[];
  /** Writes the adapter or the model into the folder. */
  readonly fill: (folder: string) => Promise<void>;
}

export interface SavedCheckpoint {
  readonly folder: string;
  readonly state: RunState;
  readonly identity: RunIdentity;
  /** Options by their names in transformers, PEFT and TRL. */
  readonly args: Readonly<Record<string, unknown>>;
  readonly optimizer: ReadonlyMap<string, TensorInfo>;
}

/** Options that may change from one start of a run to the next: they do not touch the numbers, or only say how far it goes. */
const MAY_CHANGE: ReadonlySet<keyof TrainArgs> = new Set([
  'model',
  'revision',
  'dataset',
  'evalDataset',
  'outputDir',
  'overwriteOutputDir',
  'resumeFromCheckpoint',
  'adapter',
  'maxSteps',
  'numTrainEpochs',
  'skipImages',
  'imageRoot',
  'allowRemoteImages',
  'visionCache',
  'device',
  'ddpTimeout',
  'gradientAccumulationSteps',
  'gradientCheckpointing',
  'embeddingOnHost',
  'memory',
  'threads',
  'loggingSteps',
  'evalSteps',
  'saveStrategy',
  'saveSteps',
  'saveTotalLimit',
  'reportTo',
] satisfies (keyof TrainArgs)[]);

const NAME = /^checkpoint-(0|[1-9]\d*)$/;

/** Saves `checkpoint-N`, N being the updates done, then removes older ones beyond `saveTotalLimit`. Returns its path. Rejects with ERR_IO. */
export async function saveCheckpoint(outputDir: string, checkpoint: NewCheckpoint): Promise<string> {
  const { args, state, identity } = checkpoint;
  const name = `checkpoint-${state.globalStep}`;
  const folder = join(outputDir, name);
  await writeFolderAtomic(
    folder,
    async (temporary) => {
      await checkpoint.fill(temporary);
      await writeSafetensors(join(temporary, OPTIMIZER_FILE), checkpoint.optimizer);
      await writeFileAtomic(
        join(temporary, ARGS_FILE),
        `${JSON.stringify({ ...argsAsJson(args), vltune: identityAsJson(identity) }, null, 2)}\n`,
      );
      await writeFileAtomic(join(temporary, STATE_FILE), `${JSON.stringify(stateAsJson(state, args), null, 2)}\n`);
    },
    { replace: true },
  );
  if (args.saveTotalLimit !== undefined) {
    const others = (await checkpointNames(outputDir)).filter((other) => other !== name);
    for (const old of others.slice(args.saveTotalLimit - 1)) await removeFolder(outputDir, old);
  }
  return folder;
}

/** Reads what a checkpoint says; the tensors stay on disk. ERR_NOT_FOUND if it is not there, ERR_BAD_CHECKPOINT if it is not whole. */
export async function loadCheckpoint(folder: string): Promise<SavedCheckpoint> {
  const found = await stat(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') throw new VltuneError('ERR_NOT_FOUND', `${folder}: no such checkpoint`, { cause: error });
    throw ioError(error, 'look at', folder);
  });
  if (!found.isDirectory()) throw new VltuneError('ERR_BAD_CHECKPOINT', `${folder}: expected a checkpoint folder, found a file`);
  const state = await readJsonObject(join(folder, STATE_FILE), 'ERR_BAD_CHECKPOINT');
  const { vltune, ...args } = await readJsonObject(join(folder, ARGS_FILE), 'ERR_BAD_CHECKPOINT');
  const identity = (vltune ?? {}) as Record<string, unknown>;
  const number = (key: string): number => {
    const value = state[key];
    if (typeof value === 'number' && value >= 0) return value;
    throw new VltuneError(
      'ERR_BAD_CHECKPOINT',
      `${join(folder, STATE_FILE)}: ${key}: expected a number, got ${showValue(value)}`,
    );
  };
  for (const key of ['model', 'dataset']) {
    if (typeof identity[key] !== 'string') {
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${join(folder, ARGS_FILE)}: vltune.${key}: expected a text, got ${showValue(identity[key])}`,
      );
    }
  }
  const microBatches = identity.micro_batches ?? args.gradient_accumulation_steps; // older checkpoints are of one process
  if (typeof microBatches !== 'number') {
    throw new VltuneError(
      'ERR_BAD_CHECKPOINT',
      `${join(folder, ARGS_FILE)}: vltune.micro_batches: expected a number, got ${showValue(microBatches)}`,
    );
  }
  if (!Number.isInteger(number('global_step')) || !Array.isArray(state.log_history)) {
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${join(folder, STATE_FILE)}: not a trainer state`);
  }
  const optimizer = await readSafetensorsHeader(join(folder, OPTIMIZER_FILE));
  return {
    folder,
    args,
    identity: { model: identity.model as string, dataset: identity.dataset as string, microBatches },
    optimizer: new Map(optimizer.tensors.map((tensor) => [tensor.name, tensor])),
    state: {
      globalStep: number('global_step'),
      epoch: number('epoch'),
      maxSteps: number('max_steps'),
      numInputTokensSeen: number('num_input_tokens_seen'),
      logHistory: state.log_history as LogEntry[],
    },
  };
}

/** The newest whole checkpoint of an output folder; undefined if there is none. */
export async function latestCheckpoint(outputDir: string): Promise<string | undefined> {
  for (const name of await checkpointNames(outputDir)) {
    const folder = join(outputDir, name);
    const whole = await loadCheckpoint(folder).then(
      (checkpoint) => `checkpoint-${checkpoint.state.globalStep}` === name,
      () => false,
    );
    if (whole) return folder;
  }
  return undefined;
}

/** The checkpoint that `resumeFromCheckpoint` means. ERR_NOT_FOUND if it is `true` and the output folder holds none. */
export async function checkpointToResume(args: TrainArgs): Promise<SavedCheckpoint | undefined> {
  if (args.resumeFromCheckpoint === false) return undefined;
  if (typeof args.resumeFromCheckpoint === 'string') return await loadCheckpoint(args.resumeFromCheckpoint);
  await sweepOutput(args.outputDir);
  const latest = await latestCheckpoint(args.outputDir);
  if (latest !== undefined) return await loadCheckpoint(latest);
  throw new VltuneError('ERR_NOT_FOUND', `--resume-from-checkpoint: ${args.outputDir} holds no whole checkpoint`);
}

/** Checks that a run with `args` on this model and data goes on where the checkpoint stopped. ERR_USAGE names each option that differs. */
export function checkSameRun(checkpoint: SavedCheckpoint, args: TrainArgs, identity: RunIdentity): void {
  const errors: string[] = [];
  for (const key of ['model', 'dataset'] as const) {
    if (checkpoint.identity[key] !== identity[key]) {
      errors.push(`--${key}: ${key === 'model' ? 'its weights' : 'its rows'} are not those that the checkpoint was trained with`);
    }
  }
  const { microBatches } = checkpoint.identity;
  if (microBatches !== identity.microBatches) {
    const processes = identity.microBatches / args.gradientAccumulationSteps;
    const times = processes > 1 ? ` times ${processes} processes` : '';
    errors.push(
      `--gradient-accumulation-steps: expected ${microBatches} micro-batches an update as in the checkpoint, got ${args.gradientAccumulationSteps}${times}`,
    );
  }
  const now = argsAsJson(args);
  for (const key of Object.keys(TRAIN_OPTIONS) as (keyof TrainArgs)[]) {
    if (MAY_CHANGE.has(key)) continue;
    const saved = checkpoint.args[snakeCase(key)];
    const value = now[snakeCase(key)];
    if (JSON.stringify(saved) !== JSON.stringify(value)) {
      errors.push(
        `--${snakeCase(key).replaceAll('_', '-')}: expected ${showValue(saved)} as in the checkpoint, got ${showValue(value)}`,
      );
    }
  }
  if (errors.length === 0) return;
  throw new VltuneError(
    'ERR_USAGE',
    `cannot resume from ${checkpoint.folder}:\n${errors.map((error) => `  ${error}`).join('\n')}`,
  );
}

/** Removes every checkpoint of an output folder (`--overwrite-output-dir`). */
export async function removeCheckpoints(outputDir: string): Promise<void> {
  await sweepOutput(outputDir);
  for (const name of await checkpointNames(outputDir)) await removeFolder(outputDir, name);
}

/**
 * Tidies what a killed run left: half-built and half-removed checkpoints go, one that was moved aside for its successor comes
 * back if that never arrived. To be called before a run, by the one process that owns the folder.
 */
export async function sweepOutput(outputDir: string): Promise<void> {
  for (const entry of await namesIn(outputDir)) {
    const match = /^\.(checkpoint-\d+)\.(partial|old|removed)-\d+-\d+$/.exec(entry);
    if (!match) continue;
    const path = join(outputDir, entry);
    const target = join(outputDir, match[1]!);
    const replaced = await stat(target).then(
      () => true,
      () => false,
    );
    try {
      if (match[2] === 'old' && !replaced) await rename(path, target);
      else await rm(path, { recursive: true, force: true });
    } catch (error) {
      throw ioError(error, 'tidy up', path);
    }
  }
}

/** Removes a folder so that a kill in between leaves no half of it under its name. */
async function removeFolder(outputDir: string, name: string): Promise<void> {
  const aside = join(outputDir, `.${name}.removed-${process.pid}-0`);
  try {
    await rename(join(outputDir, name), aside);
    await rm(aside, { recursive: true, force: true });
  } catch (error) {
    throw ioError(error, 'remove', join(outputDir, name));
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw ioError(error, 'read', folder);
  }
}

/** Names of checkpoint folders, the newest first. */
async function checkpointNames(outputDir: string): Promise<string[]> {
  const step = (name: string): number => Number(NAME.exec(name)?.[1]);
  return (await namesIn(outputDir)).filter((name) => NAME.test(name)).sort((a, b) => step(b) - step(a));
}

function identityAsJson({ model, dataset, microBatches }: RunIdentity): Record<string, unknown> {
  return { model, dataset, micro_batches: microBatches };
}

/** The options by their names in transformers, PEFT and TRL; null where none was given and there is no default. */
export function argsAsJson(args: TrainArgs): Record<string, unknown> {
  return Object.fromEntries(Object.entries(args).map(([key, value]) => [snakeCase(key), value ?? null]));
}

/** transformers' TrainerState: every field that it writes, so that its tools read the file. */
function stateAsJson(state: RunState, args: TrainArgs): Record<string, unknown> {
  return {
    best_global_step: null,
    best_metric: null,
    best_model_checkpoint: null,
    epoch: state.epoch,
    eval_steps: args.evalSteps ?? 500,
    global_step: state.globalStep,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: state.logHistory,
    logging_steps: args.loggingSteps,
    max_steps: state.maxSteps,
    num_input_tokens_seen: state.numInputTokensSeen,
    num_train_epochs: Math.ceil(args.numTrainEpochs),
    save_steps: args.saveSteps,
    stateful_callbacks: {},
    total_flos: 0,
    train_batch_size: args.perDeviceTrainBatchSize,
    trial_name: null,
    trial_params: null,
  };
}
