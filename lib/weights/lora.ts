/**
 * LoRA adapters in PEFT's layout: adapter_config.json, adapter_model.safetensors, README.md. Reading checks that config
 * and tensors agree and refuses by name what plain LoRA cannot express; writing gives the files that PEFT 0.21 writes.
 *
 * A tensor is called `base_model.model.` + module path + `.lora_A.weight` [r, in] or `.lora_B.weight` [out, r].
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { stringify as yaml } from 'yaml';
import { VltuneError } from '../errors.js';
import { ioError, writeFileAtomic } from '../files.js';
import { bf16ToF32, f16ToF32 } from './float16.js';
import { describe, isJsonObject, type JsonObject, printable, readJsonObject } from './json.js';
import { fromPythonRegex } from './python_regex.js';
import { readSafetensorsHeader, readTensor, type TensorEntry, type TensorInfo, writeSafetensors } from './safetensors.js';
import type { ModulePattern } from './target_modules.js';

export const ADAPTER_CONFIG = 'adapter_config.json';
export const ADAPTER_WEIGHTS = 'adapter_model.safetensors';

/** The version of PEFT whose files these are. */
const PEFT_VERSION = '0.21.0';
const PREFIX = 'base_model.model.';

/** The fields of adapter_config.json that plain LoRA has. */
export interface AdapterConfig {
  /** Folder or hub id of the model that it was trained on; null if it does not say. */
  readonly baseModel: string | null;
  readonly r: number;
  readonly loraAlpha: number;
  readonly loraDropout: number;
  /** Scale alpha/sqrt(r) in place of alpha/r. */
  readonly useRslora: boolean;
  readonly targetModules: ModulePattern | null;
  readonly excludeModules: ModulePattern | null;
  /** Ranks and alphas of some modules: regular expressions (Python's) that match the end of a module path. */
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  readonly taskType: string | null;
  readonly revision: string | null;
}

/** The adapter of one linear layer: y += scale · B(A x). */
export interface LoraModule {
  /** [rank, inFeatures] */
  readonly a: Float32Array;
  /** [outFeatures, rank] */
  readonly b: Float32Array;
  readonly rank: number;
  /** alpha/rank, or alpha/sqrt(rank) with rsLoRA. */
  readonly scale: number;
  readonly inFeatures: number;
  readonly outFeatures: number;
}

export interface Adapter {
  readonly folder: string;
  readonly config: AdapterConfig;
  /** By module path, as `model.language_model.layers.0.self_attn.q_proj`. */
  readonly tensors: ReadonlyMap<string, LoraModule>;
  /** What was passed over: fields that this version does not know. */
  readonly warnings: readonly string[];
}

// ---- The config

/** What PEFT 0.21 writes for each field where nothing is asked for. */
const DEFAULTS: JsonObject = {
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  auto_mapping: null,
  base_model_name_or_path: null,
  bias: 'none',
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  exclude_modules: null,
  fan_in_fan_out: false,
  inference_mode: true,
  init_lora_weights: true,
  kasa_config: null,
  layer_replication: null,
  layers_pattern: null,
  layers_to_transform: null,
  loftq_config: {},
  lora_alpha: 8,
  lora_bias: false,
  lora_dropout: 0,
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: 'megatron.core',
  modules_to_save: null,
  monteclora_config: null,
  peft_type: 'LORA',
  peft_version: PEFT_VERSION,
  qalora_group_size: 16,
  r: 8,
  rank_pattern: {},
  revision: null,
  target_modules: null,
  target_parameters: null,
  task_type: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
  use_rslora: false,
  velora_config: null,
};

/** Fields that change what the adapter computes, with what they stand for. Any value but null, false, "none" or an empty list or object is refused. */
const VARIANTS: Readonly<Record<string, string>> = {
  alora_invocation_tokens: 'activated LoRA',
  arrow_config: 'Arrow routing',
  bias: 'trained biases',
  kasa_config: 'KaSA',
  layer_replication: 'replicated layers',
  lora_bias: 'LoRA with a bias',
  modules_to_save: 'whole modules beside the adapter',
  monteclora_config: 'MonteCLoRA',
  target_parameters: 'adapters of bare parameters',
  trainable_token_indices: 'trained token embeddings',
  use_bdlora: 'block-diagonal LoRA',
  use_dora: 'DoRA',
  use_qalora: 'QALoRA',
  velora_config: 'VeLoRA',
};

