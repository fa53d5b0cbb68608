/** Which linear layers get an adapter: target_modules and exclude_modules, read as PEFT reads them. */
import { VltuneError } from '../errors.js';
import { printable } from './json.js';
import { fromPythonRegex } from './python_regex.js';

/**
 * A list names modules by the end of their path (`q_proj`, `self_attn.q_proj` or the whole path); a string is a regular
 * expression in Python's syntax that must match the whole path; `all-linear` is every linear layer but the output head.
 */
export type ModulePattern = string | readonly string[];

const ALL_LINEAR = 'all-linear';

/** Whether a module path is that of the output head, which `all-linear` leaves out. */
function isOutputHead(name: string): boolean {
  return name === 'lm_head' || name.endsWith('.lm_head');
}

function matcher(pattern: ModulePattern, option: string): (name: string) => boolean {
  if (typeof pattern === 'string') {
    const regex = fromPythonRegex(pattern, option);
    return (name) => regex.test(name);
  }
  return (name) => pattern.some((target) => name === target || name.endsWith(`.${target}`));
}

export interface MatchOptions {
  /** Modules to leave out: a list (by the end of the path) or a regular expression. */
  readonly exclude?: ModulePattern;
  /** Name of the option for errors. Default `--target-modules`. */
  readonly option?: string;
}

/**
 * Those of `moduleNames` (paths of the model's linear layers, as `model.language_model.layers.0.self_attn.q_proj`) that
 * `target` means, in their order. ERR_USAGE if the pattern is not valid or nothing matches.
 */
export function matchTargetModules(moduleNames: readonly string[], target: ModulePattern, options: MatchOptions = {}): string[] {
  const option = options.option ?? '--target-modules';
  if (target.length === 0)
    throw new VltuneError('ERR_USAGE', `${option}: expected module names, a regular expression or ${ALL_LINEAR}, got nothing`);
  const isTarget =
    typeof target === 'string' && target.toLowerCase() === ALL_LINEAR
      ? (name: string) => !isOutputHead(name)
      : matcher(target, option);
  const isExcluded =
    options.exclude === undefined || options.exclude.length === 0 ? () => false : matcher(options.exclude, '--exclude-modules');
  const targets = moduleNames.filter(isTarget);
  const matched = targets.filter((name) => !isExcluded(name));
  if (matched.length === 0) {
    const wanted =
      typeof target === 'string' ? `"${printable(target)}"` : target.map((name) => `"${printable(name)}"`).join(', ');
    const why =
      targets.length > 0
        ? `all ${targets.length} layers that ${wanted} matches are excluded`
        : `${wanted} matches no linear layer`;
    const ends = [...new Set(moduleNames.map((name) => name.slice(name.lastIndexOf('.') + 1)))].sort();
    throw new VltuneError('ERR_USAGE', `${option}: ${why}; the model's linear layers are called ${ends.join(', ')}`);
  }
  return matched;
}

/** Unsloth's `finetune_*` options: what may get an adapter, by where it is and what it is part of. Absent: on. */
export interface LayerScope {
  readonly vision?: boolean | undefined;
  readonly language?: boolean | undefined;
  readonly attention?: boolean | undefined;
  readonly mlp?: boolean | undefined;
}

/** What Unsloth knows the parts of a model by, in the paths of its layers. */
const VISION = /vision|image|visual|patch/;
const ATTENTION = /self_attn|attention|attn/;
const MLP = /mlp|feed_forward|ffn|dense/;

/** Whether any option narrows the choice. */
export function isScoped({ vision, language, attention, mlp }: LayerScope): boolean {
  return [vision, language, attention, mlp].includes(false);
}

/** Those of `moduleNames` that are in scope. A scope that is narrowed leaves out what is neither attention nor feed-forward, as Unsloth's. */
export function inScope(moduleNames: readonly string[], scope: LayerScope): string[] {
  if (!isScoped(scope)) return [...moduleNames];
  const { vision = true, language = true, attention = true, mlp = true } = scope;
  return moduleNames.filter(
    (name) => (VISION.test(name) ? vision : language) && ((attention && ATTENTION.test(name)) || (mlp && MLP.test(name))),
  );
}

/** Entries of a list that match no linear layer: likely misspelled. PEFT passes over them in silence. */
export function unmatchedTargets(moduleNames: readonly string[], target: ModulePattern): string[] {
  if (typeof target === 'string') return [];
  return target.filter((entry) => !moduleNames.some(matcher([entry], '')));
}
