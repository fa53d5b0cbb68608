/** Which of the processes that train together this one is, as its launcher says in the environment. */
import { VltuneError } from '../errors.js';

export interface Place {
  /** From 0; that one leads: it tells of the run and writes its files. */
  readonly rank: number;
  /** Processes in all; 2 or more. */
  readonly size: number;
  /** Among those on this machine. */
  readonly localRank: number;
  /** How many are on this machine; undefined: the launcher does not say. */
  readonly localSize: number | undefined;
  /** Where the first process waits for the others. */
  readonly address: string;
  readonly port: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The variables of each launcher. The first one whose rank and size are set is believed, since it may have been started by another; of the
 * places on a machine the first variable that is set, as Slurm starts processes for MPICH's library, too.
 */
const LAUNCHERS = [
  // torchrun, accelerate, vltune launch
  { rank: 'RANK', size: 'WORLD_SIZE', localRank: ['LOCAL_RANK'], localSize: ['LOCAL_WORLD_SIZE'] },
  // Open MPI
  {
    rank: 'OMPI_COMM_WORLD_RANK',
    size: 'OMPI_COMM_WORLD_SIZE',
    localRank: ['OMPI_COMM_WORLD_LOCAL_RANK'],
    localSize: ['OMPI_COMM_WORLD_LOCAL_SIZE'],
  },
  // MPICH, Intel MPI
  {
    rank: 'PMI_RANK',
    size: 'PMI_SIZE',
    localRank: ['MPI_LOCALRANKID', 'PMI_LOCAL_RANK', 'SLURM_LOCALID'],
    localSize: ['MPI_LOCALNRANKS', 'PMI_LOCAL_SIZE'],
  },
  // srun. A batch script has SLURM_PROCID too, but is no step of several tasks.
  { rank: 'SLURM_PROCID', size: 'SLURM_STEP_NUM_TASKS', localRank: ['SLURM_LOCALID'], localSize: [] },
] as const;

/** torch's. */
const DEFAULT_PORT = 29_500;

/** This process's place; undefined: it trains alone. ERR_USAGE names the variable that is wrong. */
export function placeOf(env: Environment = process.env): Place | undefined {
  const found = ranksOf(env);
  if (!found) return undefined;
  const { names, rank, size, localSize } = found;
  // torchrun's agent keeps the port itself for a store of its own.
  const shift = env.TORCHELASTIC_USE_AGENT_STORE === 'True' ? 1 : 0;
  const port = (env.MASTER_PORT ? whole(env, 'MASTER_PORT', 1, 65_534) : DEFAULT_PORT) + shift;
  if (!env.MASTER_ADDR && localSize !== size) {
    throw new VltuneError(
      'ERR_USAGE',
      `MASTER_ADDR: expected the address of the machine with process 0 (${names.rank}=${rank}, ${names.size}=${size}), got none`,
    );
  }
  return { rank, size, localRank: found.localRank, localSize, address: env.MASTER_ADDR || '127.0.0.1', port };
}

/** This process's number among those of its machine; 0 where it is alone. It need not know where they meet. */
export function localRankOf(env: Environment = process.env): number {
  return ranksOf(env)?.localRank ?? 0;
}

function ranksOf(env: Environment) {
  const names = LAUNCHERS.find(({ rank, size }) => env[rank] && env[size]);
  if (!names) return undefined;
  const size = whole(env, names.size, 1, 65_536);
  if (size === 1) return undefined;
  const rank = whole(env, names.rank, 0, size - 1);
  const given = (variables: readonly string[]) => variables.find((name) => env[name]);
  const sizeName = given(names.localSize);
  const onOneNode = names.rank !== 'RANK' && env.SLURM_STEP_NUM_NODES === '1';
  const localSize = sizeName ? whole(env, sizeName, 1, size) : onOneNode ? size : undefined;
  const rankName = given(names.localRank);
  // Who does not number the processes of a machine starts one on each, or all on one.
  const unnumbered = isLoopback(env.MASTER_ADDR || '127.0.0.1') ? rank : 0;
  const localRank = rankName ? whole(env, rankName, 0, (localSize ?? size) - 1) : unnumbered;
  return { names, rank, size, localRank, localSize };
}

/** Whether this process speaks for its run: alone, or the first of several. */
export function leads(env: Environment = process.env): boolean {
  try {
    return (placeOf(env)?.rank ?? 0) === 0;
  } catch {
    return true;
  }
}

/** Whether an address is that of this machine to itself alone. */
export function isLoopback(address: string): boolean {
  return /^(localhost|127\.\d+\.\d+\.\d+|::1)$/.test(address);
}

function whole(env: Environment, name: string, min: number, max: number): number {
  const text = env[name]!;
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new VltuneError('ERR_USAGE', `${name}: expected a whole number from ${min} to ${max}, got ${JSON.stringify(text)}`);
}