/** Initialisations that leave the base weights as they are. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change them when the adapter is loaded. */
const PLAIN_INIT: readonly unknown[] = [true, false, 'gaussian', 'eva', 'orthogonal', undefined, null];

const LARGEST_RANK = 65_536;

function isOff(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === 'none') return true;
  if (Array.isArray(value)) return value.length === 0;
  return isJsonObject(value) && Object.keys(value).length === 0;
}

/** Reads and checks adapter_config.json. Rejects with ERR_BAD_ADAPTER, or ERR_UNSUPPORTED for another method than plain LoRA. */
export async function readAdapterConfig(folder: string): Promise<{ config: AdapterConfig; warnings: string[] }> {
  const path = join(folder, ADAPTER_CONFIG);
  const raw = await readJsonObject(path, 'ERR_BAD_ADAPTER');
  const bad = (field: string, expected: string): never => {
    throw new VltuneError('ERR_BAD_ADAPTER', `${path}: ${field}: expected ${expected}, got ${describe(raw[field])}`);
  };
  const type = raw.peft_type;
  if (typeof type !== 'string') return bad('peft_type', '"LORA"');
  if (type !== 'LORA')
    throw new VltuneError('ERR_UNSUPPORTED', `${path}: peft_type: ${describe(type)} is not supported; only LORA is`);
  for (const [field, meaning] of Object.entries(VARIANTS)) {
    if (!isOff(raw[field]))
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `${path}: ${field}: ${meaning} is not supported (it is ${printable(JSON.stringify(raw[field]), 80)})`,
      );
  }
  if (!PLAIN_INIT.includes(raw.init_lora_weights)) {
    throw new VltuneError(
      'ERR_UNSUPPORTED',
      `${path}: init_lora_weights: ${describe(raw.init_lora_weights)} changes the base weights when the adapter is loaded, which is not supported; save it as plain LoRA (PEFT: path_initial_model_for_weight_conversion)`,
    );
  }

  const text = (field: string): string | null => {
    const value = raw[field] ?? null;
    return value === null || typeof value === 'string' ? value : bad(field, 'a string or null');
  };
  const flag = (field: string): boolean => {
    const value = raw[field] ?? false;
    return typeof value === 'boolean' ? value : bad(field, 'true or false');
  };
  const modules = (field: string): ModulePattern | null => {
    const value = raw[field] ?? null;
    if (value === null || typeof value === 'string') return value;
    return Array.isArray(value) && value.every((entry) => typeof entry === 'string')
      ? value
      : bad(field, 'a string, a list of strings or null');
  };
  const pattern = (
    field: string,
    isValid: (value: unknown) => value is number,
    expected: string,
  ): Readonly<Record<string, number>> => {
    const value = raw[field] ?? {};
    if (!isJsonObject(value)) return bad(field, 'an object');
    for (const [key, entry] of Object.entries(value)) {
      if (!isValid(entry))
        throw new VltuneError(
          'ERR_BAD_ADAPTER',
          `${path}: ${field}: "${printable(key)}": expected ${expected}, got ${describe(entry)}`,
        );
    }
    return value as Readonly<Record<string, number>>;
  };

  const r = raw.r ?? DEFAULTS.r;
  if (!isRank(r)) return bad('r', RANK);
  const alpha = raw.lora_alpha ?? DEFAULTS.lora_alpha;
  if (!isAlpha(alpha)) return bad('lora_alpha', ALPHA);
  const dropout = raw.lora_dropout ?? 0;
  if (typeof dropout !== 'number' || !(dropout >= 0 && dropout < 1)) return bad('lora_dropout', 'a number from 0 to below 1');
  const unknown = Object.keys(raw).filter((key) => !Object.hasOwn(DEFAULTS, key) && key !== 'runtime_config');
  return {
    config: {
      baseModel: text('base_model_name_or_path'),
      r,
      loraAlpha: alpha,
      loraDropout: dropout,
      useRslora: flag('use_rslora'),
      targetModules: modules('target_modules'),
      excludeModules: modules('exclude_modules'),
      rankPattern: pattern('rank_pattern', isRank, RANK),
      alphaPattern: pattern('alpha_pattern', isAlpha, ALPHA),
      taskType: text('task_type'),
      revision: text('revision'),
    },
    warnings: unknown.map((key) => `${path}: the field "${printable(key)}" is not known and is ignored`),
  };
}

