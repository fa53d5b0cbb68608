/** A micro-batch as a training step reads it, and how it comes into the inputs of the step's programs. */
import { VltuneError } from '../errors.js';
import type { IoBuffers } from '../graph/io.js';
import type { VisionShape } from '../models/family.js';
import type { Grid } from '../models/grid.js';
import type { EncodedFeatures } from '../models/vision_encoder.js';
import { featureName, writeVisionInputs } from '../models/vision_io.js';
import { dtypeBytes } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { IGNORE_INDEX } from '../ops/linear_cross_entropy.js';

/** A packed micro-batch: n tokens of several sequences, no padding. */
export interface MicroBatch {
  readonly ids: Int32Array;
  /** The next token of the same sequence, or -100. */
  readonly targets: Int32Array;
  /** [3, n] */
  readonly positions: Int32Array;
  /** Where each sequence begins, and at last n. */
  readonly bounds: Int32Array;
  /** Absent: text alone. */
  readonly media?: MediaBatch | undefined;
}

/** The pictures and videos of a micro-batch, in the order of its tokens. */
export interface MediaBatch {
  /** Ascending: the token that each feature stands for, one for each merge × merge patches. */
  readonly rows: Int32Array;
  readonly grids: readonly Grid[];
  /** f32 [patches, patchWidth] in parts, where the step reads patches. */
  readonly patches?: readonly Float32Array[] | undefined;
  /** Where the step reads features. */
  readonly features?: EncodedFeatures | undefined;
}

/** What a step that sees reads of pictures. */
export interface MediaForm {
  readonly from: 'patches' | 'features';
  readonly shape: VisionShape;
  /** Of features. */
  readonly dtype: ActivationDType;
}

const NO_MEDIA: MediaBatch = { rows: new Int32Array(0), grids: [], patches: [] };

/**
 * Writes a batch; `form` is undefined where the step is built for text. Returns the lengths of the named dimensions. ERR_SHAPE for one
 * that is larger than the programs, or whose tokens, grids, patches and features do not fit each other.
 */
export function writeMicroBatch(
  io: IoBuffers,
  batch: MicroBatch,
  lossScale: number,
  form: MediaForm | undefined,
): Record<string, number> {
  io.write('ids', batch.ids);
  io.write('targets', batch.targets);
  io.write('positions', batch.positions);
  io.write('bounds', batch.bounds);
  io.write('loss_scale', Float32Array.of(lossScale));
  const rows = rowsWithTarget(batch.targets);
  io.write('rows', rows);
  return {
    tokens: batch.ids.length,
    bounds: batch.bounds.length,
    targets: rows.length,
    ...writeMedia(io, batch.media ?? NO_MEDIA, form),
  };
}

function writeMedia(io: IoBuffers, batch: MediaBatch, form: MediaForm | undefined): Record<string, number> {
  const { rows, grids, patches } = batch;
  if (!form) {
    if (rows.length > 0) throw new VltuneError('ERR_INTERNAL', 'the training step is built for text, and was given pictures');
    return {};
  }
  io.write('media_rows', rows);
  if (form.from === 'features') {
    if (rows.length > 0) writeFeatures(io, batch, form);
    return { features: rows.length };
  }
  if (!patches) throw new VltuneError('ERR_INTERNAL', 'the training step reads patches, and was given none');
  const lengths = writeVisionInputs(io, form.shape, { grids, patches });
  if (rows.length !== lengths.features)
    throw new VltuneError('ERR_SHAPE', `${rows.length} tokens stand for pictures that have ${lengths.features} features`);
  return lengths;
}

function writeFeatures(io: IoBuffers, { rows, features }: MediaBatch, { shape, dtype }: MediaForm): void {
  if (!features) throw new VltuneError('ERR_INTERNAL', 'the training step reads features, and was given none');
  const levels = 1 + shape.deepstackLayers.length;
  const bytes = dtypeBytes(dtype, rows.length * shape.outSize);
  if (features.length !== levels || features.some(({ byteLength }) => byteLength !== bytes)) {
    throw new VltuneError(
      'ERR_SHAPE',
      `${rows.length} tokens stand for pictures: expected ${levels} arrays of ${bytes} bytes of features, ` +
        `got ${features.length} of ${features.map(({ byteLength }) => byteLength).join(', ')}`,
    );
  }
  features.forEach((data, level) => {
    io.write(featureName(level), data);
  });
}

function rowsWithTarget(targets: Int32Array): Int32Array {
  const rows = new Int32Array(targets.length);
  let count = 0;
  for (let row = 0; row < targets.length; row++) if (targets[row] !== IGNORE_INDEX) rows[count++] = row;
  return rows.subarray(0, count);
}
