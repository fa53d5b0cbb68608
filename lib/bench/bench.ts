/** What a benchmark is, and how all of them are run. */
import { addon, type Device } from '../native.js';
import { type Comparison, compare, type Timed, type Timing } from './harness.js';
import { Recorder } from './recorder.js';

export type Float = 'f32' | 'bf16';
export const FLOATS: readonly Float[] = ['f32', 'bf16'];

/** What a call does, by the formula: floating-point operations, or bytes that must be read and written at least once. */
export type Work = { readonly flops: number } | { readonly bytes: number };

/**
 * What a kernel is measured against, in the same run:
 * - `copy`: the copy op moving as many bytes, read and written together;
 * - `gemm`: our own product of two square matrices of the same dtype, which is near what the device can do;
 * - ops of its own: a kernel's plain form, such as the product that a LoRA layer contains.
 */
export type Baseline = 'copy' | 'gemm' | { readonly name: string; readonly work: Work; build(b: Recorder): void };

export interface Bench {
  /** Op and variant, such as `linear nf4+lora`. */
  readonly kernel: string;
  readonly shape: string;
  readonly dtype: Float;
  readonly work: Work;
  readonly baseline: Baseline;
  /** Makes the operands and names the ops to be timed. */
  build(b: Recorder): void;
}

export interface BenchResult {
  readonly kernel: string;
  readonly shape: string;
  readonly dtype: Float;
  readonly time: Timing;
  /** 10^9 bytes or floating-point operations a second. */
  readonly rate: number;
  readonly unit: 'GB/s' | 'GFLOP/s';
  readonly baseline: { readonly name: string; readonly time: Timing; readonly rate: number };
  /** The kernel's rate over the most that the device does, in the same run: copying much memory, or a large product of this dtype. */
  readonly roofline: number;
  /** The kernel's rate over the baseline's; against ops of its own, the baseline's time over the kernel's. */
  readonly ratio: number;
}

/** The full name, which `--filter` is matched against. */
export function benchName(bench: { readonly kernel: string; readonly shape: string; readonly dtype: Float }): string {
  return `${bench.kernel} ${bench.shape} ${bench.dtype}`;
}

const SQUARE: Readonly<Record<Device, number>> = { cpu: 2048, cuda: 8192 };
/** Bytes read and written by a copy that no cache holds. */
const LONG_COPY: Readonly<Record<Device, number>> = { cpu: 1 << 29, cuda: 2 ** 31 };

/** Runs the benchmarks one by one, each for about `seconds`, and hands each result over as it comes. */
export async function* runBenches(
  benches: Iterable<Bench>,
  seconds: number,
  signal?: AbortSignal,
  device: Device = 'cpu',
): AsyncGenerator<BenchResult> {
  const squares = new Map<Float, Recorder>();
  const ceilings = new Map<string, number>();
  // The rate that no kernel of this kind passes, measured once.
  const ceiling = async ({ work, dtype }: Bench): Promise<number> => {
    const kind = 'bytes' in work ? 'copy' : dtype;
    let rate = ceilings.get(kind);
    if (rate === undefined) {
      const b = kind === 'copy' ? new Recorder(device) : square(dtype, device);
      try {
        if (kind === 'copy') copyOf(b, LONG_COPY[device]);
        const { kernel } = await compare(b, b, { seconds, signal });
        rate = (kind === 'copy' ? LONG_COPY[device] : 2 * SQUARE[device] ** 3) / kernel.seconds / 1e9;
      } finally {
        b.release();
      }
      ceilings.set(kind, rate);
    }
    return rate;
  };
  try {
    for (const bench of benches) {
      const kernel = new Recorder(device);
      let own: Recorder | undefined;
      try {
        bench.build(kernel);
        let baseline: Timed;
        if (bench.baseline === 'gemm') {
          if (!squares.has(bench.dtype)) squares.set(bench.dtype, square(bench.dtype, device));
          baseline = squares.get(bench.dtype)!;
        } else {
          own = new Recorder(device);
          if (bench.baseline === 'copy') copyOf(own, bytesOf(bench.work));
          else bench.baseline.build(own);
          baseline = own;
        }
        yield resultOf(bench, device, await compare(kernel, baseline, { seconds, signal }), await ceiling(bench));
      } finally {
        kernel.release();
        own?.release();
      }
    }
  } finally {
    for (const recorder of squares.values()) recorder.release();
  }
}

function bytesOf(work: Work): number {
  return 'bytes' in work ? work.bytes : 0;
}

function amount(work: Work): number {
  return 'bytes' in work ? work.bytes : work.flops;
}

function resultOf(bench: Bench, device: Device, { kernel, baseline, timeRatio }: Comparison, ceiling: number): BenchResult {
  const done = amount(bench.work);
  const against = bench.baseline;
  const name = against === 'gemm' ? `gemm ${SQUARE[device]}^3` : against === 'copy' ? against : against.name;
  const baselineDone = against === 'gemm' ? 2 * SQUARE[device] ** 3 : against === 'copy' ? done : amount(against.work);
  return {
    kernel: bench.kernel,
    shape: bench.shape,
    dtype: bench.dtype,
    time: kernel,
    rate: done / kernel.seconds / 1e9,
    unit: 'bytes' in bench.work ? 'GB/s' : 'GFLOP/s',
    baseline: { name, time: baseline, rate: baselineDone / baseline.seconds / 1e9 },
    roofline: done / kernel.seconds / 1e9 / ceiling,
    ratio: typeof against === 'string' ? (timeRatio * done) / baselineDone : timeRatio,
  };
}

function copyOf(b: Recorder, bytes: number): void {
  const half = Math.ceil(bytes / 2);
  b.emit('copy', [b.zeros([half], 'u8')], [{ into: b.zeros([half], 'u8') }]);
}

function square(dtype: Float, device: Device): Recorder {
  const b = new Recorder(device);
  const shape = [SQUARE[device], SQUARE[device]];
  b.emit('linear', [b.normal(shape, dtype), b.normal(shape, dtype, 0.02), null, null, null, null], [{ dtype, shape }, null]);
  return b;
}

/** Runs `body` with another number of threads, if one is given. */
export async function withThreads<T>(threads: number | undefined, body: () => Promise<T>): Promise<T> {
  if (threads === undefined) return await body();
  const before = addon().cpuInfo().threads;
  addon().setThreads(threads);
  try {
    return await body();
  } finally {
    addon().setThreads(before);
  }
}
