/** NF4 quantisation, the bytes of bitsandbytes. Contract: `native/ops/nf4.h`. */
import { type Builder, expectDType, type OutputSpec, type Shaped } from './builder.js';

/** Elements that share one absmax. */
export const NF4_BLOCK = 64;
/** Absmax values that share one nested absmax under double quantisation. */
export const NF4_NESTED_BLOCK = 256;

function count(x: Shaped): number {
  return x.shape.reduce<number>((product, dim) => product * (dim as number), 1);
}

/** x f32|bf16|f16 -> codes u8 [ceil(numel / 2)] and absmax f32 [ceil(numel / 64)]. */
export function nf4Quantize<T extends Shaped>(b: Builder<T>, x: T): { codes: T; absmax: T } {
  expectDType('nf4_quantize', 'x', x, 'f32', 'bf16', 'f16');
  const numel = count(x);
  const [codes, absmax] = b.emit(
    'nf4_quantize',
    [x],
    [
      { name: 'codes', dtype: 'u8', shape: [Math.ceil(numel / 2)] },
      { name: 'absmax', dtype: 'f32', shape: [Math.ceil(numel / NF4_BLOCK)] },
    ],
  );
  return { codes: codes!, absmax: absmax! };
}

/** The second quantisation: absmax f32 [b] -> u8 [b], nested absmax f32 [ceil(b / 256)], offset f32 [1]. */
export function nf4QuantizeAbsmax<T extends Shaped>(b: Builder<T>, absmax: T): { absmaxU8: T; nestedAbsmax: T; offset: T } {
  expectDType('nf4_quantize_absmax', 'absmax', absmax, 'f32');
  const blocks = count(absmax);
  const [absmaxU8, nestedAbsmax, offset] = b.emit(
    'nf4_quantize_absmax',
    [absmax],
    [
      { name: 'absmax_u8', dtype: 'u8', shape: [blocks] },
      { name: 'nested_absmax', dtype: 'f32', shape: [Math.ceil(blocks / NF4_NESTED_BLOCK)] },
      { name: 'offset', dtype: 'f32', shape: [1] },
    ],
  );
  return { absmaxU8: absmaxU8!, nestedAbsmax: nestedAbsmax!, offset: offset! };
}

/** Back to f32, bf16 or, on a GPU, f16. */
export function nf4Dequantize<T extends Shaped>(b: Builder<T>, x: T, dtype: 'f32' | 'bf16' | 'f16'): T {
  expectDType('nf4_dequantize', 'x', x, 'nf4');
  const y: OutputSpec = { name: 'dequantized', dtype, shape: x.shape };
  return b.emit('nf4_dequantize', [x], [y])[0]!;
}
