#!/usr/bin/env node
/**
 * The command `vltune`. It knows the names of the commands and loads the one that is asked for; an exit code is 0 for done, 1 for
 * a run that failed, 2 for bad usage or bad input, 130 for an interrupted one.
 */
import { Command, CommanderError } from 'commander';
import { packageVersion } from '../version.js';
import type { CommandSpec } from './command.js';

interface CommandEntry {
  readonly summary: string;
  readonly load: () => Promise<{ readonly command: CommandSpec }>;
}

const COMMANDS: Readonly<Record<string, CommandEntry>> = {
  demo: { summary: 'Do the whole job once on the shipped tiny model', load: () => import('./demo.js') },
  convert: { summary: 'Turn an Alpaca file into messages', load: () => import('./convert.js') },
  train: { summary: 'Fine-tune a model on a dataset', load: () => import('./train.js') },
  launch: { summary: 'Start a command once for each of several GPUs', load: () => import('./launch.js') },
  generate: { summary: 'Let a model answer', load: () => import('./generate.js') },
  report: { summary: 'Write a training run as one HTML file', load: () => import('./report.js') },
  merge: { summary: 'Merge an adapter into its model', load: () => import('./merge.js') },
  quantize: { summary: 'Store a model in 4 bits', load: () => import('./quantize.js') },
  plan: { summary: 'Tell what a training run will need', load: () => import('./plan.js') },
  doctor: { summary: 'Tell what this machine has and what vltune will use', load: () => import('./doctor.js') },
  bench: { summary: 'Measure the kernels on this machine', load: () => import('./bench.js') },
  'bench step': { summary: 'Time a training step of true size on random weights', load: () => import('./bench_step.js') },
  'bench generate': { summary: 'Time generation at true size on random weights', load: () => import('./bench_generate.js') },
};

/** Help, version and everything that names no command. */
function topLevel(args: readonly string[]): number {
  const program = new Command('vltune')
    .description('Fine-tune vision-language models from Node.js: NF4, LoRA and 8-bit AdamW, no Python')
    .version(packageVersion(), '-v, --version', 'Show the version')
    .helpOption('-h, --help', 'Show this help')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({
      outputError: (text, write) =>
        write(
          `vltune: ${text
            .trim()
            .replace(/^error: /, '')
            .replace(/\n/g, ' ')}\n`,
        ),
    })
    .addHelpText('after', "\n'vltune COMMAND --help' shows a command's options.");
  // A whole command by name: `command` would read the second word of 'bench step' as an argument.
  for (const [name, { summary }] of Object.entries(COMMANDS))
    program.addCommand(new Command(name).description(summary).action(() => {}));
  if (args.length === 0) {
    program.outputHelp({ error: true });
    return 2;
  }
  try {
    program.parse(args, { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    throw error;
  }
  return 0;
}

async function main(): Promise<number> {
  const args = process.argv.slice(2);
  const isHelp = args[0] === 'help' && args[1] !== undefined;
  const words = isHelp ? args.slice(1) : args;
  // A command is one word or two.
  const length = [2, 1].find((count) => Object.hasOwn(COMMANDS, words.slice(0, count).join(' ')));
  if (length === undefined) return topLevel(args[0] === 'help' ? ['--help'] : args);
  const entry = COMMANDS[words.slice(0, length).join(' ')]!;
  const [{ command }, { runCommand }] = await Promise.all([entry.load(), import('./run_command.js')]);
  return await runCommand(command, isHelp ? ['--help'] : words.slice(length));
}

// A reader that goes away (`vltune … | head`) ends the command quietly, as it ends any other.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
}

const code = await main();
// Whatever is still open (a worker of native code, a socket) must not hold the shell: what was written is flushed, then we go.
process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
