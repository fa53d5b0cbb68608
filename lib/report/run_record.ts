/**
 * What a run folder says of its run: the log (`events.jsonl`), and where there is none, or it begins late, the newest checkpoint's
 * `trainer_state.json` and `training_args.json`; so folders that transformers wrote have a report too.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { VltuneError } from '../errors.js';
import { ioError } from '../files.js';
import { ARGS_FILE, STATE_FILE } from '../train/checkpoint.js';
import { EVENT_LOG } from '../train/event_log.js';
import { describe, isJsonObject, type JsonObject, printable, readJsonObject } from '../weights/json.js';

/** An update, or the updates since the entry before it. What the source does not tell is undefined. */
export interface StepRecord {
  readonly step: number;
  readonly epoch: number | undefined;
  readonly loss: number;
  readonly gradNorm: number | undefined;
  readonly learningRate: number | undefined;
  readonly tokensPerSecond: number | undefined;
  readonly memoryBytes: number | undefined;
}

export interface EvaluationRecord {
  readonly step: number;
  readonly epoch: number | undefined;
  readonly loss: number;
}

/** The fields of an event, by the names that it has in the log. */
export type EventFields = JsonObject;

export interface CheckpointRecord {
  readonly name: string;
  readonly step: number;
  /** Of all its files. */
  readonly bytes: number;
}

export interface RunRecord {
  readonly folder: string;
  readonly steps: readonly StepRecord[];
  readonly evaluations: readonly EvaluationRecord[];
  /** Of the last start; undefined without a log. */
  readonly start: EventFields | undefined;
  /** Undefined if the run has not come to its end, or there is no log. */
  readonly end: EventFields | undefined;
  /** Updates of the whole run; undefined if nothing tells. */
  readonly totalSteps: number | undefined;
  /** How often the run was started: more than once if it was resumed. */
  readonly starts: number;
  /** Seconds that it ran, all starts together; undefined without a log. */
  readonly seconds: number | undefined;
  /** When it last said something; undefined without a log. */
  readonly lastTime: Date | undefined;
  /** By their names in transformers, PEFT and TRL. */
  readonly options: JsonObject | undefined;
  /** The newest first. */
  readonly checkpoints: readonly CheckpointRecord[];
}

/** Reads a run folder. ERR_NOT_FOUND if it is not there, ERR_USAGE if it is none, ERR_BAD_DATA names the file and line that is wrong. */
export async function readRun(folder: string): Promise<RunRecord> {
  const names = await entries(folder);
  const checkpoints = await readCheckpoints(folder, names);
  const stateFolder = names.includes(STATE_FILE) ? folder : checkpoints[0] && join(folder, checkpoints[0].name);
  if (!names.includes(EVENT_LOG) && stateFolder === undefined) throw await noRun(folder, names);
  const log = names.includes(EVENT_LOG) ? await readLog(join(folder, EVENT_LOG)) : emptyLog();
  const state = stateFolder === undefined ? undefined : await readState(stateFolder);

  // The log goes first, for it knows more; a checkpoint tells of what was done before the log begins.
  const until = log.start === undefined ? Number.POSITIVE_INFINITY : Number(log.start.resumed_step);
  const begin = log.steps[0]?.step ?? Number.POSITIVE_INFINITY;
  const before = <T extends { step: number }>(list: readonly T[] | undefined): T[] =>
    (list ?? []).filter(({ step }) => step <= until && step < begin);
  return {
    folder,
    steps: [...before(state?.steps), ...log.steps],
    evaluations: [...before(state?.evaluations), ...log.evaluations],
    start: log.start,
    end: log.end,
    totalSteps: (log.start?.steps as number | undefined) ?? state?.totalSteps,
    starts: log.starts,
    seconds: log.start === undefined ? undefined : log.seconds,
    lastTime: log.lastTime,
    options: (log.start?.options as JsonObject | undefined) ?? state?.options,
    checkpoints,
  };
}

async function entries(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new VltuneError('ERR_NOT_FOUND', `${folder}: no such folder`, { cause: error });
    if (code === 'ENOTDIR')
      throw new VltuneError('ERR_USAGE', `${folder}: expected the output folder of a run, got a file`, { cause: error });
    throw ioError(error, 'read', folder);
  }
}

/** Says what was looked for, and names a run that lies one folder below. */
async function noRun(folder: string, names: readonly string[]): Promise<VltuneError> {
  const below: string[] = [];
  for (const name of names) {
    if (await exists(join(folder, name, EVENT_LOG))) below.push(join(folder, name));
  }
  const hint = below.length === 0 ? '' : `; did you mean ${below.slice(0, 3).join(' or ')}?`;
  return new VltuneError(
    'ERR_USAGE',
    `${folder}: expected the output folder of a run (with ${EVENT_LOG}, or a checkpoint with ${STATE_FILE}), found ${names.length === 0 ? 'an empty folder' : 'neither'}${hint}`,
  );
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

async function readCheckpoints(folder: string, names: readonly string[]): Promise<CheckpointRecord[]> {
  const found: CheckpointRecord[] = [];
  for (const name of names) {
    const step = /^checkpoint-(\d+)$/.exec(name)?.[1];
    if (step === undefined || !(await exists(join(folder, name, STATE_FILE)))) continue;
    found.push({ name, step: Number(step), bytes: await bytesIn(join(folder, name)) });
  }
  return found.sort((a, b) => b.step - a.step);
}

async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
  }
  return bytes;
}

// ---- The log.

