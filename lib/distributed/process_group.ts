/**
 * The processes of one run, connected through the first of them. All call the same functions in the same order; each returns when every
 * process has come to it. Large sums on GPUs take NCCL's way (`workers.ts`); this one carries words and numbers of the host.
 */
import { once } from 'node:events';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { VltuneError } from '../errors.js';
import { packageVersion } from '../version.js';
import { Channel } from './channel.js';
import { isLoopback, type Place } from './place.js';

export interface JoinOptions {
  /** How long to wait for the others. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Hears once, after some seconds, for what this process waits. */
  readonly onWait?: ((what: string) => void) | undefined;
}

/** Numbers that lie elsewhere: a GPU's memory, or an array's. */
export interface Numbers {
  readonly length: number;
  read(at: number, into: Float32Array): void;
  write(at: number, from: Float32Array): void;
}

/** The time until a group is there. */
interface Meeting {
  readonly place: Place;
  /** Ends the waiting. */
  readonly signal: AbortSignal;
  /** Who is not there yet, in words. */
  missing: () => string;
}

/** What a process says of itself when it comes. */
interface Hello {
  readonly vltune: string;
  readonly rank: number;
  readonly size: number;
}

const HELLO_LIMIT = 4096;
/** A piece of a sum, or what all processes say together. */
const MESSAGE_LIMIT = 16 << 20;
/** Elements of a piece of a sum: few enough for a core's cache; and how many pieces are sent before the first comes back. */
const PIECE = 2 ** 18;
const AHEAD = 8;
const RETRY_MS = 100;
/** Before it is told that others are waited for. */
const PATIENCE_MS = 5000;

export class ProcessGroup {
  readonly place: Place;
  /** To each of the others (in the first process), or to the first alone. */
  readonly #channels: readonly Channel[];
  readonly #lost = new AbortController();
  #hasEnded = false;

  private constructor(place: Place, channels: readonly Channel[]) {
    this.place = place;
    this.#channels = channels;
    for (const channel of channels) {
      channel.limit = MESSAGE_LIMIT;
      channel.onEnd = (error) => this.fail(error);
    }
  }

  /**
   * Meets the others. ERR_PEER says which of them did not come in time, ERR_CANCELLED that the caller gave up; ERR_USAGE if the port is
   * taken.
   */
  static async join(place: Place, { timeoutMs, signal: given, onWait }: JoinOptions): Promise<ProcessGroup> {
    const timeout = AbortSignal.timeout(timeoutMs);
    const signal = given ? AbortSignal.any([given, timeout]) : timeout;
    const meeting: Meeting = { place, signal, missing: () => '' };
    const told = setTimeout(() => onWait?.(`waiting: ${meeting.missing()}`), PATIENCE_MS);
    try {
      const group = new ProcessGroup(place, place.rank === 0 ? await gatherOthers(meeting) : [await findFirst(meeting)]);
      meeting.missing = () => `not all of ${place.size} processes have come to ${place.address}:${place.port}`;
      const giveUp = () => group.fail(notThere(meeting));
      signal.addEventListener('abort', giveUp);
      try {
        await group.gather(null); // everyone is there
      } catch (error) {
        throw signal.aborted ? notThere(meeting) : error;
      } finally {
        signal.removeEventListener('abort', giveUp);
      }
      return group;
    } finally {
      clearTimeout(told);
    }
  }

