/**
 * Features of pictures and videos by a tower that runs by itself. Each goes through it alone, so that its features are the same bits in
 * whatever company and order they come: a run that goes on from a checkpoint makes those that the first one made.
 */

import type { Grid } from './grid.js';
import type { EncodedFeatures, VisionEncoder } from './vision_encoder.js';

/** A picture or video by its contents. A GIF may be either, with one key and grid and other pixels. */
export interface VisionKey {
  readonly kind: 'image' | 'video';
  readonly key: string;
  readonly grid: Grid;
}

export interface VisionSource extends VisionKey {
  /** f32 [t·h·w, patchWidth] */
  patches(signal?: AbortSignal): Promise<Float32Array>;
  /** Told when its patches have been read, whose memory it may use again. */
  recycle?(patches: Float32Array): void;
}

/** Where features that were made are kept. */
export interface FeatureStore {
  get(media: VisionKey): EncodedFeatures | undefined;
  put(media: VisionKey, features: EncodedFeatures): void;
}

/** The features of all of `media`, one after the other. At least one. */
export async function encodeEach(
  media: readonly VisionSource[],
  encoder: VisionEncoder,
  store?: FeatureStore,
  signal?: AbortSignal,
): Promise<EncodedFeatures> {
  const encodeOne = async (item: VisionSource): Promise<EncodedFeatures> => {
    const patches = await item.patches(signal);
    const features = await encoder.encode({ grids: [item.grid], patches: [patches] }, signal);
    item.recycle?.(patches);
    store?.put(item, features);
    return features;
  };
  const made: EncodedFeatures[] = [];
  for (const item of media) {
    const known = store?.get(item);
    made.push(known ?? (await encodeOne(item)));
  }
  return made[0]!.map((_, level) =>
    concatenate(
      made.map((each) => each[level]!),
      Uint8Array,
    ),
  );
}

interface TypedArray<T> {
  readonly length: number;
  set(from: T, at: number): void;
}

/** Arrays one after the other; a single one as it is. */
export function concatenate<T extends TypedArray<T>>(parts: readonly T[], Type: new (length: number) => T): T {
  if (parts.length === 1) return parts[0]!;
  const whole = new Type(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
