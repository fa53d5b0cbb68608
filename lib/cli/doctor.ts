/** `vltune doctor`: what this machine has, and what vltune will use of it. */
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { addon, PACKAGE_ROOT } from '../native.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { hubCache } from '../weights/hub.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes } from './output.js';

const TABLE: OptionTable = {};

async function run({ given, output }: CommandContext): Promise<void> {
  failOnErrors(checkOptions(TABLE, given).errors);
  const native = addon();
  const cpu = native.cpuInfo();
  const cuda = native.cudaInfo();
  const report = {
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
    packageFolder: PACKAGE_ROOT,
    cpu: {
      model: cpu.model || cpus()[0]?.model || 'unknown',
      available: availableParallelism(),
      threads: cpu.threads,
      kernels: cpu.isa,
      avx512Bf16: cpu.avx512Bf16,
      avx512Vnni: cpu.avx512Vnni,
      amxBf16: cpu.amxBf16,
    },
    memory: { totalBytes: totalmem(), freeBytes: freemem() },
    cuda,
    device: 'cpu',
    hub: {
      cache: hubCache(),
      offline: /^(1|on|yes|true)$/i.test(process.env.HF_HUB_OFFLINE ?? ''),
      token: process.env.HF_TOKEN ? 'set' : 'not set',
    },
  };
  output.emit(report);
  const extras = [
    report.cpu.avx512Bf16 && 'AVX-512 BF16',
    report.cpu.avx512Vnni && 'VNNI',
    report.cpu.amxBf16 && 'AMX BF16',
  ].filter(Boolean);
  const lines: [string, string][] = [
    ['machine', `${report.platform}, Node ${report.node}`],
    ['CPU', report.cpu.model],
    ['kernels', [report.cpu.kernels, ...extras].join(', ')],
    ['threads', `${cpu.threads} of ${report.cpu.available} (VLTUNE_NUM_THREADS or --threads changes it)`],
    ['memory', `${formatBytes(report.memory.freeBytes)} free of ${formatBytes(report.memory.totalBytes)}`],
    ['CUDA', cuda.compiled ? cuda.reason : `not in this build${cuda.reason ? ` (${cuda.reason})` : ''}`],
    ['device', 'cpu'],
    ['models', `${report.hub.cache}${report.hub.offline ? ' (offline)' : ''}, HF_TOKEN ${report.hub.token}`],
    ['package', PACKAGE_ROOT],
  ];
  for (const [name, text] of lines) output.say(`${output.style('bold', name.padEnd(8))}  ${text}`);
}

export const command: CommandSpec = {
  name: 'doctor',
  summary: 'Tell what this machine has and what vltune will use.',
  table: TABLE,
  recipe: false,
  examples: ['vltune doctor', 'vltune doctor --json'],
  run,
};
