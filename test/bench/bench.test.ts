import test from 'ava';
import { type BenchResult, benchName, runBenches, withThreads } from '../../lib/bench/bench.js';
import { type Batch, compare, quantile, type Timed, timing } from '../../lib/bench/harness.js';
import { allBenches } from '../../lib/bench/ops/index.js';
import { Recorder } from '../../lib/bench/recorder.js';
import { SCOPES } from '../../lib/bench/shapes.js';
import { addon } from '../../lib/native.js';

/** Takes `milliseconds` a call, and notes its name at each run. */
function sleeper(name: string, milliseconds: number, log: string[]): Timed {
  return {
    repeat: (calls): Batch => ({
      run: async () => {
        log.push(name);
        const end = performance.now() + calls * milliseconds;
        while (performance.now() < end);
        return (calls * milliseconds) / 1000;
      },
      release: () => log.push(`${name} released`),
    }),
  };
}

test.serial('kernel and baseline are sampled in turn, and both are freed', async (t) => {
  const log: string[] = [];
  const { kernel, baseline, timeRatio, timeRatioSpread } = await compare(sleeper('a', 1, log), sleeper('b', 3, log), {
    seconds: 0.05,
  });
  const samples = log.slice(-2 * kernel.samples - 2, -2);
  t.true(kernel.samples >= 7);
  t.is(baseline.samples, kernel.samples);
  t.deepEqual(
    samples,
    Array.from({ length: samples.length }, (_, i) => (i % 2 === 0 ? 'a' : 'b')),
  );
  t.deepEqual(log.slice(-2), ['a released', 'b released']);
  t.deepEqual([kernel.seconds, baseline.seconds], [0.001, 0.003]);
  t.true(kernel.low <= kernel.seconds && kernel.seconds <= kernel.high);
  t.true(Math.abs(timeRatio - 3) < 1e-9);
  t.true(timeRatioSpread < 1e-9);
});

test.serial('quantiles lie between neighbours by proportion', (t) => {
  t.is(quantile([4, 1, 3, 2], 0.5), 2.5);
  t.is(quantile([5], 0.25), 5);
  t.deepEqual(timing([3, 1, 2, 5, 4]), { seconds: 3, low: 2, high: 4, samples: 5 });
});

test.serial('benchmarks have names of their own', (t) => {
  const names = allBenches(SCOPES.cpu).map(benchName);
  t.is(new Set(names).size, names.length);
  const kernels = new Set(allBenches(SCOPES.cpu).map(({ kernel }) => kernel.split(' ')[0]));
  const untimed = [
    'copy',
    'move_begin',
    'move_end',
    'fill',
    'select_rows',
    'dynamic_map',
    'nf4_quantize_absmax',
    'rope_table',
    'sample',
    'embedding_backward_sorted',
  ];
  for (const op of addon().opNames()) t.true(kernels.has(op) || untimed.includes(op), `${op} has a benchmark`);
});

test.serial('every benchmark of the small shape runs, and leaves no memory behind', async (t) => {
  const before = addon().memory().current;
  for (const bench of allBenches(SCOPES.cpu)) {
    if (/2048x6144|6144x2048|^2048x|x128$|512x2048$|512x6144$|16Mi/.test(bench.shape)) continue;
    const recorder = new Recorder();
    bench.build(recorder);
    const batch = recorder.repeat(1);
    await t.notThrowsAsync(() => batch.run(), benchName(bench));
    batch.release();
    recorder.release();
  }
  t.is(addon().memory().current, before);
});

test.serial('a result tells rate, baseline and ratio', async (t) => {
  const bench = allBenches(SCOPES.cpu).find((b) => benchName(b) === 'add 512x768 f32')!;
  const results: BenchResult[] = [];
  for await (const each of runBenches([bench], 0.01)) results.push(each);
  const [result] = results;
  t.is(result!.unit, 'GB/s');
  t.is(result!.baseline.name, 'copy');
  t.true(Math.abs(result!.rate * result!.time.seconds * 1e9 - 3 * 512 * 768 * 4) < 1);
  t.true(result!.ratio > 0);
});

test.serial('an aborted benchmark stops with ERR_CANCELLED', async (t) => {
  const bench = allBenches(SCOPES.cpu).find((b) => benchName(b) === 'add 512x768 f32')!;
  const error = await t.throwsAsync(async () => {
    for await (const _ of runBenches([bench], 60, AbortSignal.timeout(50)));
  });
  t.is((error as Error & { code?: string }).code, 'ERR_CANCELLED');
});

test.serial('the number of threads is put back', async (t) => {
  const before = addon().cpuInfo().threads;
  await withThreads(3, async () => t.is(addon().cpuInfo().threads, 3));
  t.is(addon().cpuInfo().threads, before);
});
