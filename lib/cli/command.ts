/** What a command is, and how its option table becomes a command line: parsing, `--help`, recipes and errors. */
import { Command, CommanderError, Option } from 'commander';
import { type GivenOptions, kebabCase, nearestName, type OptionSpec, type OptionTable, optionName } from '../options.js';
import { Output } from './output.js';
import { readRecipe } from './recipe.js';

export interface CommandContext {
  /** What was given, on the command line and in the recipe, not yet checked. */
  readonly given: Required<GivenOptions>;
  readonly output: Output;
  /** Fires at the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
}

export interface CommandSpec {
  readonly name: string;
  /** One sentence. */
  readonly summary: string;
  readonly table: OptionTable;
  /** Whether a YAML file with options may come first. */
  readonly recipe: boolean;
  /** The key of a required option that is given without its name: the command's one argument, or if it is a list all words from the first on. */
  readonly argument?: string;
  /** Shown under the options in `--help`. */
  readonly examples: readonly string[];
  run(context: CommandContext): Promise<void>;
}

const GENERAL = 'General:';
const JSON_HELP = 'Print one JSON object a line on stdout and nothing else there';

/** The end of a command that has told all: help was printed, commander has explained bad usage, or a process that was started did. */
export class QuietExit extends Error {
  readonly exitCode: number;

  constructor(exitCode: number) {
    super();
    this.exitCode = exitCode;
  }
}

/** Parses the arguments after the command's name. Throws QuietExit, or what is wrong with the recipe. */
export async function parseCommand(
  spec: CommandSpec,
  args: readonly string[],
): Promise<{ given: Required<GivenOptions>; output: Output }> {
  const command = buildCommand(spec);
  try {
    command.parse(args, { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) throw new QuietExit(error.exitCode === 0 ? 0 : 2);
    throw error;
  }
  const { json, ...fromLine } = command.opts<Record<string, unknown>>();
  const { argument } = spec;
  if (argument !== undefined) fromLine[argument] = spec.table[argument]!.kind === 'list' ? command.args : command.args[0];
  const path = spec.recipe ? command.args[0] : undefined;
  const recipe = path === undefined ? { values: {}, names: {} as Record<string, string> } : await readRecipe(path, spec.table);
  const onLine = (key: string): boolean => Object.hasOwn(fromLine, key);
  return {
    output: new Output(json === true),
    given: {
      values: { ...recipe.values, ...fromLine },
      isText: onLine,
      nameOf: (key) => {
        if (key === argument) return spec.table[key]!.value!;
        return onLine(key) || path === undefined ? optionName(key) : (recipe.names[key] ?? optionName(key));
      },
    },
  };
}

function buildCommand(spec: CommandSpec): Command {
  const command = new Command(`vltune ${spec.name}`)
    .description(spec.summary)
    .exitOverride()
    .allowExcessArguments(false)
    .showSuggestionAfterError(false)
    .addHelpOption(new Option('-h, --help', 'Show this help').helpGroup(GENERAL))
    .configureHelp({ helpWidth: Math.min(120, process.stdout.columns ?? 100), optionTerm })
    .configureOutput({ outputError: (text, write) => write(explain(text, spec)) });
  if (spec.recipe) command.argument('[recipe.yaml]', 'options by name, in snake or kebab case; the command line goes before it');
  for (const [key, option] of Object.entries(spec.table)) {
    if (key !== spec.argument) addOption(command, key, option);
    else command.argument(`<${option.value}>`, option.help).passThroughOptions(option.kind === 'list');
  }
  command.addOption(new Option('--json', JSON_HELP).helpGroup(GENERAL));
  command.addHelpText(
    'after',
    `\nExamples:\n${spec.examples.map((line) => `  $ ${line}`).join('\n')}\n\nExit codes: 0 done, 1 the run failed, 2 bad usage or bad input, 130 interrupted.`,
  );
  return command;
}

function addOption(command: Command, key: string, spec: OptionSpec): void {
  const name = optionName(key);
  const short = spec.short === undefined ? '' : `-${spec.short}, `;
  const value = spec.value ?? 'VALUE';
  const argument = spec.kind === 'flag' ? '' : spec.kind === 'flag-or-text' ? ` [${value}]` : ` <${value}>`;
  const option = new Option(`${short}${name}${argument}`, describeOption(spec)).helpGroup(`${spec.group}:`);
  command.addOption(option);
  if (spec.kind !== 'flag' || spec.onOnly) return;
  PAIRED.add(option);
  command.addOption(new Option(`--no-${kebabCase(key)}`).hideHelp());
}

/** The help of an option: its sentence, unit and default. */
export function describeOption(spec: OptionSpec): string {
  const facts: string[] = [];
  if (spec.unit !== undefined) facts.push(spec.unit);
  if (spec.choices) facts.push(spec.choices.join(' | '));
  if (spec.required) facts.push('required');
  else facts.push(`default: ${spec.defaultText ?? showFallback(spec)}`);
  return `${spec.help} (${facts.join('; ')})`;
}

function showFallback(spec: OptionSpec): string {
  const { fallback } = spec;
  if (fallback === undefined) return 'none';
  if (typeof fallback === 'boolean') return fallback ? 'on' : 'off';
  return String(fallback);
}

/** `--packing, --no-packing` on one line. */
function optionTerm(option: Option): string {
  return PAIRED.has(option) ? `${option.flags}, --no-${option.long!.slice(2)}` : option.flags;
}

/** Options that have a `--no-` form: their help names both. */
const PAIRED = new WeakSet<Option>();

/** commander's error in vltune's words, with the nearest name for an unknown option. */
function explain(text: string, { table, argument }: CommandSpec): string {
  const message = text.trim().replace(/^error: /, '');
  const unknown = /^unknown option '(-[^']*)'/.exec(message)?.[1];
  if (unknown === undefined) return `vltune: ${message}\n`;
  const named = Object.entries(table).filter(([key]) => key !== argument);
  const known = named.flatMap(([key, spec]) => [
    optionName(key),
    ...(spec.kind === 'flag' && !spec.onOnly ? [`--no-${kebabCase(key)}`] : []),
  ]);
  const near = nearestName(unknown.replace(/=.*$/s, '').replaceAll('_', '-'), [...known, '--json', '--help']);
  return `vltune: unknown option ${unknown}${near === undefined ? '; --help lists them' : `; did you mean ${near}?`}\n`;
}