const RANK = `a whole number from 1 to ${LARGEST_RANK}`;
const ALPHA = 'a number above 0';

function isRank(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= LARGEST_RANK;
}

function isAlpha(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0;
}

/**
 * For each module name the first of `patterns` that matches it whole or from a dot on (PEFT's rank_pattern), or undefined.
 * The patterns come from a file: they run in a context of their own with a time limit, so that one that never ends is an error.
 */
function matchPatterns(patterns: readonly string[], names: readonly string[], where: string): (string | undefined)[] {
  if (patterns.length === 0 || names.length === 0) return names.map(() => undefined);
  const regexes = patterns.map((pattern) => fromPythonRegex(`(?:[^\\n]*\\.)?(?:${pattern})`, where, 'ERR_BAD_ADAPTER'));
  const sources = regexes.map(({ source, flags }) => ({ source, flags }));
  const script = `
    const regexes = patterns.map((p) => new RegExp(p.source, p.flags));
    names.map((name) => regexes.findIndex((regex) => regex.test(name)));`;
  try {
    const found = runInNewContext(script, { patterns: sources, names }, { timeout: 2000 }) as ArrayLike<number>;
    return Array.from(found, (index) => patterns[index]);
  } catch (cause) {
    throw new VltuneError('ERR_BAD_ADAPTER', `${where}: a regular expression takes too long to match`, { cause });
  }
}

// ---- Reading

/**
 * Reads an adapter. Tensors of F32, BF16 and F16 come as F32. Rejects with ERR_BAD_ADAPTER (naming file, field or tensor),
 * ERR_UNSUPPORTED (another method than plain LoRA, pickle files), ERR_NOT_FOUND (no such folder). Whether the adapter fits a
 * model is for `checkAdapterFits`.
 */
export async function readAdapter(folder: string): Promise<Adapter> {
  const found = await stat(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT')
      throw new VltuneError('ERR_NOT_FOUND', `${folder}: no such folder (expected an adapter)`, { cause: error });
    throw ioError(error, 'read', folder);
  });
  if (!found.isDirectory()) throw new VltuneError('ERR_NOT_FOUND', `${folder}: expected the folder of an adapter, found a file`);
  const { config, warnings } = await readAdapterConfig(folder);
  const path = join(folder, ADAPTER_WEIGHTS);
  if (!(await stat(path).catch(() => undefined)) && (await stat(join(folder, 'adapter_model.bin')).catch(() => undefined))) {
    throw new VltuneError(
      'ERR_UNSUPPORTED',
      `${folder}: its weights are in adapter_model.bin, a pickle file; such files can run code and are never read`,
    );
  }
  const file = await readSafetensorsHeader(path, 'ERR_BAD_ADAPTER');
  const pairs = new Map<string, { a?: TensorInfo; b?: TensorInfo }>();
  for (const tensor of file.tensors) {
    const parts = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(tensor.name);
    if (parts === null)
      throw new VltuneError('ERR_BAD_ADAPTER', `${path}: tensor ${printable(tensor.name)}: ${foreignName(tensor.name)}`);
    const [, name, half] = parts as unknown as [string, string, 'A' | 'B'];
    const pair = pairs.get(name) ?? {};
    pair[half === 'A' ? 'a' : 'b'] = tensor;
    pairs.set(name, pair);
  }
  if (pairs.size === 0) throw new VltuneError('ERR_BAD_ADAPTER', `${path}: holds no tensor`);

  const names = [...pairs.keys()];
  const configPath = join(folder, ADAPTER_CONFIG);
  const rankKeys = matchPatterns(Object.keys(config.rankPattern), names, `${configPath}: rank_pattern`);
  const alphaKeys = matchPatterns(Object.keys(config.alphaPattern), names, `${configPath}: alpha_pattern`);
  const tensors = new Map<string, LoraModule>();
  for (const [index, name] of names.entries()) {
    const { a, b } = pairs.get(name)!;
    if (a === undefined || b === undefined) {
      throw new VltuneError(
        'ERR_BAD_ADAPTER',
        `${path}: module ${printable(name)} has lora_${a ? 'A' : 'B'} but no lora_${a ? 'B' : 'A'}`,
      );
    }
    const rankKey = rankKeys[index];
    const alphaKey = alphaKeys[index];
    const rank = rankKey === undefined ? config.r : config.rankPattern[rankKey]!;
    const alpha = alphaKey === undefined ? config.loraAlpha : config.alphaPattern[alphaKey]!;
    checkShape(path, a, `[${rank}, in]`, a.shape.length === 2 && a.shape[0] === rank && a.shape[1]! > 0, rankKey);
    checkShape(path, b, `[out, ${rank}]`, b.shape.length === 2 && b.shape[1] === rank && b.shape[0]! > 0, rankKey);
    tensors.set(name, {
      a: await readF32(a),
      b: await readF32(b),
      rank,
      scale: alpha / (config.useRslora ? Math.sqrt(rank) : rank),
      inFeatures: a.shape[1]!,
      outFeatures: b.shape[0]!,
    });
  }
  return { folder, config, tensors, warnings };
}

