/** Messages between two processes over a socket: a byte that says what follows, its length in four (little endian), and that. */
import type { Socket } from 'node:net';
import { VltuneError } from '../errors.js';

/** `values`: JSON. `numbers`: bytes as they lie in memory. `failure`: why the sender gives up, in words; the last that it says. */
export type MessageKind = 'values' | 'numbers' | 'failure';

const KINDS: readonly MessageKind[] = ['values', 'numbers', 'failure'];
const HEADER_BYTES = 5;
const LINGER_MS = 2000;

interface Message {
  readonly kind: MessageKind;
  readonly payload: Uint8Array;
}

export class Channel {
  /** Bytes of a message at most: a stranger who finds the port shall not make us take memory. */
  limit: number;
  /** What errors call the other side. */
  name: string;
  /** Hears once that the other side is gone or gave up; not after `close`. */
  onEnd: (error: VltuneError) => void = () => {};
  readonly #socket: Socket;
  /** What has come of a header, and then of what it announces. */
  #header: Buffer = Buffer.alloc(0);
  #incoming: { readonly kind: MessageKind; readonly payload: Uint8Array; filled: number } | undefined;
  readonly #arrived: Message[] = [];
  #waiting: { readonly resolve: (message: Message) => void; readonly reject: (error: VltuneError) => void } | undefined;
  #end: VltuneError | undefined;
  #closed = false;

  constructor(socket: Socket, name: string, limit: number) {
    this.#socket = socket;
    this.name = name;
    this.limit = limit;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    socket.on('data', (data) => this.#take(data));
    socket.on('error', (error) => this.#fail(`${this.name} is gone: ${error.message}`));
    socket.on('close', () => this.#fail(`${this.name} has ended`));
  }

  send(kind: MessageKind, payload: Uint8Array): void {
    const header = Buffer.alloc(HEADER_BYTES);
    header[0] = KINDS.indexOf(kind);
    header.writeUInt32LE(payload.byteLength, 1);
    this.#socket.write(header);
    this.#socket.write(payload);
  }

  /** The next message, which is of this kind. Rejects with ERR_PEER. */
  async receive(kind: MessageKind): Promise<Uint8Array> {
    const message =
      this.#arrived.shift() ??
      (await new Promise<Message>((resolve, reject) => {
        if (this.#end) reject(this.#end);
        else this.#waiting = { resolve, reject };
      }));
    if (message.kind === kind) return message.payload;
    throw new VltuneError('ERR_INTERNAL', `${this.name}: expected ${kind}, got ${message.kind}`);
  }

  /** Ends it when all is sent. Whoever waits for a message has `reason`. */
  close(reason?: VltuneError): void {
    this.#closed = true;
    if (reason && !this.#end) this.#stop(reason);
    this.#socket.end();
    // The other side may never end its half.
    setTimeout(() => this.#socket.destroy(), LINGER_MS).unref();
  }

  /** Ends it now, for a side that does not talk as it should. */
  drop(reason: string): void {
    this.#fail(reason);
    this.#socket.destroy();
  }

  #take(data: Buffer): void {
    let at = 0;
    while (at < data.length && !this.#end) {
      if (!this.#incoming) {
        const piece = data.subarray(at, at + HEADER_BYTES - this.#header.length);
        this.#header = Buffer.concat([this.#header, piece]);
        at += piece.length;
        if (this.#header.length < HEADER_BYTES) return;
        const [kind, bytes] = [KINDS[this.#header[0]!], this.#header.readUInt32LE(1)];
        this.#header = Buffer.alloc(0);
        if (kind === undefined || bytes > this.limit) {
          this.drop(`${this.name} sent what no process of vltune sends`);
          return;
        }
        this.#incoming = { kind, payload: new Uint8Array(bytes), filled: 0 };
      }
      const { kind, payload, filled } = this.#incoming;
      const piece = data.subarray(at, at + payload.length - filled);
      payload.set(piece, filled);
      this.#incoming.filled += piece.length;
      at += piece.length;
      if (this.#incoming.filled < payload.length) return;
      this.#incoming = undefined;
      this.#deliver({ kind, payload });
    }
  }

  #deliver(message: Message): void {
    const waiting = this.#waiting;
    if (message.kind === 'failure') this.#fail(Buffer.from(message.payload).toString());
    else if (waiting) {
      this.#waiting = undefined;
      waiting.resolve(message);
    } else this.#arrived.push(message);
  }

  #fail(reason: string): void {
    if (this.#end) return;
    const error = new VltuneError('ERR_PEER', reason);
    this.#stop(error);
    if (!this.#closed) this.onEnd(error);
  }

  #stop(error: VltuneError): void {
    this.#end = error;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }
}
