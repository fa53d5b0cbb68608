/** Gradient norm, clip and AdamW over flat buffers. Contract: `native/ops/adamw.h`. */
import { type Builder, expectDType, type Into, type Shaped } from './builder.js';

/** Tensors, and so their segments, start at multiples of this many elements: the block of 8-bit state. */
export const ADAMW_BLOCK = 256;

/** Columns of the segment table: parameter offset / 256, elements, state offset / 256, 8-bit, decays, unused. */
export const SEGMENT_COLUMNS = 6;

/**
 * norm f32 [1] of the flat gradient, and clip f32 [1], what it is to be multiplied by: 0 where the norm is not finite. `scale` f32 [1]:
 * what the loss was multiplied by before the gradient was taken.
 */
export function gradNorm<T extends Shaped>(
  b: Builder<T>,
  { grads, scale = null }: { grads: T; scale?: T | null },
  norm: Into<T>,
  clip: Into<T>,
  maxGradNorm: number,
): void {
  expectDType('grad_norm', 'grads', grads, 'f32');
  if (scale) expectDType('grad_norm', 'scale', scale, 'f32');
  b.emit('grad_norm', [grads, scale], [norm, clip], { max_grad_norm: maxGradNorm });
}

export interface AdamWState<T> {
  readonly m8: T;
  readonly v8: T;
  readonly m8Absmax: T;
  readonly v8Absmax: T;
  readonly m32: T;
  readonly v32: T;
}

/** One update of every parameter; none where clip is 0. `hyper` f32 [8] = lr, beta1, beta2, eps, weight decay, step (from 1), 0, 0. */
export function adamw<T extends Shaped>(
  b: Builder<T>,
  operands: { grads: T; clip: T; hyper: T; segments: T },
  params: Into<T>,
  state: AdamWState<T>,
  variant: 'bitsandbytes' | 'torch',
): void {
  expectDType('adamw', 'params', params.into, 'f32');
  const { m8, v8, m8Absmax, v8Absmax, m32, v32 } = state;
  b.emit(
    'adamw',
    [operands.grads, operands.clip, operands.hyper, operands.segments],
    [params, { into: m8 }, { into: v8 }, { into: m8Absmax }, { into: v8Absmax }, { into: m32 }, { into: v32 }],
    { variant: variant === 'torch' ? 1 : 0 },
  );
}
