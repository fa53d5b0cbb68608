/** NF4: quantise, and dequantise with plain and with quantised scales. */
import { NF4_BLOCK, nf4Dequantize, nf4Quantize } from '../../ops/nf4.js';
import { Tensor } from '../../ops/tensor.js';
import { type Bench, FLOATS } from '../bench.js';
import { BYTES, type Scope } from '../shapes.js';
import { nf4Weight } from './linear.js';

export function nf4Benches({ models }: Scope): Bench[] {
  return FLOATS.flatMap((dtype) =>
    models.flatMap(({ hidden, intermediate }): Bench[] => {
      const numel = hidden * intermediate;
      const shape = `${intermediate}x${hidden}`;
      const plain = numel / 2 + (numel / NF4_BLOCK) * 4;
      const nested = numel / 2 + numel / NF4_BLOCK;
      const wide = numel * BYTES[dtype];
      return [
        {
          kernel: 'nf4_quantize',
          shape,
          dtype,
          work: { bytes: wide + plain },
          baseline: 'copy',
          build: (b) => void nf4Quantize(b, b.normal([intermediate, hidden], dtype)),
        },
        {
          kernel: 'nf4_dequantize',
          shape,
          dtype,
          work: { bytes: wide + plain },
          baseline: 'copy',
          build: (b) => {
            const { codes, absmax } = nf4Quantize(b, b.normal([intermediate, hidden]));
            b.prepare();
            nf4Dequantize(b, Tensor.nf4([intermediate, hidden], codes, absmax), dtype);
          },
        },
        {
          kernel: 'nf4_dequantize nested',
          shape,
          dtype,
          work: { bytes: wide + nested },
          baseline: 'copy',
          build: (b) => void nf4Dequantize(b, nf4Weight(b, intermediate, hidden), dtype),
        },
      ];
    }),
  );
}
