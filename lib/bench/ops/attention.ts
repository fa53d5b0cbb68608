/** Attention: one long sequence, a pack of short ones as instruction data has them, and one token over a cache. */
import { type AttentionOptions, attention, attentionAttrs, attentionBackward, attentionCached } from '../../ops/attention.js';
import { type Bench, FLOATS, type Float } from '../bench.js';
import type { Recorder } from '../recorder.js';
import { BYTES, type ModelShape, SCOPES, type Scope } from '../shapes.js';

const TOKENS = SCOPES.cpu.tokens;

/** Lengths from 20 to 60 that fill a pack. */
const SHORT = [23, 57, 31, 44, 20, 60, 38, 27, 52, 41, 35, 49, 35];
export interface Pack {
  readonly name: string;
  readonly lengths: readonly number[];
}

const CPU_PACKS: readonly Pack[] = [
  { name: `${TOKENS}`, lengths: [TOKENS] },
  { name: '2048', lengths: [2048] },
  { name: `${TOKENS}/${SHORT.length}`, lengths: SHORT },
];

/** The same for a GPU: the seed recipe's two rows, long rows, and a full batch of short ones. */
function cudaPacks(tokens: number): Pack[] {
  const short = Array.from({ length: tokens / TOKENS }, () => SHORT).flat();
  return [
    { name: `2*${tokens / 2}`, lengths: [tokens / 2, tokens / 2] },
    { name: `${2 * tokens}`, lengths: [2 * tokens] },
    { name: `${4 * tokens}`, lengths: [4 * tokens] },
    { name: `${tokens}/${short.length}`, lengths: short },
  ];
}

export function attentionPacks({ device, tokens }: Scope): readonly Pack[] {
  return device === 'cuda' ? cudaPacks(tokens) : CPU_PACKS;
}

const CACHE = 4096;

function optionsOf({ heads, kvHeads, headDim }: ModelShape): AttentionOptions {
  return { heads, kvHeads, headDim, causal: true };
}

function operands(b: Recorder, model: ModelShape, dtype: Float, lengths: readonly number[]) {
  const bounds = new Int32Array(lengths.length + 1);
  for (const [i, length] of lengths.entries()) bounds[i + 1] = bounds[i]! + length;
  const tokens = bounds.at(-1)!;
  const [wide, narrow] = [model.heads * model.headDim, model.kvHeads * model.headDim];
  return {
    q: b.normal([tokens, wide], dtype),
    k: b.normal([tokens, narrow], dtype),
    v: b.normal([tokens, narrow], dtype),
    bounds: b.integers(bounds),
  };
}

export function attentionBenches(scope: Scope): Bench[] {
  const { models } = scope;
  const packs = attentionPacks(scope);
  return FLOATS.flatMap((dtype) =>
    models.flatMap((model): Bench[] => {
      const { heads, kvHeads, headDim } = model;
      const cacheBytes = 2 * (CACHE + 1) * kvHeads * headDim * BYTES[dtype];
      return [
        ...packs.flatMap(({ name, lengths }): Bench[] => {
          const shape = `${name}x${heads}/${kvHeads}x${headDim}`;
          // Pairs of query and key that see each other; a product of the forward is 2 * headDim for each.
          const pairs = lengths.reduce((sum, length) => sum + (length * (length + 1)) / 2, 0);
          const forward = 4 * pairs * heads * headDim;
          return [
            {
              kernel: 'attention',
              shape,
              dtype,
              work: { flops: forward },
              baseline: 'gemm',
              build: (b) => {
                const { q, k, v, bounds } = operands(b, model, dtype, lengths);
                attention(b, q, k, v, bounds, optionsOf(model));
              },
            },
            {
              kernel: 'attention_backward',
              shape,
              dtype,
              work: { flops: 2.5 * forward },
              baseline: 'gemm',
              build: (b) => {
                const { q, k, v, bounds } = operands(b, model, dtype, lengths);
                const { o, lse } = attention(b, q, k, v, bounds, optionsOf(model));
                b.prepare();
                attentionBackward(
                  b,
                  { dout: b.normal(q.shape, dtype), q, k, v, o, lse, bounds },
                  attentionAttrs(optionsOf(model)),
                );
              },
            },
          ];
        }),
        {
          kernel: 'attention_cached',
          shape: `1+${CACHE}x${heads}/${kvHeads}x${headDim}`,
          dtype,
          work: { bytes: cacheBytes },
          baseline: 'copy',
          build: (b) => {
            const { q, k, v } = operands(b, model, dtype, [1]);
            const past = b.integers(Int32Array.of(CACHE));
            const [kCache, vCache] = [0, 1].map(() => b.normal([CACHE + 1, kvHeads * headDim], dtype));
            attentionCached(b, q, k, v, past, { k: { into: kCache! }, v: { into: vCache! } }, optionsOf(model));
          },
        },
      ];
    }),
  );
}