function foreignName(name: string): string {
  if (name.includes('lora_magnitude_vector')) return 'DoRA is not supported';
  if (name.includes('lora_embedding_')) return 'adapters of embeddings are not supported';
  if (!name.startsWith(PREFIX)) return `expected a name that starts with ${PREFIX}`;
  return 'expected a name that ends with .lora_A.weight or .lora_B.weight';
}

function checkShape(path: string, tensor: TensorInfo, expected: string, isRight: boolean, rankKey: string | undefined): void {
  if (isRight) return;
  const said = rankKey === undefined ? `r of ${ADAPTER_CONFIG}` : `rank_pattern "${printable(rankKey)}" of ${ADAPTER_CONFIG}`;
  throw new VltuneError(
    'ERR_BAD_ADAPTER',
    `${path}: tensor ${printable(tensor.name)}: expected shape ${expected} by ${said}, got [${tensor.shape.join(', ')}]`,
  );
}

async function readF32(tensor: TensorInfo): Promise<Float32Array> {
  const { dtype } = tensor;
  if (dtype !== 'F32' && dtype !== 'BF16' && dtype !== 'F16') {
    throw new VltuneError(
      'ERR_BAD_ADAPTER',
      `${tensor.file}: tensor ${printable(tensor.name)}: expected F32, BF16 or F16, got ${dtype}`,
    );
  }
  const bytes = await readTensor(tensor, 'ERR_BAD_ADAPTER');
  if (dtype === 'F32') return new Float32Array(bytes.buffer);
  const bits = new Uint16Array(bytes.buffer);
  const values = new Float32Array(bits.length);
  if (dtype === 'BF16') bf16ToF32(bits, values);
  else f16ToF32(bits, values);
  return values;
}

// ---- Whether an adapter fits a model

/** Shape of a linear layer. */
export interface LinearShape {
  readonly inFeatures: number;
  readonly outFeatures: number;
}

/**
 * Checks that every module of the adapter is a linear layer of the model with the same shape. Otherwise ERR_BAD_ADAPTER that
 * lists the first few and says how many: PEFT would load such an adapter with a warning and apply nothing.
 */
export function checkAdapterFits(adapter: Adapter, linears: ReadonlyMap<string, LinearShape>): void {
  const absent: string[] = [];
  const misshapen: string[] = [];
  for (const [name, { inFeatures, outFeatures }] of adapter.tensors) {
    const linear = linears.get(name);
    if (linear === undefined) absent.push(printable(name));
    else if (linear.inFeatures !== inFeatures || linear.outFeatures !== outFeatures) {
      misshapen.push(
        `${printable(name)} is [${outFeatures}, ${inFeatures}], the model's [${linear.outFeatures}, ${linear.inFeatures}]`,
      );
    }
  }
  if (absent.length === 0 && misshapen.length === 0) return;
  const total = adapter.tensors.size;
  const base = adapter.config.baseModel === null ? '' : ` (it was made for ${printable(adapter.config.baseModel)})`;
  const reasons: string[] = [];
  if (absent.length > 0) {
    reasons.push(`${absent.length} of its ${total} modules are not linear layers of this model: ${few(absent)}`);
    const older = absent.every((name) => name.startsWith('model.layers.'));
    if (older && [...linears.keys()].some((name) => name.startsWith('model.language_model.layers.'))) {
      reasons.push(
        'names of this form (model.layers) come from older versions of transformers; this model calls them model.language_model.layers, and PEFT would apply nothing',
      );
    }
  }
  if (misshapen.length > 0) reasons.push(`${misshapen.length} have another shape [out, in]: ${few(misshapen)}`);
  throw new VltuneError('ERR_BAD_ADAPTER', `${adapter.folder}: the adapter does not fit the model${base}: ${reasons.join('; ')}`);
}

