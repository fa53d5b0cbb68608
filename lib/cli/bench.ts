/** `vltune bench`: every kernel on this machine, beside a baseline of the same run. */

import { type BenchResult, benchName, runBenches, withThreads } from '../bench/bench.js';
import { allBenches } from '../bench/ops/index.js';
import { SCOPES } from '../bench/shapes.js';
import { type DeviceOption, deviceOption, openDevice } from '../device.js';
import { VltuneError } from '../errors.js';
import { addon } from '../native.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import type { CommandContext, CommandSpec } from './command.js';

const TABLE: OptionTable = {
  filter: {
    kind: 'text',
    value: 'TEXT',
    group: 'What',
    help: 'Only benchmarks whose name, such as "nf4_dequantize 2048x768 bf16", holds all of these words',
    defaultText: 'all of them',
  },
  device: deviceOption('How'),
  threads: {
    kind: 'integer',
    value: 'N',
    min: 1,
    max: 1024,
    group: 'How',
    help: 'Threads of the kernels',
    defaultText: 'VLTUNE_NUM_THREADS, or the CPUs this process may use',
  },
  time: {
    kind: 'number',
    value: 'S',
    fallback: 0.3,
    above: 0,
    max: 60,
    unit: 'seconds',
    group: 'How',
    help: 'Time for each benchmark',
  },
};

const HEAD = ['kernel', 'shape', 'dtype', 'time', '±', 'rate', '', 'roof', 'ratio', 'baseline'];
const WIDTHS = [29, 20, 5, 9, 5, 8, 7, 5, 6, 28];
const RIGHT = new Set([3, 4, 5, 7, 8]);

/** Rows come one by one, so the widths are fixed beforehand. */
function row(cells: readonly string[]): string {
  return cells
    .map((cell, i) => (RIGHT.has(i) ? cell.padStart(WIDTHS[i]!) : cell.padEnd(WIDTHS[i]!)))
    .join('  ')
    .trimEnd();
}

function formatTime(seconds: number): string {
  if (seconds < 1e-3) return `${(seconds * 1e6).toPrecision(4)} µs`;
  return seconds < 1 ? `${(seconds * 1e3).toPrecision(4)} ms` : `${seconds.toPrecision(4)} s`;
}

function cells({ kernel, shape, dtype, time, rate, unit, roofline, ratio, baseline }: BenchResult): string[] {
  const spread = `${Math.round((100 * (time.high - time.low)) / 2 / time.seconds)}%`;
  const against = `${baseline.name} ${baseline.rate.toPrecision(3)} ${unit}`;
  return [
    kernel,
    shape,
    dtype,
    formatTime(time.seconds),
    spread,
    rate.toPrecision(4),
    unit,
    roofline.toFixed(2),
    ratio.toFixed(2),
    against,
  ];
}

function gpuName(option: DeviceOption): string {
  const { devices } = addon().cudaInfo();
  const index = Number(/\d+$/.exec(option)?.[0] ?? 0);
  return devices.find((gpu) => gpu.index === index)?.name ?? 'a GPU';
}

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const words = ((values.filter as string | undefined) ?? '').split(/\s+/).filter((word) => word !== '');
  const device = openDevice(values.device as DeviceOption);
  const benches = allBenches(SCOPES[device]).filter((bench) => words.every((word) => benchName(bench).includes(word)));
  if (benches.length === 0) {
    throw new VltuneError(
      'ERR_USAGE',
      `--filter: expected words of a benchmark's name, got ${JSON.stringify(values.filter)}, which none has`,
    );
  }
  await withThreads(values.threads as number | undefined, async () => {
    const { model, isa, threads } = addon().cpuInfo();
    const cores = `${model}, ${isa}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
    output.note(`${device === 'cuda' ? gpuName(values.device as DeviceOption) : cores}; medians of alternating samples`);
    output.say(output.style('bold', row(HEAD)));
    for await (const result of runBenches(benches, values.time as number, signal, device)) {
      output.say(row(cells(result)));
      output.emit({ event: 'bench', device, threads, isa, ...result });
    }
  });
  output.note(
    'roof: rate over the most that this device does (a long copy; a large product); ratio: rate over the rate of the baseline (a bare product: its time over ours); ±: half the distance of the quartiles',
  );
}

export const command: CommandSpec = {
  name: 'bench',
  summary:
    'Measure the kernels on this machine, each against a baseline measured in the same run: copying memory, or a large product.',
  table: TABLE,
  recipe: false,
  examples: ['vltune bench', 'vltune bench --filter "attention bf16"', 'vltune bench --filter nf4 --threads 1 --time 1 --json'],
  run,
};
