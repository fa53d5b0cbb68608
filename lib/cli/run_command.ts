/** Runs a command: options in, signals heard, errors told in one line, an exit code out. */
import { leads } from '../distributed/place.js';
import { isUserError, VltuneError } from '../errors.js';
import { type CommandSpec, parseCommand, QuietExit } from './command.js';

/** Set for the processes that `vltune launch` starts, with a channel that ends when it does. */
export const LAUNCHED = 'VLTUNE_LAUNCHED';

export const EXIT_DONE = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_INTERRUPTED = 130;

/**
 * One Ctrl-C may come twice: to the group and, by the program that started us (npm, timeout), to us alone. What follows sooner
 * than this is the same wish.
 */
const SAME_SIGNAL_MS = 500;

/** Runs a command to its end. Never rejects. */
export async function runCommand(command: CommandSpec, args: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  let first = 0;
  const onSignal = (): void => {
    if (interrupt.signal.aborted) {
      if (performance.now() - first >= SAME_SIGNAL_MS) process.exit(EXIT_INTERRUPTED);
      return;
    }
    first = performance.now();
    if (command.name !== 'launch' && leads())
      process.stderr.write('\nvltune: stopping after this step; once more to stop at once\n');
    interrupt.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  if (process.env[LAUNCHED] === '1') {
    process.on('disconnect', onSignal);
    process.channel?.unref();
  }
  try {
    const { given, output } = await parseCommand(command, args);
    await command.run({ given, output, signal: interrupt.signal });
    return EXIT_DONE;
  } catch (error) {
    if (error instanceof QuietExit) return error.exitCode;
    return report(error);
  } finally {
    // Once interrupted the process is about to end with its own exit code: a late second signal must not take that from it.
    if (!interrupt.signal.aborted) {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
      process.off('disconnect', onSignal);
    }
  }
}

const NATIVE_CODES: ReadonlySet<string> = new Set([
  'ERR_SHAPE',
  'ERR_DTYPE',
  'ERR_ARGUMENT',
  'ERR_OUT_OF_MEMORY',
  'ERR_NO_DEVICE',
  'ERR_DEVICE',
  'ERR_IO',
  'ERR_CANCELLED',
  'ERR_INTERNAL',
]);

/** Says what went wrong and tells the exit code. Only an error that vltune did not foresee has its stack shown. */
function report(error: unknown): number {
  const code = (error as { code?: unknown } | undefined)?.code;
  const message = error instanceof Error ? error.message : String(error);
  // Native errors carry vltune's codes; the loader of the addon begins its list of remedies with our name.
  const foreseen = error instanceof VltuneError || NATIVE_CODES.has(String(code)) || message.startsWith('vltune: ');
  // What the first process has told already.
  if (!leads() && code === 'ERR_CANCELLED') return EXIT_INTERRUPTED;
  if (!leads() && code === 'ERR_PEER' && message.startsWith('process 0 failed: ')) return EXIT_FAILED;
  process.stderr.write(
    foreseen
      ? `vltune: ${message.replace(/^vltune: /, '')}\n`
      : `vltune: unforeseen error, please report it: ${(error as Error)?.stack ?? message}\n`,
  );
  if (code === 'ERR_CANCELLED') return EXIT_INTERRUPTED;
  return isUserError(error) ? EXIT_USAGE : EXIT_FAILED;
}