function few(names: readonly string[]): string {
  return names.length <= 3 ? names.join(', ') : `${names.slice(0, 3).join(', ')} and ${names.length - 3} more`;
}

// ---- Writing

/** A module to write. `a` is [rank, in], `b` is [out, rank], both row-major. */
export interface AdapterModule {
  readonly name: string;
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly rank: number;
}

export interface WriteAdapterOptions {
  /** Folder or hub id of the base model, as the user gave it. */
  readonly baseModel: string;
  readonly r: number;
  readonly loraAlpha: number;
  readonly loraDropout?: number;
  readonly useRslora?: boolean;
  /** Written as given; `all-linear` is written as the list of the modules, which is what it stood for. */
  readonly targetModules: ModulePattern;
  readonly excludeModules?: ModulePattern | null;
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** Default CAUSAL_LM. */
  readonly taskType?: string | null;
  readonly revision?: string | null;
  readonly modules: Iterable<AdapterModule>;
}

/**
 * Writes the three files of an adapter into `folder` (made if absent), each whole or not at all, the config last: a folder
 * with a config has its weights. Tensors are F32. Rejects with ERR_IO, or ERR_ARGUMENT if a module's rank and lengths disagree.
 */
export async function writeAdapter(folder: string, options: WriteAdapterOptions): Promise<void> {
  const entries: TensorEntry[] = [];
  const names: string[] = [];
  const rankPattern: Record<string, number> = { ...options.rankPattern };
  for (const { name, a, b, rank } of options.modules) {
    if (!isRank(rank) || a.length === 0 || b.length === 0 || a.length % rank !== 0 || b.length % rank !== 0) {
      throw new VltuneError(
        'ERR_ARGUMENT',
        `module ${name}: ${a.length} values of A and ${b.length} of B do not make matrices of rank ${rank}`,
      );
    }
    names.push(name);
    if (rank !== options.r && options.rankPattern === undefined) rankPattern[name] = rank;
    entries.push({ name: `${PREFIX}${name}.lora_A.weight`, dtype: 'F32', shape: [rank, a.length / rank], data: a });
    entries.push({ name: `${PREFIX}${name}.lora_B.weight`, dtype: 'F32', shape: [b.length / rank, rank], data: b });
  }
  const targets = options.targetModules;
  const config: Record<string, unknown> = {
    ...DEFAULTS,
    alpha_pattern: options.alphaPattern ?? {},
    base_model_name_or_path: options.baseModel,
    exclude_modules: options.excludeModules ?? null,
    lora_alpha: options.loraAlpha,
    lora_dropout: options.loraDropout ?? 0,
    r: options.r,
    rank_pattern: rankPattern,
    revision: options.revision ?? null,
    target_modules: typeof targets === 'string' && targets.toLowerCase() === 'all-linear' ? names : targets,
    task_type: options.taskType === undefined ? 'CAUSAL_LM' : options.taskType,
    use_rslora: options.useRslora ?? false,
  };
  await writeSafetensors(join(folder, ADAPTER_WEIGHTS), entries);
  await writeFileAtomic(join(folder, 'README.md'), modelCard(options.baseModel));
  await writeFileAtomic(join(folder, ADAPTER_CONFIG), configText(config));
}

/** As `json.dumps(config, indent=2, sort_keys=True)`: keys in order, ASCII only, lora_dropout with its point. */
function configText(config: Readonly<Record<string, unknown>>): string {
  const sorted = (value: unknown): unknown =>
    isJsonObject(value)
      ? Object.fromEntries(
          Object.keys(value)
            .sort()
            .map((key) => [key, sorted(value[key])]),
        )
      : value;
  return JSON.stringify(sorted(config), null, 2)
    .replace(/^( {2}"lora_dropout": \d+)(?=,$)/m, '$1.0')
    .replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function modelCard(baseModel: string): string {
  const header = yaml({
    base_model: baseModel,
    library_name: 'peft',
    pipeline_tag: 'text-generation',
    tags: [`base_model:adapter:${baseModel}`, 'lora', 'transformers', 'vltune'],
  });
  return `---
${header}---

# LoRA adapter for ${baseModel.replace(/[\r\n]/g, ' ')}

Trained with [vltune](https://www.npmjs.com/package/vltune). Loads in PEFT, transformers and vLLM:

\`\`\`python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
\`\`\`

### Framework versions

- PEFT ${PEFT_VERSION} (file format)
`;
}
