/** How much memory a run may take, and what is taken before it begins. */
import { addon, type Device } from '../native.js';
import { type MemoryLimit, mib } from './step_plan.js';

/** What the driver takes for a process on a GPU (its context, the kernels' code, cuBLASLt's own), about. */
const CUDA_CONTEXT_BYTES = 384 << 20;
/** Of a GPU's free memory, what is left free: others' needs come and go. */
const CUDA_RESERVE = 0.05;

export interface MemoryBudget {
  /** Taken before anything is allocated for training. CPU: resident memory of the process. CUDA: what the card holds. */
  readonly baseBytes: number;
  readonly limit: MemoryLimit | undefined;
}

/**
 * `memory`: the option; `ncclBytes`: what NCCL has taken of the card already, beside the driver. On the CPU the option limits what training
 * takes beside the process; on a GPU what the card holds in all, and the default is what it has free. Where the GPU is not there only the
 * option limits.
 */
export function memoryBudget(device: Device, memory: number | undefined, isThere: boolean, ncclBytes: number = 0): MemoryBudget {
  if (device === 'cpu') {
    const limit = memory === undefined ? undefined : { bytes: memory, name: `--memory ${mib(memory)}`, remedy: raised };
    return { baseBytes: process.memoryUsage.rss(), limit };
  }
  const card = isThere ? addon().deviceMemory() : undefined;
  // The driver has not yet taken all of what it will take for us.
  const baseBytes = Math.max(CUDA_CONTEXT_BYTES, card ? card.total - card.free - ncclBytes : 0) + ncclBytes;
  if (memory !== undefined) {
    const name = `--memory ${mib(memory)}, of which the driver and other programs have ${mib(baseBytes)}`;
    return { baseBytes, limit: { bytes: memory - baseBytes, name, remedy: (needed) => raised(baseBytes + needed) } };
  }
  if (!card) return { baseBytes, limit: undefined };
  const bytes = Math.floor(card.free * (1 - CUDA_RESERVE));
  const name = `the GPU has ${mib(card.free)} free of ${mib(card.total)}, of which ${mib(bytes)} may be used`;
  return { baseBytes, limit: { bytes, name, remedy: () => 'end what else runs on the GPU' } };
}

/** A limit of which `bytes` are for something else. */
export function without(limit: MemoryLimit, bytes: number): MemoryLimit {
  return { ...limit, bytes: limit.bytes - bytes, remedy: (needed) => limit.remedy(needed + bytes) };
}

/** As the option can be given: rounded up. */
function raised(memory: number): string {
  return `raise --memory to ${Math.ceil(memory / 2 ** 20)}MiB`;
}
