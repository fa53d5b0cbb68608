/** Where the embedding table lies: on the GPU, or in the host's memory, of which a GPU reads the rows that a batch has. */
import type { ModelSpec } from '../models/family.js';
import type { Device } from '../native.js';
import type { TrainingStep } from './training_step.js';

/** Whether the host can hold the table for a GPU: not where it is the output head too. */
export function mayMoveEmbedding({ embedding, head }: ModelSpec, device: Device): boolean {
  return device !== 'cpu' && embedding !== head;
}

/** With the table on the GPU if that costs nothing else; its rows are read faster from the host than a layer is made again. */
export function leastRecomputed<T extends { readonly step: TrainingStep }>(built: (embeddingOnHost: boolean) => T): T {
  let onDevice: T | undefined;
  try {
    onDevice = built(false);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_OUT_OF_MEMORY') throw error;
  }
  if (onDevice?.step.memory.recompute === 'none') return onDevice;
  const onHost = built(true);
  const recomputed = ({ step }: T): number => {
    const { elementwise, layers, host } = step.memory.recomputedBlocks;
    return elementwise + 2 * layers + 3 * host;
  };
  return onDevice && recomputed(onDevice) <= recomputed(onHost) ? onDevice : onHost;
}
