/** Progress on stderr: a bar on a terminal; elsewhere a plain line now and then, and none for what is done sooner. */
import { SingleBar } from 'cli-progress';

/** Between two lines where there is no terminal. */
const PLAIN_LINE_MS = 5000;
const BAR_WIDTH = 24;

export interface ProgressOptions {
  /** The text before the bar. */
  readonly label: string;
  readonly total: number;
  /** How a count is shown; the default is the count itself. */
  readonly show?: (count: number) => string;
}

export class ProgressBar {
  readonly #bar: SingleBar | undefined;
  readonly #line: (count: number) => string;
  #remark = '';
  #lastLine = performance.now();

  constructor({ label, total, show = String }: ProgressOptions) {
    this.#line = (count) => `${label} ${show(count)}/${show(total)} ${this.#remark}`.trimEnd();
    if (!process.stderr.isTTY) return;
    this.#bar = new SingleBar({
      stream: process.stderr,
      hideCursor: true,
      clearOnComplete: true,
      gracefulExit: false,
      etaBuffer: 50,
      format: (_, { value, eta }) => {
        const filled = Math.round(total > 0 ? Math.min(1, value / total) * BAR_WIDTH : 0);
        const bar = '━'.repeat(filled) + '─'.repeat(BAR_WIDTH - filled);
        const left = value > 0 && value < total && Number.isFinite(Number(eta)) ? `${eta} s left` : '';
        return `${label} ${bar} ${[`${show(value)}/${show(total)}`, left, this.#remark].filter(Boolean).join(', ')}`;
      },
    });
    this.#bar.start(total, 0);
  }

  update(count: number, remark: string = this.#remark): void {
    this.#remark = remark;
    if (this.#bar) {
      this.#bar.update(count);
      return;
    }
    const now = performance.now();
    if (now - this.#lastLine < PLAIN_LINE_MS) return;
    this.#lastLine = now;
    process.stderr.write(`${this.#line(count)}\n`);
  }

  stop(): void {
    this.#bar?.stop();
  }
}

/** Bars that come one after the other: one for each label, made when its first progress is heard of. */
export class ProgressStages {
  #label: string | undefined;
  #bar: ProgressBar | undefined;

  report(label: string, done: number, total: number, show?: (count: number) => string, remark?: string): void {
    if (this.#label !== label) {
      this.stop();
      this.#label = label;
      this.#bar = new ProgressBar({ label, total, ...(show && { show }) });
    }
    this.#bar?.update(done, remark);
    if (done >= total) this.stop();
  }

  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
