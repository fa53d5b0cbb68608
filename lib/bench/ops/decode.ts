/** One token: the norm, linear layers and gate of a feed-forward block, attention with its norms and rotations over a cache, whole layers. */
import { attentionOne, layersOne, linearsOne } from '../../ops/decode.js';
import { type Bench, FLOATS } from '../bench.js';
import { BYTES, type Scope } from '../shapes.js';
import { nf4Weight } from './linear.js';

const CACHE = 4096;
/** Tokens before the one that whole layers read, and how many layers. */
const READ = 512;
const LAYERS = 4;
const NF4_BYTES = 0.5 + 1 / 64;

export function decodeBenches({ models }: Scope): Bench[] {
  return FLOATS.flatMap((dtype) =>
    models.flatMap(({ hidden, intermediate, heads, kvHeads, headDim }): Bench[] => [
      {
        kernel: 'linears_one nf4',
        shape: `1x${hidden}x${intermediate}*2`,
        dtype,
        work: { bytes: 2 * hidden * intermediate * NF4_BYTES },
        baseline: 'copy',
        build: (b) => {
          const layers = [0, 1].map(() => ({ weight: nf4Weight(b, intermediate, hidden) }));
          const [x, residual] = [0, 1].map(() => b.normal([1, hidden], dtype));
          const norm = { weight: b.normal([hidden], dtype), eps: 1e-6, residual: residual! };
          linearsOne(b, { x: x!, norm, layers, swiglu: true });
        },
      },
      {
        kernel: 'layers_one nf4',
        shape: `${LAYERS} layers, 1+${READ}x${hidden}`,
        dtype,
        work: {
          bytes:
            LAYERS *
            (NF4_BYTES * hidden * (2 * (heads + kvHeads) * headDim + 3 * intermediate) +
              2 * READ * kvHeads * headDim * BYTES[dtype]),
        },
        baseline: 'copy',
        build: (b) => {
          const norm = (width: number) => b.normal([width], dtype);
          const [x, residual] = [0, 1].map(() => b.normal([1, hidden], dtype));
          const rope = { cos: b.normal([1, headDim / 2]), sin: b.normal([1, headDim / 2]) };
          const linear = (out: number, width: number) => ({ weight: nf4Weight(b, out, width) });
          const [inner, keys] = [heads * headDim, kvHeads * headDim];
          const layers = Array.from({ length: LAYERS }, () => {
            const [k, v] = [0, 1].map(() => ({ into: b.normal([READ + 1, keys], dtype) }));
            return {
              inputNorm: norm(hidden),
              q: linear(inner, hidden),
              k: linear(keys, hidden),
              v: linear(keys, hidden),
              qNorm: norm(headDim),
              kNorm: norm(headDim),
              o: linear(hidden, inner),
              postNorm: norm(hidden),
              gate: linear(intermediate, hidden),
              up: linear(intermediate, hidden),
              down: linear(hidden, intermediate),
              cache: { k: k!, v: v! },
            };
          });
          const past = b.integers(Int32Array.of(READ));
          const options = { heads, kvHeads, headDim, causal: true, eps: 1e-6 };
          layersOne(b, { x: x!, residual: residual!, rope, past, layers }, options);
        },
      },
      {
        kernel: 'attention_one',
        shape: `1+${CACHE}x${heads}/${kvHeads}x${headDim}`,
        dtype,
        work: { bytes: 2 * (CACHE + 1) * kvHeads * headDim * BYTES[dtype] },
        baseline: 'copy',
        build: (b) => {
          const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => b.normal([1, count * headDim], dtype));
          const [qNorm, kNorm] = [0, 1].map(() => b.normal([headDim], dtype));
          const rope = { cos: b.normal([1, headDim / 2]), sin: b.normal([1, headDim / 2]) };
          const [kCache, vCache] = [0, 1].map(() => b.normal([CACHE + 1, kvHeads * headDim], dtype));
          const past = b.integers(Int32Array.of(CACHE));
          attentionOne(
            b,
            { q: q!, k: k!, v: v!, qNorm: qNorm!, kNorm: kNorm!, rope, past },
            { k: { into: kCache! }, v: { into: vCache! } },
            { heads, kvHeads, headDim, causal: true, eps: 1e-6 },
          );
        },
      },
    ]),
  );
}
