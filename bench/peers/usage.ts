/** Options of the commands that measure peers: a mistake ends the command with exit code 2 and a line that names it. */
import { existsSync } from 'node:fs';
import { type ParseArgsConfig, parseArgs } from 'node:util';

export class Usage {
  readonly #command: string;

  constructor(command: string) {
    this.#command = command;
  }

  fail(message: string): never {
    process.stderr.write(`${this.#command}: ${message}\n`);
    process.exit(2);
  }

  /** The options of this process's command line. */
  parse<const T extends NonNullable<ParseArgsConfig['options']>>(
    options: T,
  ): ReturnType<typeof parseArgs<{ options: T }>>['values'] {
    try {
      return parseArgs({ options }).values;
    } catch (error) {
      this.fail((error as Error).message);
    }
  }

  number(name: string, text: string): number {
    const value = Number(text);
    if (!(value > 0)) this.fail(`--${name}: expected a number above 0, got ${JSON.stringify(text)}`);
    return value;
  }

  python(path = ''): string {
    if (!existsSync(path)) this.fail(`--python: expected a Python interpreter with torch, got ${JSON.stringify(path)}`);
    return path;
  }
}
