/** The linear layer: bare, and with LoRA over a 16-bit or an NF4 base, forward and backward. */
import { linear, linearBackward } from '../../ops/linear.js';
import { nf4Quantize, nf4QuantizeAbsmax } from '../../ops/nf4.js';
import { Tensor } from '../../ops/tensor.js';
import { type Bench, FLOATS, type Float } from '../bench.js';
import type { Recorder } from '../recorder.js';
import type { Scope } from '../shapes.js';

const RANK = 16;
const NO_GRADIENTS = { dweight: null, dbias: null, da: null, db: null };

/** Rows, inputs and outputs of a layer. */
type Shape = readonly [number, number, number];

interface Layer {
  readonly x: Tensor;
  readonly weight: Tensor;
  readonly lora: { a: Tensor; b: Tensor; scale: number; dropout: number; site: number };
}

/** A double-quantised NF4 weight. */
export function nf4Weight(b: Recorder, out: number, width: number): Tensor {
  const { codes, absmax } = nf4Quantize(b, b.normal([out, width], 'f32', 0.02));
  const { absmaxU8, nestedAbsmax, offset } = nf4QuantizeAbsmax(b, absmax);
  b.prepare();
  return Tensor.nf4([out, width], codes, { absmaxU8, nestedAbsmax, offset: offset.toFloat32()[0]! });
}

function layer(b: Recorder, dtype: Float, [tokens, width, out]: Shape, base: 'dense' | 'nf4'): Layer {
  return {
    x: b.normal([tokens, width], dtype),
    weight: base === 'nf4' ? nf4Weight(b, out, width) : b.normal([out, width], dtype, 0.02),
    lora: { a: b.normal([RANK, width], 'f32', 0.02), b: b.normal([out, RANK], 'f32', 0.02), scale: 2, dropout: 0, site: 0 },
  };
}

function backward(b: Recorder, { x, weight, lora }: Layer, dtype: Float, withLora: boolean): void {
  const [out, width] = weight.shape as [number, number];
  const tokens = x.shape[0]!;
  const dy = b.normal([tokens, out], dtype);
  if (!withLora) {
    linearBackward(b, { dy, x: null, weight, a: null, b: null, u: null, rng: null }, { ...NO_GRADIENTS, dx: 'new' }, {});
    return;
  }
  const u = b.normal([tokens, RANK]);
  const gradients = {
    ...NO_GRADIENTS,
    dx: 'new' as const,
    da: { into: b.zeros([RANK, width]) },
    db: { into: b.zeros([out, RANK]) },
  };
  linearBackward(b, { dy, x, weight, a: lora.a, b: lora.b, u, rng: null }, gradients, { scale: 2, dropout: 0, site: 0 });
}

/** x [rows, width] times a dense weight [out, width]. */
export function productBench(dtype: Float, rows: number, width: number, out: number): Bench {
  return {
    kernel: 'linear',
    shape: `${rows}x${width}x${out}`,
    dtype,
    work: { flops: 2 * rows * width * out },
    baseline: 'gemm',
    build: (b) => void linear(b, b.normal([rows, width], dtype), { weight: b.normal([out, width], dtype, 0.02) }),
  };
}

export function linearBenches({ tokens, models }: Scope): Bench[] {
  return FLOATS.flatMap((dtype) =>
    models.flatMap(({ hidden: width, intermediate: out }) => {
      const shape = `${tokens}x${width}x${out}`;
      const product = 2 * tokens * width * out;
      const adapter = 2 * tokens * RANK * (width + out);
      const bare = productBench(dtype, tokens, width, out);
      const bareForward = { name: 'bare product', work: bare.work, build: bare.build };
      const bareBackward = {
        name: 'bare product',
        work: bare.work,
        build: (b: Recorder) => backward(b, layer(b, dtype, [tokens, width, out], 'dense'), dtype, false),
      };
      return [
        bare,
        {
          kernel: 'linear_backward',
          shape,
          dtype,
          work: { flops: product },
          baseline: 'gemm' as const,
          build: bareBackward.build,
        },
        ...(['dense', 'nf4'] as const).flatMap((base) => [
          {
            kernel: `linear ${base}+lora`,
            shape,
            dtype,
            work: { flops: product + adapter },
            baseline: bareForward,
            build: (b: Recorder) => {
              const { x, weight, lora } = layer(b, dtype, [tokens, width, out], base);
              linear(b, x, { weight, lora });
            },
          },
          {
            kernel: `linear_backward ${base}+lora`,
            shape,
            dtype,
            work: { flops: product + 2 * adapter },
            baseline: bareBackward,
            build: (b: Recorder) => backward(b, layer(b, dtype, [tokens, width, out], base), dtype, true),
          },
        ]),
      ];
    }),
  );
}
