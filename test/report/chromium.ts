/** A headless Chromium to look at a page with, driven through its debugging pipe: no package, no port, and nothing where there is none. */
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import type { ExecutionContext } from 'ava';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** VLTUNE_CHROMIUM, or the first of the usual names in PATH. */
export const CHROMIUM: string | undefined = [
  process.env.VLTUNE_CHROMIUM ?? [],
  (process.env.PATH ?? '').split(delimiter).flatMap((folder) => NAMES.map((name) => join(folder, name))),
]
  .flat()
  .find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly result?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly message: string };
}

/** One open page. */
export class Page {
  /** What the browser told of since it was opened: requests, errors of the console. */
  readonly events: Message[] = [];
  readonly #out: Writable;
  readonly #waiting = new Map<number, { done(result: Readonly<Record<string, unknown>>): void; failed(error: Error): void }>();
  #count = 0;
  #session: string | undefined;
  #rest = '';

  private constructor(out: Writable, input: Readable) {
    this.#out = out;
    input.setEncoding('utf8').on('data', (text: string) => this.#read(text));
  }

  /** Opens a file; the browser is gone after the test. */
  static async open(t: ExecutionContext, path: string): Promise<Page> {
    const profile = mkdtempSync(join(tmpdir(), 'vltune-chromium-'));
    const args = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe', `--user-data-dir=${profile}`];
    const child = spawn(CHROMIUM!, args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    const ended = new Promise<void>((done) => child.on('close', () => done()));
    t.teardown(async () => {
      child.kill('SIGKILL');
      await ended;
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    });
    const page = new Page(child.stdio[3] as Writable, child.stdio[4] as Readable);
    const { targetId } = await page.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await page.send('Target.attachToTarget', { targetId, flatten: true });
    page.#session = sessionId as string;
    for (const domain of ['Page', 'Runtime', 'Network', 'Log', 'Accessibility']) await page.send(`${domain}.enable`);
    await page.send('Page.navigate', { url: new URL(`file://${encodeURI(path)}`).href });
    while (!page.events.some(({ method }) => method === 'Page.loadEventFired')) await new Promise((done) => setTimeout(done, 20));
    return page;
  }

  send(method: string, params: Readonly<Record<string, unknown>> = {}): Promise<Readonly<Record<string, unknown>>> {
    this.#count += 1;
    const id = this.#count;
    const session = this.#session === undefined ? {} : { sessionId: this.#session };
    this.#out.write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    return new Promise((done, failed) => this.#waiting.set(id, { done, failed }));
  }

  /** The value of an expression in the page; not a script of the page, so its policy does not forbid it. */
  async evaluate<T>(expression: string): Promise<T> {
    const { result } = await this.send('Runtime.evaluate', { expression, returnByValue: true });
    return (result as { value: T }).value;
  }

  /** As a reader has it: so wide, and light or dark. */
  async show(width: number, scheme: 'light' | 'dark'): Promise<void> {
    await this.send('Emulation.setDeviceMetricsOverride', { width, height: 900, deviceScaleFactor: 1, mobile: false });
    await this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
  }

  #read(text: string): void {
    const messages = (this.#rest + text).split('\0');
    this.#rest = messages.pop()!;
    for (const message of messages) {
      const { id, result, error, ...event } = JSON.parse(message) as Message;
      const waiting = id === undefined ? undefined : this.#waiting.get(id);
      if (!waiting) this.events.push(event);
      else if (error) waiting.failed(new Error(error.message));
      else waiting.done(result ?? {});
    }
  }
}
