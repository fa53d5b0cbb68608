/** The kernels between the products, all bound by memory: norms, rotation, SwiGLU, embedding, sums and casts. */
import { add, cast } from '../../ops/elementwise.js';
import { embedding, embeddingBackward } from '../../ops/embedding.js';
import { qkNormRope, qkNormRopeBackward, ropeTable } from '../../ops/qk_norm_rope.js';
import { rmsNorm, rmsNormBackward } from '../../ops/rms_norm.js';
import { swiglu, swigluBackward } from '../../ops/swiglu.js';
import { type Bench, FLOATS, type Float } from '../bench.js';
import type { Recorder } from '../recorder.js';
import { BYTES, type ModelShape, type Scope } from '../shapes.js';

const EPS = 1e-6;

/** A kernel bound by memory. */
export interface Mover {
  readonly kernel: string;
  readonly shape: string;
  /** Bytes that are read and written. */
  readonly bytes: number;
  build(b: Recorder): void;
}

function rope(b: Recorder, { headDim }: ModelShape, tokens: number) {
  const third = Math.floor(headDim / 6);
  const positions = b.integers(
    Int32Array.from({ length: 3 * tokens }, (_, i) => i % tokens),
    [3, tokens],
  );
  const table = ropeTable(b, positions, {
    headDim,
    theta: 5e6,
    sections: [headDim / 2 - 2 * third, third, third],
    interleaved: true,
  });
  b.prepare();
  return table;
}

function movers(model: ModelShape, dtype: Float, tokens: number): Mover[] {
  const { hidden, intermediate, heads, headDim } = model;
  const element = BYTES[dtype];
  const row = tokens * hidden * element;
  const gate = tokens * intermediate * element;
  const queries = tokens * heads * headDim * element;
  const angles = tokens * headDim * 4;
  const ids = (b: Recorder) => b.integers(Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % 32_000));
  const vectors = (b: Recorder) => b.normal([tokens, hidden], dtype);
  const gates = (b: Recorder) => b.normal([tokens, intermediate], dtype);
  const heads2d = (b: Recorder) => b.normal([tokens, heads * headDim], dtype);
  const d = `${tokens}x${hidden}`;
  const f = `${tokens}x${intermediate}`;
  const q = `${tokens}x${heads}x${headDim}`;
  return [
    {
      kernel: 'rms_norm +residual',
      shape: d,
      bytes: 4 * row + tokens * 4,
      build: (b) => void rmsNorm(b, vectors(b), b.normal([hidden]), EPS, vectors(b)),
    },
    {
      kernel: 'rms_norm_backward',
      shape: d,
      bytes: 4 * row + tokens * 4,
      build: (b) => {
        const [dy, s, dsum, weight] = [vectors(b), vectors(b), vectors(b), b.normal([hidden])];
        const { rstd } = rmsNorm(b, s, weight, EPS);
        b.prepare();
        rmsNormBackward(b, { dy, s, weight, rstd, dsum }, null, EPS);
      },
    },
    {
      kernel: 'qk_norm_rope',
      shape: q,
      bytes: 2 * queries + angles + tokens * heads * 4,
      build: (b) => void qkNormRope(b, heads2d(b), b.normal([headDim]), rope(b, model, tokens), { headDim, eps: EPS }),
    },
    {
      kernel: 'qk_norm_rope_backward',
      shape: q,
      bytes: 3 * queries + angles + tokens * heads * 4,
      build: (b) => {
        const [x, weight, table] = [heads2d(b), b.normal([headDim]), rope(b, model, tokens)];
        const { rstd } = qkNormRope(b, x, weight, table, { headDim, eps: EPS });
        b.prepare();
        qkNormRopeBackward(b, { dy: heads2d(b), x, weight, rstd, ...table }, null, { headDim, eps: EPS });
      },
    },
    { kernel: 'swiglu', shape: f, bytes: 3 * gate, build: (b) => void swiglu(b, gates(b), gates(b)) },
    {
      kernel: 'swiglu_backward',
      shape: f,
      bytes: 5 * gate,
      build: (b) => void swigluBackward(b, gates(b), gates(b), gates(b)),
    },
    { kernel: 'add', shape: d, bytes: 3 * row, build: (b) => void add(b, vectors(b), vectors(b)) },
    {
      kernel: 'embedding',
      shape: d,
      bytes: 2 * row,
      build: (b) => void embedding(b, ids(b), b.normal([32_000, hidden], dtype), dtype),
    },
    {
      kernel: 'embedding_backward',
      shape: d,
      bytes: row + 2 * tokens * hidden * 4,
      build: (b) => embeddingBackward(b, ids(b), vectors(b), { into: b.zeros([32_000, hidden]) }),
    },
    {
      kernel: dtype === 'f32' ? 'cast from bf16' : 'cast from f32',
      shape: f,
      bytes: tokens * intermediate * (BYTES.f32 + BYTES.bf16),
      build: (b) =>
        void cast(b, b.normal([tokens, intermediate], dtype === 'f32' ? 'bf16' : 'f32'), {
          dtype,
          shape: [tokens, intermediate],
        }),
    },
  ];
}

export function moverBench({ bytes, ...mover }: Mover, dtype: Float): Bench {
  return { ...mover, dtype, work: { bytes }, baseline: 'copy' };
}

export function elementwiseBenches({ tokens, models }: Scope): Bench[] {
  return FLOATS.flatMap((dtype) =>
    models.flatMap((model) => movers(model, dtype, tokens).map((mover) => moverBench(mover, dtype))),
  );
}
