/** The kernels of a vision tower: those bound by memory, and attention of pictures, where every patch sees all others. */
import { attention, attentionAttrs, attentionBackward } from '../../ops/attention.js';
import { embeddingBag, embeddingBagBackward } from '../../ops/embedding_bag.js';
import { gelu, geluBackward } from '../../ops/gelu.js';
import { layerNorm, layerNormBackward } from '../../ops/layer_norm.js';
import { qkvRope, qkvRopeBackward } from '../../ops/qkv_rope.js';
import { scatterRows } from '../../ops/scatter_rows.js';
import { type Bench, FLOATS, type Float } from '../bench.js';
import type { Recorder } from '../recorder.js';
import { BYTES, type Scope } from '../shapes.js';
import { type Mover, moverBench } from './elementwise.js';

interface TowerShape {
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
}

/** The towers of Qwen3-VL-2B, and of 4B and 8B. */
const TOWERS: readonly TowerShape[] = [
  { hidden: 1024, intermediate: 4096, heads: 16 },
  { hidden: 1152, intermediate: 4304, heads: 16 },
];

const EPS = 1e-6;
const TAPS = 4;
const LEARNED = 2304;
/** Patches of a picture of 512 x 512 pixels. */
const PICTURE = 1024;

function movers({ hidden, intermediate, heads }: TowerShape, dtype: Float, patches: number): Mover[] {
  const element = BYTES[dtype];
  const headDim = hidden / heads;
  const row = patches * hidden * element;
  const wide = patches * intermediate * element;
  const angles = patches * headDim * 4;
  const vectors = (b: Recorder, width = hidden) => b.normal([patches, width], dtype);
  const weights = (b: Recorder) => ({ weight: b.normal([hidden]), bias: b.normal([hidden]) });
  const rope = (b: Recorder) => ({ cos: b.normal([patches, headDim / 2]), sin: b.normal([patches, headDim / 2]) });
  const bags = (b: Recorder) => ({
    ids: b.integers(
      Int32Array.from({ length: patches * TAPS }, (_, i) => (i * 7919) % LEARNED),
      [patches, TAPS],
    ),
    weights: b.normal([patches, TAPS]),
  });
  // As many rows as a conversation with pictures has: three in four tokens are of pictures.
  const mediaRows = (b: Recorder) => b.integers(Int32Array.from({ length: (3 * patches) / 4 }, (_, i) => i + patches / 8));
  const shape = `${patches}x${hidden}`;
  return [
    {
      kernel: 'layer_norm +residual',
      shape,
      bytes: 4 * row + patches * 8,
      build: (b) => void layerNorm(b, vectors(b), weights(b), EPS, vectors(b)),
    },
    {
      kernel: 'layer_norm_backward',
      shape,
      bytes: 4 * row + patches * 8,
      build: (b) => {
        const [dy, s, dsum, parts] = [vectors(b), vectors(b), vectors(b), weights(b)];
        const { stats } = layerNorm(b, s, parts, EPS);
        b.prepare();
        layerNormBackward(b, { dy, s, weight: parts.weight, stats, dsum }, { dweight: null, dbias: null }, EPS);
      },
    },
    ...[true, false].flatMap((tanh): Mover[] => [
      {
        kernel: `gelu ${tanh ? 'by tanh' : 'exact'}`,
        shape: `${patches}x${intermediate}`,
        bytes: 2 * wide,
        build: (b) => void gelu(b, vectors(b, intermediate), { tanh }),
      },
      {
        kernel: `gelu_backward ${tanh ? 'by tanh' : 'exact'}`,
        shape: `${patches}x${intermediate}`,
        bytes: 3 * wide,
        build: (b) => void geluBackward(b, vectors(b, intermediate), vectors(b, intermediate), { tanh: tanh ? 1 : 0 }),
      },
    ]),
    {
      kernel: 'qkv_rope',
      shape: `${patches}x${heads}x${headDim}`,
      bytes: 6 * row + angles,
      build: (b) => void qkvRope(b, vectors(b, 3 * hidden), rope(b), headDim),
    },
    {
      kernel: 'qkv_rope_backward',
      shape: `${patches}x${heads}x${headDim}`,
      bytes: 6 * row + angles,
      build: (b) => void qkvRopeBackward(b, { q: vectors(b), k: vectors(b), v: vectors(b) }, rope(b), { head_dim: headDim }),
    },
    {
      kernel: 'embedding_bag',
      shape,
      bytes: 2 * row + LEARNED * hidden * element + patches * TAPS * 8,
      build: (b) => void embeddingBag(b, bags(b), b.normal([LEARNED, hidden], dtype), vectors(b)),
    },
    {
      kernel: 'embedding_bag_backward',
      shape,
      bytes: row + 2 * LEARNED * hidden * 4 + patches * TAPS * 8,
      build: (b) => embeddingBagBackward(b, bags(b), vectors(b), { into: b.zeros([LEARNED, hidden]) }),
    },
    {
      kernel: 'scatter_rows added',
      shape,
      bytes: 2.75 * row,
      build: (b) =>
        void scatterRows(b, vectors(b), mediaRows(b), b.normal([(3 * patches) / 4, hidden], dtype), { accumulate: true }),
    },
  ];
}

function pictures({ hidden, heads }: TowerShape, dtype: Float, patches: number): Bench[] {
  const count = Math.max(1, patches / PICTURE);
  const each = patches / count;
  const options = { heads, kvHeads: heads, headDim: hidden / heads, causal: false };
  const forward = 4 * count * each ** 2 * hidden;
  const operands = (b: Recorder) => ({
    q: b.normal([patches, hidden], dtype),
    k: b.normal([patches, hidden], dtype),
    v: b.normal([patches, hidden], dtype),
    bounds: b.integers(Int32Array.from({ length: count + 1 }, (_, i) => i * each)),
  });
  const shape = `${count}*${each}x${heads}/${heads}x${hidden / heads}`;
  return [
    {
      kernel: 'attention full',
      shape,
      dtype,
      work: { flops: forward },
      baseline: 'gemm',
      build: (b) => {
        const { q, k, v, bounds } = operands(b);
        attention(b, q, k, v, bounds, options);
      },
    },
    {
      kernel: 'attention_backward full',
      shape,
      dtype,
      work: { flops: 2.5 * forward },
      baseline: 'gemm',
      build: (b) => {
        const { q, k, v, bounds } = operands(b);
        const { o, lse } = attention(b, q, k, v, bounds, options);
        b.prepare();
        attentionBackward(b, { dout: b.normal(q.shape, dtype), q, k, v, o, lse, bounds }, attentionAttrs(options));
      },
    },
  ];
}

/** Patches: four to a token that the language model reads. */
export function visionBenches({ device, tokens }: Scope): Bench[] {
  const patches = device === 'cuda' ? 4 * tokens : tokens;
  return FLOATS.flatMap((dtype) =>
    TOWERS.flatMap((tower) => [
      ...movers(tower, dtype, patches).map((mover) => moverBench(mover, dtype)),
      ...pictures(tower, dtype, patches),
    ]),
  );
}
