/**
 * Batches as a training step reads them: with the patches of their pictures and videos where the vision tower is trained, else with the
 * features that the tower, run by itself, has made of each.
 */
import type { Batch, BatchMedia } from '../data/batches.js';
import type { VisionEncoder } from '../models/vision_encoder.js';
import { concatenate, encodeEach } from '../models/vision_features.js';
import type { MediaBatch, MicroBatch } from './micro_batch.js';
import type { VisionCache } from './vision_cache.js';

/** How a step gets to see. */
export type Sight =
  | { readonly from: 'patches' }
  | { readonly from: 'features'; readonly encoder: VisionEncoder; readonly cache: VisionCache };

export class MediaFeed {
  readonly #sight: Sight | undefined;

  /** `sight` undefined: no row has a picture. */
  constructor(sight: Sight | undefined) {
    this.#sight = sight;
  }

  /** Whether a picture will have to be decoded. */
  wants(media: BatchMedia): boolean {
    return this.#sight?.from !== 'features' || !this.#sight.cache.has(media);
  }

  /** The batch with what the step reads of its pictures. Rejects as `BatchMedia.patches` does. */
  async micro(batch: Batch, signal?: AbortSignal): Promise<MicroBatch> {
    const { ids, targets, positions, bounds, media } = batch;
    return { ids, targets, positions, bounds, media: media.length > 0 ? await this.#media(media, signal) : undefined };
  }

  /** Of a batch that a step has read: the memory of its patches is used for others. */
  recycle(batch: Batch, { media }: MicroBatch): void {
    media?.patches?.forEach((patches, i) => {
      batch.media[i]!.recycle?.(patches);
    });
  }

  async #media(media: readonly BatchMedia[], signal: AbortSignal | undefined): Promise<MediaBatch> {
    const rows = concatenate(
      media.map(({ tokens }) => tokens),
      Int32Array,
    );
    const grids = media.map(({ grid }) => grid);
    if (this.#sight?.from === 'features') {
      const { encoder, cache } = this.#sight;
      return { rows, grids, features: await encodeEach(media, encoder, cache, signal) };
    }
    return { rows, grids, patches: await Promise.all(media.map((item) => item.patches(signal))) };
  }
}
