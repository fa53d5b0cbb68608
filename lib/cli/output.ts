/**
 * Where words go. Results are for stdout, the rest (progress, warnings, errors) for stderr. With `--json`, stdout holds one JSON
 * object a line and nothing else, and people's text moves to stderr.
 */
import { styleText } from 'node:util';
import { snakeCase } from '../options.js';

export { formatBytes, formatCount, formatSeconds } from '../format.js';

type Style = Parameters<typeof styleText>[0];

export class Output {
  readonly json: boolean;

  constructor(json: boolean) {
    this.json = json;
  }

  /** A result for people. */
  say(text = ''): void {
    (this.json ? process.stderr : process.stdout).write(`${text}\n`);
  }

  /** A remark for people that is no result. */
  note(text: string): void {
    process.stderr.write(`${text}\n`);
  }

  warn(text: string): void {
    process.stderr.write(`vltune: warning: ${text}\n`);
  }

  /** A piece of a result, as it comes; nothing with `--json`. */
  stream(text: string): void {
    if (!this.json) process.stdout.write(text);
  }

  /** One line of JSON, keys in snake case; nothing without `--json`. */
  emit(value: Readonly<Record<string, unknown>>): void {
    if (this.json) process.stdout.write(`${JSON.stringify(snakeKeys(value))}\n`);
  }

  /** Coloured text if `say` writes to a terminal that wants it. */
  style(style: Style, text: string): string {
    return wantsColour(this.json ? process.stderr : process.stdout) ? styleText(style, text) : text;
  }
}

/** https://no-color.org, and FORCE_COLOR as Node reads it. */
function wantsColour(stream: NodeJS.WriteStream): boolean {
  if (process.env.NO_COLOR) return false;
  if (process.env.FORCE_COLOR !== undefined) return process.env.FORCE_COLOR !== '0';
  return stream.isTTY === true && process.env.TERM !== 'dumb';
}

function snakeKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(snakeKeys);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [snakeCase(key), snakeKeys(item)]));
}

/** Columns of text; those named in `right` are set to the right. */
export function formatTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
): string {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (row: readonly string[]): string =>
    widths
      .map((width, column) => (right.includes(column) ? (row[column] ?? '').padStart(width) : (row[column] ?? '').padEnd(width)))
      .join('  ')
      .trimEnd();
  return [line(head), widths.map((width) => '─'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}
