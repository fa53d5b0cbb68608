/** `vltune doctor`: what this machine has, and what vltune will use of it. */
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { type DeviceOption, deviceOption, openDevice } from '../device.js';
import { addon, type CudaInfo, type Device, type LibraryInfo, PACKAGE_ROOT } from '../native.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { hubCache } from '../weights/hub.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes } from './output.js';

const TABLE: OptionTable = { device: deviceOption('Machine') };

/** What there is of CUDA, a line a GPU. */
function cudaLines(
  { compiled, available, reason, driver, runtime, devices, blas }: CudaInfo,
  nccl: LibraryInfo,
): [string, string][] {
  const versions = [driver && `driver ${driver}`, runtime && `runtime ${runtime}`].filter(Boolean).join(', ');
  if (!compiled) return [['CUDA', `not in this build${reason ? ` (${reason})` : ''}`]];
  const gpus = devices.map((gpu): [string, string] => [
    `cuda:${gpu.index}`,
    `${gpu.name}, ${gpu.freeMemory === undefined ? '' : `${formatBytes(gpu.freeMemory)} free of `}${formatBytes(gpu.totalMemory)}, compute capability ${gpu.computeCapability}, ${gpu.multiprocessors} multiprocessors`,
  ]);
  return [
    ['CUDA', available ? versions : [`not usable: ${reason}`, versions].filter(Boolean).join('; ')],
    ...gpus,
    [
      'cuBLASLt',
      blas.found
        ? `${blas.version}, ${blas.path}`
        : blas.reason
          ? `not found: ${blas.reason} (large products are slower without it)`
          : 'not looked for',
    ],
    ...(available ? [ncclLine(nccl)] : []),
  ];
}

function ncclLine({ found, version, path, reason }: LibraryInfo): [string, string] {
  return ['NCCL', found ? `${version}, ${path}` : `not found: ${reason} (several GPUs train together faster with it)`];
}

async function run({ given, output }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  // What is wrong with the device asked for is told after all the rest.
  let device: Device | undefined;
  let failure: unknown;
  try {
    device = openDevice(values.device as DeviceOption);
  } catch (error) {
    failure = error;
  }
  const native = addon();
  const cpu = native.cpuInfo();
  const cuda = native.cudaInfo();
  const nccl = native.ncclInfo();
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
    nccl,
    device: device ?? null,
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
    ...cudaLines(cuda, nccl),
    ['device', device === undefined ? 'none' : `${device} (--device changes it)`],
    ['models', `${report.hub.cache}${report.hub.offline ? ' (offline)' : ''}, HF_TOKEN ${report.hub.token}`],
    ['package', PACKAGE_ROOT],
  ];
  for (const [name, text] of lines) output.say(`${output.style('bold', name.padEnd(8))}  ${text}`);
  if (failure !== undefined) throw failure;
}

export const command: CommandSpec = {
  name: 'doctor',
  summary: 'Tell what this machine has and what vltune will use.',
  table: TABLE,
  recipe: false,
  examples: ['vltune doctor', 'vltune doctor --json'],
  run,
};
