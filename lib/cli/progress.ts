/** A progress bar on stderr; off a terminal, a plain line now and then. */
import { SingleBar } from 'cli-progress';

/** Between two lines where there is no terminal. */
const PLAIN_LINE_MS = 5000;

export interface ProgressOptions {
  /** The text before the bar. */
  readonly label: string;
  readonly total: number;
  /** How a count is shown; the default is the count itself. */
  readonly show?: (count: number) => string;
}

export class ProgressBar {
  readonly #bar: SingleBar;
  #remark = '';

  constructor({ label, total, show = String }: ProgressOptions) {
    const isTerminal = process.stderr.isTTY === true;
    this.#bar = new SingleBar({
      stream: process.stderr,
      noTTYOutput: true,
      notTTYSchedule: PLAIN_LINE_MS,
      hideCursor: true,
      clearOnComplete: isTerminal,
      gracefulExit: false,
      fps: 10,
      etaBuffer: 50,
      format: (options, parameters) => {
        const share = parameters.total > 0 ? Math.min(1, parameters.value / parameters.total) : 0;
        const count = `${show(parameters.value)}/${show(parameters.total)}`;
        if (!isTerminal) return `${label} ${count} ${this.#remark}`.trimEnd();
        const width = 24;
        const filled = Math.round(share * width);
        const bar = '━'.repeat(filled) + '─'.repeat(width - filled);
        const eta = options.etaBuffer && Number.isFinite(Number(parameters.eta)) ? ` ${parameters.eta} s left` : '';
        return `${label} ${bar} ${count}${share < 1 ? eta : ''} ${this.#remark}`.trimEnd();
      },
    });
    this.#bar.start(total, 0);
  }

  update(count: number, remark: string = this.#remark): void {
    this.#remark = remark;
    this.#bar.update(count);
  }

  stop(): void {
    this.#bar.stop();
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