  /** Fires with ERR_PEER when another process has failed or is gone. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** What every process gives, by rank. JSON carries it. */
  async gather<T>(value: T): Promise<T[]> {
    const mine = Buffer.from(JSON.stringify(value));
    if (this.place.rank !== 0) {
      this.#channels[0]!.send('values', mine);
      return parse(await this.#receive(this.#channels[0]!, 'values')) as T[];
    }
    const theirs = await Promise.all(this.#channels.map(async (channel) => parse(await this.#receive(channel, 'values')) as T));
    const all = Buffer.from(JSON.stringify([value, ...theirs]));
    for (const channel of this.#channels) channel.send('values', all);
    return parse(all) as T[];
  }

  /**
   * Puts the sum over all processes in the place of f32 numbers, added in the order of ranks: every process has the same bits. It goes in
   * pieces, so that some are added up while others are on their way, in both directions, and few of them are in memory.
   */
  async sum(numbers: Numbers): Promise<void> {
    const pieces = Math.ceil(numbers.length / PIECE);
    const read = (piece: number): Float32Array => {
      const into = new Float32Array(Math.min(PIECE, numbers.length - piece * PIECE));
      numbers.read(piece * PIECE, into);
      return into;
    };
    if (this.place.rank === 0) {
      for (let piece = 0; piece < pieces; piece++) {
        const sum = read(piece);
        for (const theirs of await Promise.all(this.#channels.map((channel) => this.#receive(channel, 'numbers')))) {
          const addends = floatsOf(theirs);
          for (let i = 0; i < sum.length; i++) sum[i]! += addends[i]!;
        }
        numbers.write(piece * PIECE, sum);
        for (const channel of this.#channels) channel.send('numbers', bytesOf(sum));
      }
      return;
    }
    const [first] = this.#channels;
    for (let piece = 0; piece < pieces + AHEAD; piece++) {
      if (piece < pieces) first!.send('numbers', bytesOf(read(piece)));
      if (piece >= AHEAD) numbers.write((piece - AHEAD) * PIECE, floatsOf(await this.#receive(first!, 'numbers')));
    }
  }

  /** Ends it when every process has come to this. */
  async leave(): Promise<void> {
    await this.gather(null);
    this.#close();
  }

  /** Ends it because this process can not go on: the others hear why. Nothing happens where it has ended already. */
  fail(error: unknown): void {
    if (this.#hasEnded) return;
    const told = error instanceof VltuneError && error.code === 'ERR_PEER';
    const reason = told ? error : new VltuneError('ERR_PEER', `process ${this.place.rank} failed: ${(error as Error).message}`);
    this.#lost.abort(reason);
    for (const channel of this.#channels) channel.send('failure', Buffer.from(reason.message));
    this.#close(reason);
  }

  async #receive(channel: Channel, kind: 'values' | 'numbers'): Promise<Uint8Array> {
    try {
      return await channel.receive(kind);
    } catch (error) {
      this.fail(error);
      // Where several fail at once, the first that was heard of.
      throw this.#lost.signal.reason;
    }
  }

  #close(reason?: VltuneError): void {
    this.#hasEnded = true;
    for (const channel of this.#channels) channel.close(reason);
  }
}

function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

function bytesOf(numbers: Float32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
}

/** In the first process: the others, by rank. */
async function gatherOthers(meeting: Meeting): Promise<Channel[]> {
  const { size, address, port } = meeting.place;
  const channels = new Map<number, Channel>();
  meeting.missing = () => {
    const ranks = Array.from({ length: size - 1 }, (_, i) => i + 1).filter((rank) => !channels.has(rank));
    return `process ${ranks.join(', ')} of ${size} has not come to ${address}:${port}`;
  };
  const strangers = new Set<Socket>();
  const server = createServer();
  const everyone = new Promise<void>((resolve, reject) => {
    server.on('connection', (socket) => {
      strangers.add(socket);
      welcome(socket, size, channels).then(
        (isOurs) => {
          if (isOurs) strangers.delete(socket);
          if (channels.size === size - 1) resolve();
        },
        (error) => error.code === 'ERR_USAGE' && reject(error), // else it was someone else's
      );
    });
    meeting.signal.addEventListener('abort', () => reject(notThere(meeting)));
  });
  try {
    await Promise.all([listen(server, port, isLoopback(address) ? address : undefined), everyone]);
  } catch (error) {
    for (const channel of channels.values()) {
      channel.send('failure', Buffer.from((error as Error).message));
      channel.close();
    }
    throw error;
  } finally {
    server.close();
    for (const socket of strangers) socket.destroy(); // who is silent would keep this process alive
  }
  return [...channels].sort(([a], [b]) => a - b).map(([, channel]) => channel);
}

/** Takes in one of the others, if it is one. ERR_USAGE if it belongs to the run, but can not be part of it. */
async function welcome(socket: Socket, size: number, channels: Map<number, Channel>): Promise<boolean> {
  const channel = new Channel(socket, `the process at ${socket.remoteAddress}`, HELLO_LIMIT);
  const theirs = parse(await channel.receive('values')) as Partial<Hello> | null;
  const { rank, vltune } = theirs ?? {};
  if (typeof rank !== 'number' || typeof vltune !== 'string') {
    channel.drop('not a process of vltune');
    return false;
  }
  const own = packageVersion();
  const fault =
    vltune !== own
      ? `process ${rank} is vltune ${vltune}, process 0 is ${own}`
      : theirs!.size !== size
        ? `process ${rank} counts ${theirs!.size} processes, process 0 ${size}`
        : channels.has(rank) || rank < 1 || rank >= size
          ? `two processes have the rank ${rank}`
          : undefined;
  if (fault !== undefined) {
    channel.send('failure', Buffer.from(fault));
    channel.close();
    throw new VltuneError('ERR_USAGE', fault);
  }
  channel.name = `process ${rank}`;
  channels.set(rank, channel);
  return true;
}

/** In the others: the first one, which may not be there yet. */
async function findFirst(meeting: Meeting): Promise<Channel> {
  const { signal, place } = meeting;
  const { rank, size, address, port } = place;
  let reason = '';
  meeting.missing = () => `process 0 is not at ${address}:${port} (MASTER_ADDR and MASTER_PORT)${reason ? `: ${reason}` : ''}`;
  while (!signal.aborted) {
    const socket = createConnection({ host: address, port });
    try {
      await once(socket, 'connect', { signal });
      const channel = new Channel(socket, 'process 0', HELLO_LIMIT);
      channel.send('values', Buffer.from(JSON.stringify({ vltune: packageVersion(), rank, size } satisfies Hello)));
      return channel;
    } catch (error) {
      socket.destroy();
      if (!signal.aborted) reason = (error as Error).message;
      await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
    }
  }
  throw notThere(meeting);
}

async function listen(server: Server, port: number, host: string | undefined): Promise<void> {
  server.listen({ port, host, exclusive: true });
  await once(server, 'listening').catch((error: Error) => {
    throw new VltuneError('ERR_USAGE', `MASTER_PORT: process 0 can not listen on ${port}: ${error.message}`, { cause: error });
  });
}

/** Why the waiting ended: time is over, or the caller gave up. */
function notThere({ signal, missing }: Meeting): VltuneError {
  if ((signal.reason as Error | undefined)?.name === 'TimeoutError') {
    return new VltuneError('ERR_PEER', `${missing()}, and --ddp-timeout is over`);
  }
  return new VltuneError('ERR_CANCELLED', `stopped while waiting: ${missing()}`);
}

function parse(payload: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(payload).toString());
  } catch {
    return null;
  }
}
