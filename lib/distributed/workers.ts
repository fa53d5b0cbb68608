/**
 * Data parallel training: every process holds the whole model and computes its share of an update's micro-batches; gradients are added up
 * over all before the update, which each then makes alike. On GPUs the sum is NCCL's; on CPUs, and where NCCL is not found, the group's own,
 * through the host's memory.
 */
import { availableParallelism } from 'node:os';
import { type DeviceOption, deviceKind, openDevice } from '../device.js';
import { VltuneError } from '../errors.js';
import { addon, type Communicator, type Device, type Storage } from '../native.js';
import { type OptionSpec, showValue } from '../options.js';
import { type Place, placeOf } from './place.js';
import { ProcessGroup } from './process_group.js';

export interface WorkerOptions {
  readonly device: DeviceOption;
  /** Seconds to wait for the other processes. */
  readonly ddpTimeout: number;
}

/** Those of a run that are of use while it waits for other processes. */
export interface WaitHooks {
  readonly signal?: AbortSignal | undefined;
  /** Hears once, after some seconds, which process is waited for. */
  readonly onWait?: ((what: string) => void) | undefined;
}

/** transformers' option of that name, and its default. */
export function ddpTimeoutOption(group: string): OptionSpec {
  return {
    kind: 'number',
    value: 'SECONDS',
    unit: 'seconds',
    above: 0,
    max: 1_000_000,
    fallback: 1800,
    group,
    help: 'How long to wait for the other processes, where a launcher started several',
  };
}

/** What NCCL is tried with: it connects for small and for large sums in different ways, and takes memory for each. */
const TRIAL_BYTES: readonly number[] = [4, 64 << 20];
const TRIAL_LIMIT = 1024;

export class Workers {
  readonly device: Device;
  readonly #group: ProcessGroup;
  readonly #communicator: Communicator | undefined;
  #ncclBytes = 0;

  private constructor(group: ProcessGroup, device: Device, communicator: Communicator | undefined) {
    this.#group = group;
    this.device = device;
    this.#communicator = communicator;
    group.lost.throwIfAborted(); // it may have fired with the last answer, and does not fire again
    if (communicator) group.lost.addEventListener('abort', () => addon().ncclAbort(communicator));
  }

