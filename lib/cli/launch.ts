/**
 * `vltune launch`: starts a command once for each GPU of this machine, as torchrun, mpirun or srun would; the names of the options and of the
 * variables that tell each process its place are torchrun's.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { freePort } from '../distributed/free_port.js';
import { VltuneError } from '../errors.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { type CommandContext, type CommandSpec, QuietExit } from './command.js';
import { EXIT_INTERRUPTED, LAUNCHED } from './run_command.js';

const GROUP = 'Processes';

const TABLE: OptionTable = {
  command: {
    kind: 'list',
    value: 'COMMAND...',
    required: true,
    group: GROUP,
    help: 'train, bench step, or a script for Node, and its arguments',
  },
  nprocPerNode: {
    kind: 'integer',
    value: 'N',
    unit: 'processes',
    min: 1,
    max: 1024,
    required: true,
    group: GROUP,
    help: 'Processes to start here, one a GPU',
  },
  nnodes: {
    kind: 'integer',
    value: 'N',
    unit: 'machines',
    min: 1,
    max: 65_536,
    fallback: 1,
    group: GROUP,
    help: 'Machines in all',
  },
  nodeRank: {
    kind: 'integer',
    value: 'N',
    min: 0,
    max: 65_535,
    fallback: 0,
    group: GROUP,
    help: 'Which of the machines this is, from 0',
  },
  masterAddr: {
    kind: 'text',
    value: 'HOST',
    fallback: '127.0.0.1',
    group: GROUP,
    help: 'Address of machine 0, where the processes meet',
  },
  masterPort: {
    kind: 'integer',
    value: 'PORT',
    min: 1,
    max: 65_534,
    defaultText: 'one that is free; 29500 with several machines',
    group: GROUP,
    help: 'Port there',
  },
};

/** What learns of its place and shares its work. */
const TOGETHER = ['train', 'bench step'];
/** One that calls `train`. */
const SCRIPT = /\.[cm]?[jt]s$/;
const SEVERAL_MACHINES_PORT = 29_500;
/** After one process has failed: how long the others have to end by themselves, and then, when told to, to save a checkpoint and end. */
const OWN_END_MS = 5_000;
const TOLD_END_MS = 300_000;

interface Ended {
  readonly rank: number;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  const words = (values.command ?? []) as string[];
  const [here, nodes, node] = [values.nprocPerNode as number, values.nnodes as number, values.nodeRank as number];
  const isScript = SCRIPT.test(words[0] ?? '');
  const isTogether = isScript || TOGETHER.some((name) => words.slice(0, name.split(' ').length).join(' ') === name);
  if (words.length > 0 && !isTogether)
    errors.push(`COMMAND: expected ${TOGETHER.join(', ')} or a script for Node, got ${words[0]}`);
  if (node >= nodes) errors.push(`${given.nameOf('nodeRank')}: expected 0 to ${nodes - 1}, got ${node}`);
  failOnErrors(errors);
  const port = values.masterPort ?? (nodes === 1 ? await freePort() : SEVERAL_MACHINES_PORT);

  if (signal.aborted) throw new QuietExit(EXIT_INTERRUPTED);
  const main = fileURLToPath(new URL('./main.js', import.meta.url));
  const args = isScript ? words : [main, ...words, ...(output.json ? ['--json'] : [])];
  const children = Array.from({ length: here }, (_, local) => {
    const env = {
      ...process.env,
      RANK: String(node * here + local),
      WORLD_SIZE: String(nodes * here),
      LOCAL_RANK: String(local),
      LOCAL_WORLD_SIZE: String(here),
      MASTER_ADDR: values.masterAddr as string,
      MASTER_PORT: String(port),
      [LAUNCHED]: '1',
    };
    // The channel carries nothing: that it ends tells a process that we are gone, whatever has ended us (`run_command.ts`).
    return spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  });
  // On Windows every process of a console hears Ctrl-C itself, and to be sent it is to be ended.
  if (process.platform !== 'win32') signal.addEventListener('abort', () => killAll(children, 'SIGINT'));
  const ends = children.map((child, local) => endOf(child, node * here + local));
  const first = await firstFailure(ends);
  if (!first) return;
  const timers = [
    setTimeout(killAll, OWN_END_MS, children, 'SIGTERM'),
    setTimeout(killAll, OWN_END_MS + TOLD_END_MS, children, 'SIGKILL'),
  ];
  const all = await Promise.all(ends);
  for (const timer of timers) clearTimeout(timer);
  if (signal.aborted) throw new QuietExit(EXIT_INTERRUPTED);
  if (first.code === null) throw new VltuneError('ERR_PEER', `process ${first.rank} was ended by ${first.signal}`);
  // One that ended because another did ends with 1: what the other ended with says more.
  throw new QuietExit(all.find(({ code }) => code !== null && code > 1)?.code ?? first.code);
}

function killAll(children: readonly ChildProcess[], signal: NodeJS.Signals): void {
  for (const child of children) if (child.exitCode === null) child.kill(signal);
}

async function endOf(child: ChildProcess, rank: number): Promise<Ended> {
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return { rank, code, signal };
}

/** The first process to end otherwise than well; undefined when all have ended well. */
async function firstFailure(ends: readonly Promise<Ended>[]): Promise<Ended | undefined> {
  return await new Promise((resolve, reject) => {
    for (const end of ends) end.then((one) => one.code !== 0 && resolve(one), reject);
    Promise.all(ends).then(() => resolve(undefined), reject);
  });
}

export const command: CommandSpec = {
  name: 'launch',
  summary: 'Start a command once for each of several GPUs; the processes train together, each on its share of every update.',
  table: TABLE,
  argument: 'command',
  recipe: false,
  examples: [
    'vltune launch --nproc-per-node 2 train recipe.yaml',
    'vltune launch --nproc-per-node 2 my_trainer.mjs',
    'vltune launch --nproc-per-node 8 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 train recipe.yaml',
  ],
  run,
};
