/** In what to compute: the one place that settles a dtype option. */
import { type DeviceOption, deviceKind, gpuOf } from './device.js';
import { VltuneError } from './errors.js';
import type { ActivationDType } from './ops/builder.js';

/** The type of activations, by its name in transformers. float16: on a GPU alone. */
export type ComputeDType = 'float32' | 'bfloat16' | 'float16';

export const COMPUTE_DTYPES: readonly ComputeDType[] = ['float32', 'bfloat16', 'float16'];

/** What the kernels call it. */
export const ACTIVATIONS: Readonly<Record<ComputeDType, ActivationDType>> = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' };

/** The dtype to train in if none is named. */
export function trainingDType(device: DeviceOption | undefined): ComputeDType {
  return deviceKind(device) === 'cpu' ? 'float32' : halfOf(device);
}

/** The dtype to generate in if none is named. */
export function generationDType(device: DeviceOption | undefined): ComputeDType {
  return deviceKind(device) === 'cpu' ? 'bfloat16' : halfOf(device);
}

/** bf16 where the matrix units take it, on GPUs from compute capability 8.0 on; else f16. */
function halfOf(device: DeviceOption | undefined): ComputeDType {
  const gpu = gpuOf(device);
  return gpu && Number.parseFloat(gpu.computeCapability) < 8 ? 'float16' : 'bfloat16';
}

/** What is wrong with computing in a dtype on a device; undefined if nothing is. */
export function dtypeFault(dtype: unknown, device: DeviceOption | undefined): string | undefined {
  if (dtype !== 'float16' || deviceKind(device) === 'cuda') return undefined;
  return 'expected float32 or bfloat16 on the CPU, got float16, which only a GPU computes in';
}

/** The dtype of activations to generate in. ERR_USAGE if the device does not compute in the one that was named. */
export function generationActivations(dtype: ComputeDType | undefined, device: DeviceOption | undefined): ActivationDType {
  const fault = dtypeFault(dtype, device);
  if (fault) throw new VltuneError('ERR_USAGE', `--dtype: ${fault}`);
  return ACTIVATIONS[dtype ?? generationDType(device)];
}
