/**
 * Option tables: one entry an option drives its command-line form, its `--help` line, its key in a YAML recipe and in
 * TypeScript, and the check of its value. All errors of a call are collected and thrown as one ERR_USAGE that names each
 * option as the user wrote it, what was expected and what came.
 */
import { VltuneError } from './errors.js';
import { printable } from './weights/json.js';
import { fromPythonRegex } from './weights/python_regex.js';

export type OptionKind =
  | 'integer'
  | 'number'
  | 'text'
  | 'flag' // true or false: --name and --no-name
  | 'choice'
  | 'list' // one or more texts
  | 'modules' // 'all-linear', a regular expression, or a list of module names, as PEFT reads target_modules
  | 'bytes' // 8GB, 512MiB or a number of bytes
  | 'device' // auto, cpu, cuda or cuda:N
  | 'flag-or-text'; // --name, or --name VALUE

export interface OptionSpec {
  readonly kind: OptionKind;
  /** One sentence for `--help`, without unit and default. */
  readonly help: string;
  /** The heading it stands under in `--help`. */
  readonly group: string;
  /** What stands for the value in `--help`, such as `N` or `DIR`. */
  readonly value?: string;
  readonly unit?: string;
  /** The value taken if none is given; absent: none, and `defaultText` may say what happens then. */
  readonly fallback?: number | string | boolean | readonly string[];
  readonly defaultText?: string;
  readonly required?: boolean;
  readonly choices?: readonly string[];
  /** Bounds of numbers: `min` and `max` belong to the range, `above` and `below` do not. */
  readonly min?: number;
  readonly max?: number;
  readonly above?: number;
  readonly below?: number;
  /** A value outside the range that is taken too (HF's `max_steps: -1`). */
  readonly also?: number;
  /** A flag that only turns something on, with no `--no-` form. */
  readonly onOnly?: boolean;
  readonly short?: string;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;

/** `perDeviceTrainBatchSize` → `per-device-train-batch-size`. Digits stay with their word: `loadIn4bit` → `load-in-4bit`. */
export function kebabCase(key: string): string {
  return key
    .replace(/([a-z])(\d)(?=[a-z])/g, '$1-$2')
    .replace(/([a-z0-9])([A-Z])/g, '$1-$2')
    .toLowerCase();
}

/** `perDeviceTrainBatchSize` → `per_device_train_batch_size`, as transformers spells it. */
export function snakeCase(key: string): string {
  return kebabCase(key).replaceAll('-', '_');
}

/** How a key is written on the command line. */
export function optionName(key: string): string {
  return `--${kebabCase(key)}`;
}

/** What a value must be, in words: `an integer from 1 to 4096`. */
export function expectation(spec: OptionSpec): string {
  switch (spec.kind) {
    case 'integer':
    case 'number': {
      const what = spec.kind === 'integer' ? 'an integer' : 'a number';
      const bounds: string[] = [];
      if (spec.min !== undefined && spec.max !== undefined) bounds.push(`from ${spec.min} to ${spec.max}`);
      else {
        if (spec.min !== undefined) bounds.push(`of at least ${spec.min}`);
        if (spec.above !== undefined) bounds.push(`above ${spec.above}`);
        if (spec.max !== undefined) bounds.push(bounds.length > 0 ? `and at most ${spec.max}` : `of at most ${spec.max}`);
        if (spec.below !== undefined) bounds.push(bounds.length > 0 ? `and below ${spec.below}` : `below ${spec.below}`);
      }
      if (spec.also !== undefined) bounds.push(`or ${spec.also}`);
      return [what, ...bounds].join(' ');
    }
    case 'text':
      return 'a text that is not empty';
    case 'flag':
      return 'true or false';
    case 'choice': {
      const choices = spec.choices ?? [];
      return choices.length === 1 ? choices[0]! : `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`;
    }
    case 'list':
      return 'one or more texts';
    case 'modules':
      return "'all-linear', a regular expression or a list of module names";
    case 'bytes':
      return `a size such as 8GB, 512MiB or a number of bytes${spec.also === undefined ? '' : `, or ${spec.also}`}`;
    case 'device':
      return "auto, cpu, cuda or cuda:N (the GPU's number, from 0)";
    case 'flag-or-text':
      return 'true, false or a text that is not empty';
  }
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/** Bytes of `8GB`, `1.5GiB`, `800 MB` or `123456`; undefined if the text is no size. */
export function parseBytes(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$/.exec(text);
  const unit = UNITS[match?.[2]?.toLowerCase() ?? '?'];
  if (!match || unit === undefined) return undefined;
  return Math.round(Number(match[1]) * unit);
}

/** A target given as one text is a regular expression if it holds one of these, as module names never do. */
const REGULAR_EXPRESSION = /[\\^$*+?()[\]{}|]/;

/** `q_proj,v_proj` → a list; `all-linear` and regular expressions stay one text, which PEFT matches against the whole name. */
function splitModules(text: string): string | readonly string[] {
  if (text === 'all-linear' || REGULAR_EXPRESSION.test(text)) return text;
  return text.split(',').map((name) => name.trim());
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
const isTexts = (value: unknown): value is readonly string[] => Array.isArray(value) && value.length > 0 && value.every(isText);

/** The value as the program takes it; undefined if it is not what the option expects. */
function parseValue(spec: OptionSpec, value: unknown): unknown {
  switch (spec.kind) {
    case 'integer':
      return isInRange(spec, value) && Number.isSafeInteger(value) ? value : undefined;
    case 'number':
      return isInRange(spec, value) ? value : undefined;
    case 'text':
      return isText(value) ? value : undefined;
    case 'flag':
      return typeof value === 'boolean' ? value : undefined;
    case 'choice':
      return spec.choices?.includes(value as string) ? value : undefined;
    case 'list':
      return isText(value) ? [value] : isTexts(value) ? value : undefined;
    case 'modules': {
      const modules = isText(value) ? splitModules(value) : value;
      return modules === 'all-linear' || isTexts(modules) || (isText(modules) && isRegularExpression(modules))
        ? modules
        : undefined;
    }
    case 'bytes': {
      const bytes = typeof value === 'string' ? parseBytes(value) : value;
      return Number.isSafeInteger(bytes) && ((bytes as number) > 0 || bytes === spec.also) ? bytes : undefined;
    }
    case 'device':
      return typeof value === 'string' && /^(auto|cpu|cuda|cuda:\d{1,3})$/.test(value) ? value : undefined;
    case 'flag-or-text':
      return typeof value === 'boolean' || isText(value) ? value : undefined;
  }
}

function isInRange({ min, max, above, below, also }: OptionSpec, value: unknown): boolean {
  if (typeof value !== 'number' || !Number.isFinite(value)) return false;
  if (also !== undefined && value === also) return true;
  return (
    (min === undefined || value >= min) &&
    (max === undefined || value <= max) &&
    (above === undefined || value > above) &&
    (below === undefined || value < below)
  );
}

function isRegularExpression(text: string): boolean {
  try {
    fromPythonRegex(text, '');
    return true;
  } catch {
    return false;
  }
}

/** A text of the command line as the value it stands for; what does not fit stays a text and fails the check. */
function fromText(spec: OptionSpec, value: unknown): unknown {
  if (Array.isArray(value) && spec.kind === 'modules') return value.length === 1 ? value[0] : value;
  if (typeof value !== 'string') return value;
  if (spec.kind === 'integer' || spec.kind === 'number') {
    return /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(value.trim()) ? Number(value) : value;
  }
  return value;
}

/** A value as it is shown in an error: short, on one line. */
export function showValue(value: unknown): string {
  let text: string;
  if (typeof value === 'number' || typeof value === 'bigint' || value === undefined) text = String(value);
  else {
    try {
      text = JSON.stringify(value) ?? String(value);
    } catch {
      text = String(value);
    }
  }
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** The number of single-letter edits (a swap of neighbours is one) that turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      let best = Math.min(row[j - 1]! + 1, rows[i - 1]![j]! + 1, rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, rows[i - 2]![j - 2]! + 1);
      row.push(best);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}

/** The known name that a misspelled one most likely meant; undefined if none is near. */
export function nearestName(name: string, known: Iterable<string>): string | undefined {
  let nearest: string | undefined;
  let least = Math.max(1, Math.floor(name.length * 0.4)) + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

/** Values as they came, and how to name an option in an error (`--max-steps`, `recipe.yaml: max_steps`, `maxSteps`). */
export interface GivenOptions {
  readonly values: Readonly<Record<string, unknown>>;
  /** How an option is called where its value came from. Without it, the TypeScript key. */
  readonly nameOf?: (key: string) => string;
  /** Whether a text may stand for a number, as on the command line. */
  readonly isText?: (key: string) => boolean;
}

export interface CheckedOptions {
  /** Given and valid values, and the fallbacks of the rest; absent where there is neither. */
  readonly values: Record<string, unknown>;
  /** Keys that were given a value (undefined and null count as not given). */
  readonly given: ReadonlySet<string>;
  readonly errors: string[];
}

/** Checks values against a table. Never throws: errors of the caller's own rules are added to the list before `failOnErrors`. */
export function checkOptions(table: OptionTable, options: GivenOptions): CheckedOptions {
  const nameOf = options.nameOf ?? ((key: string): string => key);
  const errors: string[] = [];
  const given = new Set<string>();
  const values: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options.values)) {
    if (value === undefined || value === null) continue;
    const spec = Object.hasOwn(table, key) ? table[key] : undefined;
    if (!spec) {
      const near = nearestName(key, Object.keys(table));
      errors.push(`${printable(nameOf(key))}: unknown option${near === undefined ? '' : `; did you mean ${nameOf(near)}?`}`);
      continue;
    }
    given.add(key);
    const typed = options.isText?.(key) ? fromText(spec, value) : value;
    const parsed = parseValue(spec, typed);
    if (parsed !== undefined) values[key] = parsed;
    else errors.push(`${nameOf(key)}: expected ${expectation(spec)}, got ${showValue(typed)}`);
  }
  for (const [key, spec] of Object.entries(table)) {
    if (given.has(key)) continue;
    if (spec.required) errors.push(`${nameOf(key)}: expected ${expectation(spec)}, got nothing; it must be given`);
    else if (spec.fallback !== undefined) values[key] = spec.fallback;
  }
  return { values, given, errors };
}

/** Throws all errors as one ERR_USAGE: a single one as it is, more as a list. */
export function failOnErrors(errors: readonly string[]): void {
  if (errors.length === 0) return;
  const text =
    errors.length === 1 ? errors[0]! : `${errors.length} options are wrong:\n${errors.map((error) => `  ${error}`).join('\n')}`;
  throw new VltuneError('ERR_USAGE', text);
}
