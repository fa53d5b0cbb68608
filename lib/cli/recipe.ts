/** Recipes: YAML files that hold the options of a command by name, in snake or kebab case. */
import { readFile, stat } from 'node:fs/promises';
import { VltuneError } from '../errors.js';
import { ioError } from '../files.js';
import type { OptionTable } from '../options.js';

/** A recipe is a page of text; anything larger is another file given by mistake. */
const LARGEST_RECIPE = 1 << 20;

export interface Recipe {
  /** By the keys of the option table; an unknown name keeps its camel-case form, so that the check can refuse it. */
  readonly values: Readonly<Record<string, unknown>>;
  /** How the recipe spells each key, with its file: `recipe.yaml: max_steps`. */
  readonly names: Readonly<Record<string, string>>;
}

/** Reads a recipe. ERR_NOT_FOUND, or ERR_USAGE naming file, line and column. Relative paths in it mean the current folder. */
export async function readRecipe(path: string, table: OptionTable): Promise<Recipe> {
  const content = await readText(path);
  const { LineCounter, parseDocument } = await import('yaml');
  const lines = new LineCounter();
  const document = parseDocument(content, { lineCounter: lines });
  const problem = document.errors[0];
  if (problem) {
    const { line, col } = lines.linePos(problem.pos[0]);
    throw new VltuneError(
      'ERR_USAGE',
      `${path}:${line}:${col}: not valid YAML: ${problem.message.split('\n')[0]!.replace(/ at line \d+.*$/, '')}`,
    );
  }
  let root: unknown;
  try {
    root = document.toJS();
  } catch (cause) {
    throw new VltuneError('ERR_USAGE', `${path}: not valid YAML: ${(cause as Error).message}`, { cause });
  }
  if (typeof root !== 'object' || root === null || Array.isArray(root)) {
    throw new VltuneError(
      'ERR_USAGE',
      `${path}: expected options, one 'name: value' a line, got ${root === null ? 'nothing' : typeof root}`,
    );
  }
  const values: Record<string, unknown> = {};
  const names: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    let key = camelCase(name);
    let given: unknown = value;
    const positive = camelCase(name.replace(/^no[-_]/, ''));
    if (!Object.hasOwn(table, key) && positive !== key && table[positive]?.kind === 'flag' && typeof value === 'boolean') {
      key = positive;
      given = !value;
    }
    if (Object.hasOwn(names, key)) throw new VltuneError('ERR_USAGE', `${names[key]} and ${name} are the same option`);
    values[key] = given;
    names[key] = `${path}: ${name}`;
  }
  return { values, names };
}

function camelCase(name: string): string {
  return name.replace(/[-_]+(.)/g, (_, letter: string) => letter.toUpperCase());
}

async function readText(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    const found = await stat(path);
    if (found.isDirectory()) throw new VltuneError('ERR_USAGE', `${path}: expected a recipe (a YAML file), found a folder`);
    if (found.size > LARGEST_RECIPE) throw new VltuneError('ERR_USAGE', `${path}: ${found.size} bytes are too many for a recipe`);
    bytes = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new VltuneError('ERR_NOT_FOUND', `${path}: no such recipe`, { cause: error });
    }
    throw ioError(error, 'read', path);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new VltuneError('ERR_USAGE', `${path}: not valid UTF-8`, { cause });
  }
}