  /** Meets the processes that a launcher started with this one; undefined: there are none. The device is open then. */
  static async join(
    { device: option, ddpTimeout }: WorkerOptions,
    { signal, onWait }: WaitHooks = {},
  ): Promise<Workers | undefined> {
    const place = placeOf();
    if (!place) return undefined;
    const group = await ProcessGroup.join(place, { timeoutMs: ddpTimeout * 1000, signal, onWait });
    try {
      shareThreads(place);
      const device = openOwnDevice(option, place);
      agree(await group.gather({ '--device': device }));
      const workers = new Workers(group, device, device === 'cuda' ? await communicator(group) : undefined);
      if (workers.#communicator) workers.#ncclBytes = await takenBy(() => workers.#tryOut());
      return workers;
    } catch (error) {
      group.fail(error);
      throw error;
    }
  }

  get rank(): number {
    return this.#group.place.rank;
  }

  /** Whether no other process of this machine comes before it. */
  get isFirstHere(): boolean {
    return this.#group.place.localRank === 0;
  }

  get size(): number {
    return this.#group.place.size;
  }

  /** Whether GPUs add up gradients through the host's memory, for want of NCCL. */
  get lacksNccl(): boolean {
    return this.device === 'cuda' && !this.#communicator;
  }

  /** What NCCL has taken of this process's GPU. */
  get ncclBytes(): number {
    return this.#ncclBytes;
  }

  /** Fires with ERR_PEER when another process has failed or is gone. */
  get lost(): AbortSignal {
    return this.#group.lost;
  }

  /** What every process gives, by rank. Returns when all have come to it. */
  async gather<T>(value: T): Promise<T[]> {
    return await this.#group.gather(value);
  }

  /** The sum of a number of each process, NaN and infinities too. */
  async total(value: number): Promise<number> {
    // As texts: JSON has no NaN.
    return (await this.#group.gather(String(value))).reduce((sum, one) => sum + Number(one), 0);
  }

  /** ERR_USAGE in every process, with what differs, unless all give the same facts. */
  async agree(facts: Readonly<Record<string, unknown>>): Promise<void> {
    agree(await this.#group.gather(facts));
  }

  /** Puts the sum over all processes in the place of the f32 at the beginning of a storage. Returns when it is made. */
  async sum({ storage, bytes }: { readonly storage: Storage; readonly bytes: number }): Promise<void> {
    if (!this.#communicator) {
      await this.#group.sum({
        length: bytes / 4,
        read: (at, into) => addon().read(storage, at * 4, into),
        write: (at, from) => addon().write(storage, at * 4, from),
      });
      return;
    }
    try {
      await addon().ncclAllReduce(this.#communicator, storage, 0, bytes / 4);
    } catch (error) {
      // What NCCL says of a sum that was given up is not why.
      throw this.lost.aborted ? this.lost.reason : error;
    }
  }

  /** Returns when every process has come to the end. */
  async leave(): Promise<void> {
    await this.#group.leave();
    if (this.#communicator) addon().release(this.#communicator);
  }

  /** Tells the others that this process can not go on. */
  fail(error: unknown): void {
    this.#group.fail(error);
  }

  /** Connects everyone before memory is planned, so that what NCCL takes is counted; a sum that is wrong is found here. */
  async #tryOut(): Promise<void> {
    for (const bytes of TRIAL_BYTES) {
      const storage = addon().allocate(bytes, 'cuda');
      try {
        const numbers = new Float32Array(Math.min(bytes / 4, TRIAL_LIMIT)).fill(this.rank + 1);
        addon().write(storage, 0, numbers);
        await this.sum({ storage, bytes });
        addon().read(storage, 0, numbers);
        const expected = (this.size * (this.size + 1)) / 2;
        const wrong = numbers.find((value) => value !== expected);
        if (wrong !== undefined)
          throw new VltuneError('ERR_DEVICE', `NCCL's sum over ${this.size} GPUs is ${wrong}, expected ${expected}`);
      } finally {
        addon().release(storage);
      }
    }
  }
}

/** undefined where a process does not find NCCL. */
async function communicator(group: ProcessGroup): Promise<Communicator | undefined> {
  const { rank, size } = group.place;
  if ((await group.gather(addon().ncclInfo().found)).includes(false)) return undefined;
  const id = rank === 0 ? Buffer.from(addon().ncclUniqueId()).toString('base64') : '';
  const [first] = await group.gather(id);
  return addon().ncclCommunicator(Buffer.from(first!, 'base64'), rank, size);
}

/** Bytes that a GPU has less after some work. */
async function takenBy(work: () => Promise<void>): Promise<number> {
  const before = addon().deviceMemory().free;
  await work();
  return Math.max(0, before - addon().deviceMemory().free);
}

/** The processor's threads are for all processes of the machine, unless the user has counted them out. */
function shareThreads({ localSize = 1 }: Place): void {
  const { VLTUNE_NUM_THREADS: own, OMP_NUM_THREADS: openMp, TORCHELASTIC_RUN_ID: torchrun } = process.env;
  // torchrun sets 1 where the user says nothing.
  if (own || (openMp && !(torchrun && openMp === '1'))) return;
  addon().setThreads(Math.max(1, Math.floor(availableParallelism() / localSize)));
}

/** The GPU of this process (`device.ts` chooses it), or the CPU. */
function openOwnDevice(option: DeviceOption, { localRank }: Place): Device {
  if (option.startsWith('cuda:')) {
    throw new VltuneError(
      'ERR_USAGE',
      `--device: expected auto, cuda or cpu where several processes train together, each on a GPU of its own, got ${showValue(option)}`,
    );
  }
  const isCpu = deviceKind(option) === 'cpu'; // which chooses the GPU, before it is asked for
  const { devices } = addon().cudaInfo();
  if (!isCpu && devices.length > 1 && localRank >= devices.length) {
    throw new VltuneError(
      'ERR_NO_DEVICE',
      `this is process ${localRank} of its machine, which has ${devices.length} GPUs: start at most one process for each`,
    );
  }
  return openDevice(option);
}

/** ERR_USAGE names what one process has otherwise than the first. */
function agree(facts: readonly Readonly<Record<string, unknown>>[]): void {
  const [first, ...others] = facts;
  const errors = others.flatMap((theirs, i) =>
    Object.keys(first!)
      .filter((key) => JSON.stringify(theirs[key]) !== JSON.stringify(first![key]))
      .map((key) => `  ${key}: process ${i + 1} has ${showValue(theirs[key])}, process 0 has ${showValue(first![key])}`),
  );
  if (errors.length === 0) return;
  throw new VltuneError('ERR_USAGE', `the processes of a run must be started alike:\n${errors.join('\n')}`);
}
