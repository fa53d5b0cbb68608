/**
 * Weights of a bicubic resize with antialiasing (a = -0.5), in the integers of Pillow's `ImagingResample` and of torch's
 * `interpolate(…, antialias=True)` on bytes. Both make the same sums of F64 weights; they round them to other integers.
 */
import type { Resampling } from '../../native.js';
import type { ImageBackend } from './image_processor.js';
import type { Size } from './smart_resize.js';

const A = -0.5;
/** Pixels that the filter reaches to each side. */
const SUPPORT = 2;

/** The weight at a distance; each library's own order of operations, on which the last bit depends. */
const FILTERS: Readonly<Record<ImageBackend, (x: number) => number>> = {
  torchvision(x) {
    if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
    return x < 2 ? ((A * x - 5 * A) * x + 8 * A) * x - 4 * A : 0;
  },
  pil(x) {
    if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * A : 0;
  },
};

/** Pillow: 32 bits less 8 of the sample and 2 of headroom. */
const PILLOW_SHIFT = 22;

/** torch: as many bits as keep the largest weight below 2^15. */
function torchShift(largest: number): number {
  let shift = 0;
  while (shift < 22 && Math.trunc(0.5 + largest * 2 ** (shift + 1)) < 2 ** 15) shift++;
  return shift;
}

/** How `from` pixels become `to`; undefined where nothing changes. */
export function bicubic(from: number, to: number, backend: ImageBackend): Resampling | undefined {
  if (from === to) return undefined;
  const filter = FILTERS[backend];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  const inverse = 1 / stretch;
  const most = Math.ceil(support) * 2 + 1;
  const taps = Math.min(most, from);
  const exact = new Float64Array(to * taps);
  const starts = new Int32Array(to);
  let largest = 0;
  for (let i = 0; i < to; i++) {
    const center = scale * (i + 0.5);
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.min(Math.trunc(center + support + 0.5), from) - first, most);
    // Windows at the right edge are shorter: they begin earlier, with weights of 0, so that all are of one length.
    const start = Math.min(first, from - taps);
    const at = i * taps + first - start;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      const weight = filter(Math.abs((k + first - center + 0.5) * inverse));
      exact[at + k] = weight;
      sum += weight;
    }
    for (let k = 0; k < count; k++) {
      exact[at + k]! /= sum;
      largest = Math.max(largest, exact[at + k]!);
    }
    starts[i] = start;
  }
  const shift = backend === 'pil' ? PILLOW_SHIFT : torchShift(largest);
  const one = 2 ** shift;
  const weights = new Int32Array(exact.length); // truncates, as the cast in C does
  for (let i = 0; i < weights.length; i++) weights[i] = exact[i]! * one + (exact[i]! < 0 ? -0.5 : 0.5);
  return { starts, weights, shift };
}

/**
 * Whether Pillow resizes down the columns before it does along the rows, which rounds to other bytes: what Pillow 13 was seen to do on
 * thousands of sizes (those before it always began with the rows' length, as torch does).
 */
export function pillowResizesRowsFirst(from: Size, to: Size): boolean {
  return to.height < from.height && 2 * (from.width - to.width) < from.height - to.height;
}
