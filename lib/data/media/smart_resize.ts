/** The sizes that pictures and videos are resized to: `smart_resize` of transformers' Qwen2-VL image and Qwen3-VL video processors. */
import { VltuneError } from '../../errors.js';

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface ResizeRule {
  /** Both sides become multiples of this: patch size × merge size. */
  readonly factor: number;
  /** Bounds on width × height; for a video on frames × width × height. */
  readonly minPixels: number;
  readonly maxPixels: number;
}

/** Longer side by shorter side, beyond which transformers refuses a picture too. */
const LARGEST_RATIO = 200;

/** Python's `round`: a half goes to the even neighbour. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}

function checkRatio(width: number, height: number): void {
  const ratio = Math.max(width, height) / Math.min(width, height);
  if (!(ratio <= LARGEST_RATIO)) {
    throw new VltuneError(
      'ERR_BAD_DATA',
      `a size of ${width}×${height}: one side may be at most ${LARGEST_RATIO} times the other, this is ${ratio.toFixed(1)} times`,
    );
  }
}

/** `frames` and `roundedFrames` are 1 for a picture. */
function fit(size: Size, frames: number, roundedFrames: number, rule: ResizeRule): Size {
  const { factor, minPixels, maxPixels } = rule;
  const { width, height } = size;
  checkRatio(width, height);
  const roundedHeight = roundHalfEven(height / factor) * factor;
  const roundedWidth = roundHalfEven(width / factor) * factor;
  const pixels = roundedFrames * roundedHeight * roundedWidth;
  if (pixels > maxPixels) {
    const beta = Math.sqrt((frames * height * width) / maxPixels);
    const shrink = (side: number) => Math.max(factor, Math.floor(side / beta / factor) * factor);
    return { width: shrink(width), height: shrink(height) };
  }
  if (pixels < minPixels) {
    const beta = Math.sqrt(minPixels / (frames * height * width));
    const grow = (side: number) => Math.ceil((side * beta) / factor) * factor;
    return { width: grow(width), height: grow(height) };
  }
  return { width: roundedWidth, height: roundedHeight };
}

/** ERR_BAD_DATA for a picture that is too long and thin. */
export function imageSize(size: Size, rule: ResizeRule): Size {
  return fit(size, 1, 1, rule);
}

/** `frames` sampled frames, of which `temporalFactor` are one patch. ERR_BAD_DATA for frames too few, or too long and thin. */
export function videoSize(size: Size, frames: number, temporalFactor: number, rule: ResizeRule): Size {
  if (frames < temporalFactor) {
    throw new VltuneError('ERR_BAD_DATA', `a video needs at least ${temporalFactor} frames, this one has ${frames}`);
  }
  let { width, height } = size;
  if (height < rule.factor || width < rule.factor) {
    const scale = Math.max(rule.factor / height, rule.factor / width);
    height = Math.trunc(height * scale);
    width = Math.trunc(width * scale);
  }
  return fit({ width, height }, frames, roundHalfEven(frames / temporalFactor) * temporalFactor, rule);
}

/** For a model that resizes nothing. ERR_BAD_DATA if the sides are no multiples of the factor. */
export function unresizedSize({ width, height }: Size, factor: number): Size {
  if (width % factor === 0 && height % factor === 0) return { width, height };
  throw new VltuneError(
    'ERR_BAD_DATA',
    `a size of ${width}×${height}: the model resizes nothing (do_resize), so both sides must be multiples of ${factor}`,
  );
}