interface Log {
  steps: StepRecord[];
  evaluations: EvaluationRecord[];
  start: EventFields | undefined;
  end: EventFields | undefined;
  starts: number;
  seconds: number;
  lastTime: Date | undefined;
}

function emptyLog(): Log {
  return { steps: [], evaluations: [], start: undefined, end: undefined, starts: 0, seconds: 0, lastTime: undefined };
}

async function readLog(path: string): Promise<Log> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw ioError(error, 'read', path);
  });
  const log = emptyLog();
  /** The first line that is no JSON; a kill may have torn the last of a start. */
  let torn: string | undefined;
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const where = `${path}: line ${i + 1}`;
    const event = parseLine(line);
    if (event === undefined) {
      if (torn !== undefined) break;
      torn = `${where}: expected a JSON object, got ${printable(line, 60)}`;
      continue;
    }
    if (torn !== undefined && event.event !== 'start') throw new VltuneError('ERR_BAD_DATA', torn);
    torn = undefined;
    addEvent(log, event, where);
  }
  if (log.start === undefined) throw new VltuneError('ERR_BAD_DATA', torn ?? `${path}: no run starts in it`);
  return log;
}

function parseLine(line: string): EventFields | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function addEvent(log: Log, event: EventFields, where: string): void {
  const time = new Date(String(event.time));
  if (Number.isNaN(time.getTime())) throw wrong(where, 'time', 'a time', event.time);
  if (event.event === 'start') {
    const resumed = numberAt(event, 'resumed_step', where);
    numberAt(event, 'steps', where);
    if (typeof event.model !== 'string') throw wrong(where, 'model', 'a text', event.model);
    if (event.options !== undefined && !isJsonObject(event.options)) throw wrong(where, 'options', 'an object', event.options);
    // What was done after the checkpoint that the run went on from was done again.
    log.steps = log.steps.filter(({ step }) => step <= resumed);
    log.evaluations = log.evaluations.filter(({ step }) => step <= resumed);
    log.start = event;
    log.end = undefined;
    log.starts += 1;
  } else {
    if (log.start === undefined) throw wrong(where, 'event', 'a start before anything else', event.event);
    log.seconds += Math.max(0, (time.getTime() - log.lastTime!.getTime()) / 1000);
  }
  log.lastTime = time;
  if (event.event === 'step') log.steps.push(stepRecord(event, where));
  else if (event.event === 'eval') log.evaluations.push(evaluationRecord(event, where));
  else if (event.event === 'end') log.end = event;
}

function stepRecord(entry: JsonObject, where: string): StepRecord {
  return {
    step: numberAt(entry, 'step', where),
    epoch: optionalAt(entry, 'epoch', where),
    loss: numberAt(entry, 'loss', where),
    gradNorm: optionalAt(entry, 'grad_norm', where),
    learningRate: optionalAt(entry, 'learning_rate', where),
    tokensPerSecond: optionalAt(entry, 'tokens_per_second', where),
    memoryBytes: optionalAt(entry, 'memory_bytes', where),
  };
}

function evaluationRecord(entry: JsonObject, where: string): EvaluationRecord {
  return {
    step: numberAt(entry, 'step', where),
    epoch: optionalAt(entry, 'epoch', where),
    loss: numberAt(entry, 'eval_loss', where),
  };
}

// ---- A checkpoint's state.

interface State {
  readonly steps: readonly StepRecord[];
  readonly evaluations: readonly EvaluationRecord[];
  readonly totalSteps: number | undefined;
  readonly options: JsonObject | undefined;
}

async function readState(folder: string): Promise<State> {
  const path = join(folder, STATE_FILE);
  const state = await readJsonObject(path, 'ERR_BAD_DATA');
  if (!Array.isArray(state.log_history)) throw wrong(path, 'log_history', 'a list', state.log_history);
  const history = state.log_history.map((entry: unknown, i): { entry: JsonObject; where: string } => {
    const where = `${path}: log_history[${i}]`;
    if (!isJsonObject(entry)) throw new VltuneError('ERR_BAD_DATA', `${where}: expected an object, got ${describe(entry)}`);
    return { entry, where };
  });
  return {
    steps: history.filter(({ entry }) => 'loss' in entry).map(({ entry, where }) => stepRecord(entry, where)),
    evaluations: history.filter(({ entry }) => 'eval_loss' in entry).map(({ entry, where }) => evaluationRecord(entry, where)),
    totalSteps: optionalAt(state, 'max_steps', path),
    options: await readOptions(join(folder, ARGS_FILE)),
  };
}

async function readOptions(path: string): Promise<JsonObject | undefined> {
  if (!(await exists(path))) return undefined;
  const { vltune: _, ...options } = await readJsonObject(path, 'ERR_BAD_DATA');
  return options;
}

// ---- Fields.

function wrong(where: string, field: string, expected: string, got: unknown): VltuneError {
  return new VltuneError('ERR_BAD_DATA', `${where}: ${field}: expected ${expected}, got ${describe(got)}`);
}

function optionalAt(entry: JsonObject, field: string, where: string): number | undefined {
  const value = entry[field];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(where, field, 'a number', value);
  return value;
}

function numberAt(entry: JsonObject, field: string, where: string): number {
  const value = optionalAt(entry, field, where);
  if (value === undefined) throw wrong(where, field, 'a number', value);
  return value;
}

/** The last part of a model's path or hub id: what people call it. */
export function modelName(model: string): string {
  return basename(model) || model;
}
