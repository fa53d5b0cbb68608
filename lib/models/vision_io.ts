/** A vision tower's inputs as `io` values of a graph, and what a run over some pictures writes to them. */
import { VltuneError } from '../errors.js';
import type { Graph, Value } from '../graph/graph.js';
import type { IoBuffers } from '../graph/io.js';
import type { ActivationDType } from '../ops/builder.js';
import type { VisionFeatures, VisionInputs, VisionShape } from './family.js';
import type { Grid } from './grid.js';
import { POSITION_TAPS, visionGridInputs } from './vision_inputs.js';

/** The most that a run holds. */
export interface VisionLimits {
  readonly maxPatches: number;
  /** Pictures, and temporal patches of videos. */
  readonly maxFrames: number;
}

/** Pictures and videos as patches, one after the other. */
export interface VisionBatch {
  readonly grids: readonly Grid[];
  /** f32 [patches, patchWidth], in parts that follow each other: one for each of the grids, say. */
  readonly patches: readonly Float32Array[];
}

/** The named dimensions of a tower's program at their largest. */
export function visionDims(shape: VisionShape, { maxPatches, maxFrames }: VisionLimits): Record<string, number> {
  return { patches: maxPatches, frames: maxFrames + 1, ...featureDims(shape, maxPatches) };
}

/** The named dimension of a program that reads features. */
export function featureDims(shape: VisionShape, maxPatches: number): Record<string, number> {
  return { features: Math.floor(maxPatches / shape.mergeSize ** 2) };
}

export function visionInputs(graph: Graph, shape: VisionShape, dtype: ActivationDType): VisionInputs<Value> {
  return {
    pixels: graph.value('io', 'pixels', 'f32', ['patches', shape.patchWidth]),
    positions: graph.value('io', 'patch_positions', 'i32', [3, 'patches']),
    bounds: graph.value('io', 'patch_bounds', 'i32', ['frames']),
    learned: {
      ids: graph.value('io', 'learned_ids', 'i32', ['patches', POSITION_TAPS]),
      weights: graph.value('io', 'learned_weights', 'f32', ['patches', POSITION_TAPS]),
    },
    features: 'features',
    dtype,
  };
}

/** Writes a batch to the buffers; returns the lengths of the dimensions in this run. ERR_SHAPE: grids and patches do not fit. */
export function writeVisionInputs(io: IoBuffers, shape: VisionShape, { grids, patches }: VisionBatch): Record<string, number> {
  const inputs = visionGridInputs(grids, shape);
  const numbers = patches.reduce((sum, { length }) => sum + length, 0);
  if (numbers !== inputs.patches * shape.patchWidth) {
    throw new VltuneError(
      'ERR_SHAPE',
      `the grids call for ${inputs.patches} patches of ${shape.patchWidth} numbers, got ${numbers} numbers`,
    );
  }
  let from = 0;
  for (const part of patches) {
    io.write('pixels', part, from);
    from += part.byteLength;
  }
  io.write('patch_positions', inputs.positions);
  io.write('patch_bounds', inputs.bounds);
  io.write('learned_ids', inputs.ids);
  io.write('learned_weights', inputs.weights);
  return {
    patches: inputs.patches,
    frames: inputs.bounds.length,
    features: inputs.patches / shape.mergeSize ** 2,
  };
}

/** Features as `io` values: what a tower's program writes, and a language model's reads. */
export function featureValues(graph: Graph, shape: VisionShape, dtype: ActivationDType): VisionFeatures<Value> {
  const feature = (name: string) => graph.value('io', name, dtype, ['features', shape.outSize]);
  return { embeddings: feature(featureName(0)), deepstack: shape.deepstackLayers.map((_, i) => feature(featureName(i + 1))) };
}

/** Which of the values of `featureValues`: 0 the embeddings, then DeepStack's. */
export function featureName(index: number): string {
  return index === 0 ? 'features' : `features_deepstack_${index - 1}`;
}

/** i32 [features]: the tokens that features stand for. */
export function mediaRows(graph: Graph): Value {
  return graph.value('io', 'media_rows', 'i32', ['features']);
}
