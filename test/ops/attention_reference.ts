/** Attention and its gradients in F64, written from the formulas, one row at a time. */

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly causal: boolean;
  readonly scale: number;
  /** Length of each sequence. */
  readonly lengths: readonly number[];
}

export interface AttentionInputs {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

export interface AttentionOutputs {
  readonly o: Float64Array;
  readonly lse: Float64Array;
}

export interface AttentionGradients {
  readonly dq: Float64Array;
  readonly dk: Float64Array;
  readonly dv: Float64Array;
}

export function boundsOf(lengths: readonly number[]): Int32Array {
  const bounds = new Int32Array(lengths.length + 1);
  for (const [s, length] of lengths.entries()) bounds[s + 1] = bounds[s]! + length;
  return bounds;
}

function dot(a: ArrayLike<number>, aAt: number, b: ArrayLike<number>, bAt: number, count: number): number {
  let sum = 0;
  for (let d = 0; d < count; d++) sum += a[aAt + d]! * b[bAt + d]!;
  return sum;
}

/** Calls `row` for every query from `from` and every head with the weights of the keys it sees: keys `begin` to `begin + weights.length`. */
function eachRow(
  shape: AttentionShape,
  { q, k }: AttentionInputs,
  from: number,
  row: (
    at: { head: number; token: number; q: number; kv: (key: number) => number; begin: number },
    weights: Float64Array,
    lse: number,
  ) => void,
): void {
  const { heads, kvHeads, headDim, causal, scale } = shape;
  const bounds = boundsOf(shape.lengths);
  for (let s = 0; s < shape.lengths.length; s++) {
    const begin = bounds[s]!;
    for (let token = Math.max(begin, from); token < bounds[s + 1]!; token++) {
      for (let head = 0; head < heads; head++) {
        const kvHead = Math.floor(head / (heads / kvHeads));
        const kv = (key: number): number => (key * kvHeads + kvHead) * headDim;
        const at = (token * heads + head) * headDim;
        const scores = new Float64Array((causal ? token + 1 : bounds[s + 1]!) - begin);
        for (let j = 0; j < scores.length; j++) scores[j] = scale * dot(q, at, k, kv(begin + j), headDim);
        const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
        let sum = 0;
        for (const score of scores) sum += Math.exp(score - most);
        const lse = most + Math.log(sum);
        row(
          { head, token, q: at, kv, begin },
          scores.map((score) => Math.exp(score - lse)),
          lse,
        );
      }
    }
  }
}

/** Rows before `from` are left 0. */
export function attentionReference(shape: AttentionShape, inputs: AttentionInputs, from = 0): AttentionOutputs {
  const tokens = shape.lengths.reduce((a, b) => a + b, 0);
  const o = new Float64Array(inputs.q.length);
  const lse = new Float64Array(shape.heads * tokens);
  eachRow(shape, inputs, from, (at, weights, rowLse) => {
    lse[at.head * tokens + at.token] = rowLse;
    for (const [j, weight] of weights.entries())
      for (let d = 0; d < shape.headDim; d++) o[at.q + d]! += weight * inputs.v[at.kv(at.begin + j) + d]!;
  });
  return { o, lse };
}

export function attentionBackwardReference(
  shape: AttentionShape,
  inputs: AttentionInputs,
  dout: Float32Array,
): AttentionGradients {
  const { headDim, scale } = shape;
  const { q, k, v } = inputs;
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  eachRow(shape, inputs, 0, (at, weights) => {
    const dWeights = weights.map((_, j) => dot(dout, at.q, v, at.kv(at.begin + j), headDim));
    const mean = dot(weights, 0, dWeights, 0, weights.length);
    for (const [j, weight] of weights.entries()) {
      const kv = at.kv(at.begin + j);
      const dScore = scale * weight * (dWeights[j]! - mean);
      for (let d = 0; d < headDim; d++) {
        dv[kv + d]! += weight * dout[at.q + d]!;
        dq[at.q + d]! += dScore * k[kv + d]!;
        dk[kv + d]! += dScore * q[at.q + d]!;
      }
    }
  });
  return { dq, dk, dv };
}
