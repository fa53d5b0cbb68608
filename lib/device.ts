/** Where to compute: the one place that settles a device option. */
import { localRankOf } from './distributed/place.js';
import { VltuneError } from './errors.js';
import { addon, type CudaInfo, type Device, type GpuInfo } from './native.js';
import { expectation, type OptionSpec, showValue } from './options.js';

/** `auto`: the GPU if there is one that vltune can use, else the CPU. `cuda:1`: the GPU of that number; `cuda`: the first. */
export type DeviceOption = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** The option as every command takes it. */
export function deviceOption(group: string): OptionSpec {
  return {
    kind: 'device',
    value: 'DEVICE',
    fallback: 'auto',
    defaultText: 'auto: a GPU if there is one',
    group,
    help: 'Where to compute: auto, cpu, cuda, or cuda:N for GPU N',
  };
}

/** The kind of device that an option means on this machine. Nothing is opened. */
export function deviceKind(option: DeviceOption | undefined): Device {
  if (indexOf(option) === undefined && option !== 'cpu') ownIndex();
  if (option === undefined || option === 'auto') return addon().cudaInfo().available ? 'cuda' : 'cpu';
  return option === 'cpu' ? 'cpu' : 'cuda';
}

/** The GPU that an option means, if it is there. */
export function gpuOf(option: DeviceOption | undefined): GpuInfo | undefined {
  const number = indexOf(option) ?? ownIndex();
  return addon()
    .cudaInfo()
    .devices.find(({ index }) => index === number);
}

/**
 * The device to compute on, chosen in native code if the option names one of several. ERR_NO_DEVICE says what was found and what
 * to do.
 */
export function openDevice(option: DeviceOption | undefined): Device {
  const index = indexOf(option);
  if (index !== undefined) select(index); // before anything opens another one
  if (deviceKind(option) === 'cpu') return 'cpu';
  const cuda = addon().cudaInfo();
  if (cuda.available) return 'cuda';
  if (index !== undefined) select(0);
  throw noDevice(option!, cuda);
}

let own: number | undefined;

/**
 * The number of the GPU that 'cuda' means where none is named, chosen at the first call: 0, or, of several processes that a launcher started
 * on this machine, that of this process there (but 0 if it is let see one GPU alone).
 */
function ownIndex(): number {
  if (own !== undefined) return own;
  own = localRankOf();
  if (own === 0) return own;
  select(own); // before anything opens another one
  if (addon().cudaInfo().devices.length !== 1) return own;
  own = 0;
  select(own);
  return own;
}

/** What keeps a GPU from being chosen is told by `cudaInfo`, with what there is. */
function select(index: number): void {
  try {
    addon().selectDevice(index);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_NO_DEVICE') throw error;
  }
}

/** The device to plan for, which need not be there: a plan is made of shapes. ERR_NO_DEVICE if this build does not know its kernels. */
export function plannedDevice(option: DeviceOption | undefined): Device {
  const index = indexOf(option);
  if (index !== undefined) select(index);
  if (deviceKind(option) === 'cpu') return 'cpu';
  const cuda = addon().cudaInfo();
  if (index !== undefined && !cuda.available) select(0);
  if (!cuda.compiled) throw noDevice(option!, cuda);
  return 'cuda';
}

/** N of `cuda:N`. ERR_USAGE if the option is none of its forms, as a caller without the compiler's help may pass. */
function indexOf(option: DeviceOption | undefined): number | undefined {
  const match = /^(?:auto|cpu|cuda|cuda:(\d{1,3}))$/.exec(option ?? 'auto');
  if (!match) {
    throw new VltuneError('ERR_USAGE', `device: expected ${expectation(deviceOption(''))}, got ${showValue(option)}`);
  }
  return match[1] === undefined ? undefined : Number(match[1]);
}

function noDevice(option: string, { compiled, reason, driver, devices }: CudaInfo): VltuneError {
  const gpus = devices.map(({ index, name }) => `cuda:${index} is ${name}`);
  const found = [reason || 'no usable GPU', ...gpus, ...(driver ? [`driver ${driver}`] : [])].join('; ');
  const remedy = compiled
    ? 'Look at nvidia-smi and vltune doctor, or compute on the CPU with --device cpu (or auto)'
    : 'Install a build of vltune with CUDA, or compute on the CPU with --device cpu (or auto)';
  return new VltuneError('ERR_NO_DEVICE', `--device ${option}: ${found}. ${remedy}.`);
}
