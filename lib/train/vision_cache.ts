/**
 * Features of pictures, kept over epochs within a budget of the host's memory.
 *
 * What is in stays: an epoch asks for every picture once, in another order each time, so the share of pictures that fits is the share
 * that is found. To let the one that was asked for longest ago make room, as caches do elsewhere, would throw each out shortly before
 * it is asked for again, and find the square of that share at best.
 */
import type { EncodedFeatures } from '../models/vision_encoder.js';
import type { FeatureStore, VisionKey } from '../models/vision_features.js';

export class VisionCache implements FeatureStore {
  readonly budget: number;
  readonly #entries = new Map<string, EncodedFeatures>();
  #bytes = 0;

  /** `budget`: bytes that the features may take. */
  constructor(budget: number) {
    this.budget = budget;
  }

  /** Bytes of what is in it. */
  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#entries.size;
  }

  has(media: VisionKey): boolean {
    return this.#entries.has(nameOf(media));
  }

  get(media: VisionKey): EncodedFeatures | undefined {
    return this.#entries.get(nameOf(media));
  }

  /** Keeps features if they fit; the first ones of a picture stay. */
  put(media: VisionKey, features: EncodedFeatures): void {
    const name = nameOf(media);
    const bytes = features.reduce((sum, { byteLength }) => sum + byteLength, 0);
    if (this.#entries.has(name) || this.#bytes + bytes > this.budget) return;
    this.#entries.set(name, features);
    this.#bytes += bytes;
  }
}

function nameOf({ kind, key, grid }: VisionKey): string {
  return `${kind} ${key} ${grid.join('x')}`;
}
