/** From logits to a token: penalty, temperature, top-k, top-p, in the order of transformers' logits processors. */
import type { MersenneTwister } from '../random.js';

export interface Sampling {
  /** 0: the most likely token (greedy). */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0: all. */
  readonly topK: number;
  /** Keep the most likely tokens whose probabilities first reach p together; 1: all. */
  readonly topP: number;
  /** Above 1 makes tokens that have occurred (prompt included) less likely; 1: off. */
  readonly repetitionPenalty: number;
}

/** The next token. `logits` is overwritten. `seen` are the ids that have occurred. */
export function sample(logits: Float32Array, sampling: Sampling, seen: ReadonlySet<number>, random: MersenneTwister): number {
  const { temperature, topK, topP, repetitionPenalty } = sampling;
  if (repetitionPenalty !== 1) {
    for (const id of seen) {
      const score = logits[id];
      if (score !== undefined) logits[id] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty;
    }
  }
  if (temperature === 0) return argmax(logits);

  const ids = candidates(logits, topK);
  const highest = logits[ids[0]!]!;
  const weights = new Float64Array(ids.length);
  let total = 0;
  ids.forEach((id, i) => {
    weights[i] = Math.exp((logits[id]! - highest) / temperature);
    total += weights[i]!;
  });
  // The most likely tokens up to the one that reaches p, which is kept.
  let kept = 0;
  let mass = 0;
  while (kept < ids.length && (kept === 0 || mass < topP * total)) mass += weights[kept++]!;

  let target = random.uniform() * mass;
  for (let i = 0; i < kept; i++) {
    target -= weights[i]!;
    if (target < 0) return ids[i]!;
  }
  return ids[kept - 1]!;
}

function argmax(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/** Ids by falling logit: the k highest (ties of the k-th too, as torch's comparison keeps them), or all. */
function candidates(logits: Float32Array, topK: number): Int32Array {
  const byLogit = (a: number, b: number) => logits[b]! - logits[a]! || a - b;
  if (topK === 0 || topK >= logits.length) return Int32Array.from(logits.keys()).sort(byLogit);
  const threshold = logits.toSorted()[logits.length - topK]!;
  const ids: number[] = [];
  for (let id = 0; id < logits.length; id++) if (logits[id]! >= threshold) ids.push(id);
  return Int32Array.from(ids).sort(byLogit);
}
