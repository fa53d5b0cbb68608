/**
 * How kernels are timed. A kernel and its baseline are run in turn, sample by sample, so that whatever else the machine does
 * meets both alike; a sample is as many calls as take a few milliseconds. The median of the samples is the figure, the quartiles
 * are its spread, and the ratio is the median of the ratios of neighbouring samples. (Benchmark packages time one function after
 * the other, and would give one of the two the quieter second.)
 */
import { setTimeout } from 'node:timers/promises';
import { VltuneError } from '../errors.js';

/** Something that can be run many times at one go. */
export interface Timed {
  /** Prepares a run of `calls` calls, which may then be repeated. */
  repeat(calls: number): Batch;
}

export interface Batch {
  /** Runs, and tells how many seconds that took. */
  run(): Promise<number>;
  release(): void;
}

export interface Timing {
  /** Seconds of one call: median, and first and third quartile. */
  readonly seconds: number;
  readonly low: number;
  readonly high: number;
  readonly samples: number;
}

export interface Comparison {
  readonly kernel: Timing;
  readonly baseline: Timing;
  /** How many times the kernel's time the baseline took: the median over neighbouring samples. */
  readonly timeRatio: number;
  /** Half the distance of the quartiles of these ratios, as a share of their median. */
  readonly timeRatioSpread: number;
}

const SAMPLE_SECONDS = 4e-3;
const FEWEST_SAMPLES = 7;
const MOST_CALLS = 4096;

export interface CompareOptions {
  /** For about how long, and at least seven samples of each. */
  readonly seconds: number;
  /** Waits so long before each sample, for one side's threads to leave the cores to the other's. */
  readonly settleSeconds?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Times `kernel` against `baseline`. Rejects with ERR_CANCELLED when the signal fires. */
export async function compare(kernel: Timed, baseline: Timed, options: CompareOptions): Promise<Comparison> {
  const { seconds, settleSeconds = 0, signal } = options;
  const sample = async ({ batch, calls }: Calibrated): Promise<number> => {
    if (settleSeconds > 0) await setTimeout(settleSeconds * 1000);
    return (await batch.run()) / calls;
  };
  const first = await calibrate(kernel);
  const second = await calibrate(baseline).catch((error: unknown) => {
    first.batch.release();
    throw error;
  });
  try {
    const times: [number[], number[]] = [[], []];
    const end = performance.now() + seconds * 1000;
    while (times[0].length < FEWEST_SAMPLES || performance.now() < end) {
      if (signal?.aborted) throw new VltuneError('ERR_CANCELLED', 'the benchmark was cancelled');
      times[0].push(await sample(first));
      times[1].push(await sample(second));
    }
    const ratios = times[0].map((time, i) => times[1][i]! / time);
    const timeRatio = quantile(ratios, 0.5);
    return {
      kernel: timing(times[0]),
      baseline: timing(times[1]),
      timeRatio,
      timeRatioSpread: (quantile(ratios, 0.75) - quantile(ratios, 0.25)) / 2 / timeRatio,
    };
  } finally {
    first.batch.release();
    second.batch.release();
  }
}

interface Calibrated {
  readonly batch: Batch;
  readonly calls: number;
}

/** Warms up, and finds how many calls fill a sample. */
async function calibrate(timed: Timed): Promise<Calibrated> {
  for (let calls = 1; ; ) {
    const batch = timed.repeat(calls);
    await batch.run();
    const taken = await batch.run();
    if (taken >= SAMPLE_SECONDS || calls === MOST_CALLS) return { batch, calls };
    batch.release();
    calls = Math.min(MOST_CALLS, Math.ceil(calls * Math.min(64, (1.2 * SAMPLE_SECONDS) / taken)));
  }
}

export function timing(samples: readonly number[]): Timing {
  return {
    seconds: quantile(samples, 0.5),
    low: quantile(samples, 0.25),
    high: quantile(samples, 0.75),
    samples: samples.length,
  };
}

/** The value below which the fraction `q` of the samples lies, between neighbours by proportion. */
export function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (at - below) * (sorted[above]! - sorted[below]!);
}
