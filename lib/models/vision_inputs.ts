/**
 * What a vision tower wants to know of the grids of its pictures and videos, besides their patches: where each patch stands, which
 * patches see each other, and between which of the learned positions it lies. Patches come in the order in which the merger takes
 * them: block by block of merge × merge.
 */
import { VltuneError } from '../errors.js';
import { type Grid, patchesOf } from './grid.js';

export interface VisionGridInputs {
  /** Patches of all grids. */
  readonly patches: number;
  /** i32 [3, patches]: temporal (0), height and width position of each patch. */
  readonly positions: Int32Array;
  /** i32 [frames + 1]: where each frame begins, and at last `patches`. Patches see those of their own frame. */
  readonly bounds: Int32Array;
  /** i32 and f32 [patches, 4]: the four learned positions about each patch, and how much of each. */
  readonly ids: Int32Array;
  readonly weights: Float32Array;
}

/** Taps of bilinear interpolation: two along each axis. */
export const POSITION_TAPS = 4;

export interface VisionGeometry {
  /** Patches along either side of the square that becomes one feature. */
  readonly mergeSize: number;
  /** Learned positions along either side of their grid. */
  readonly gridSide: number;
}

/** The inputs of a run over these grids, one after the other. ERR_SHAPE for one whose sides are no multiples of the merge size. */
export function visionGridInputs(grids: readonly Grid[], { mergeSize, gridSide }: VisionGeometry): VisionGridInputs {
  const patches = patchesOf(grids);
  const frames = grids.reduce((sum, [t]) => sum + t, 0);
  const positions = new Int32Array(3 * patches);
  const bounds = new Int32Array(frames + 1);
  const ids = new Int32Array(patches * POSITION_TAPS);
  const weights = new Float32Array(patches * POSITION_TAPS);
  let patch = 0;
  let frame = 0;
  for (const [t, h, w] of grids) {
    if (h % mergeSize !== 0 || w % mergeSize !== 0) {
      throw new VltuneError(
        'ERR_SHAPE',
        `a grid of ${t} x ${h} x ${w} patches: height and width must be multiples of ${mergeSize}`,
      );
    }
    const [rows, columns] = [axisTaps(h, gridSide), axisTaps(w, gridSide)];
    for (let i = 0; i < t; i++) {
      forEachPatch(h, w, mergeSize, (y, x) => {
        positions[patches + patch] = y;
        positions[2 * patches + patch] = x;
        for (let tap = 0; tap < POSITION_TAPS; tap++) {
          const [row, column] = [2 * y + (tap >> 1), 2 * x + (tap & 1)];
          ids[patch * POSITION_TAPS + tap] = rows.ids[row]! * gridSide + columns.ids[column]!;
          weights[patch * POSITION_TAPS + tap] = rows.weights[row]! * columns.weights[column]!;
        }
        patch += 1;
      });
      frame += 1;
      bounds[frame] = patch;
    }
  }
  return { patches, positions, bounds, ids, weights };
}

/** Rows and columns of a frame's patches, block by block. */
function forEachPatch(h: number, w: number, merge: number, visit: (y: number, x: number) => void): void {
  for (let blockY = 0; blockY < h; blockY += merge)
    for (let blockX = 0; blockX < w; blockX += merge)
      for (let y = blockY; y < blockY + merge; y++) for (let x = blockX; x < blockX + merge; x++) visit(y, x);
}

/**
 * For each of `size` places along an axis, spread from the first to the last of `side` learned ones, the two about it and their
 * shares. In F32 step by step, as transformers' `get_vision_interpolation_indices_and_weights` (bilinear, corners aligned).
 */
function axisTaps(size: number, side: number): { ids: Int32Array; weights: Float32Array } {
  const ids = new Int32Array(2 * size);
  const weights = new Float32Array(2 * size);
  for (let i = 0; i < size; i++) {
    const source = Math.fround(Math.fround(i * (side - 1)) / Math.max(size - 1, 1));
    const floor = Math.floor(source);
    for (const tap of [0, 1]) {
      ids[2 * i + tap] = Math.min(floor + tap, side - 1);
      const distance = Math.abs(Math.fround(Math.fround(source - floor) - tap));
      weights[2 * i + tap] = Math.max(Math.fround(1 - distance), 0);
    }
  }
  return { ids, weights };
}
