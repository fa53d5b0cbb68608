/** Every benchmark of `vltune bench`, one definition a family of ops. */
import type { Bench } from '../bench.js';
import { TOKENS } from '../shapes.js';
import { adamwBenches } from './adamw.js';
import { attentionBenches } from './attention.js';
import { elementwiseBenches } from './elementwise.js';
import { linearBenches } from './linear.js';
import { lossBenches } from './loss.js';
import { nf4Benches } from './nf4.js';

/** `tokens`: of a micro-batch. */
export function allBenches(tokens: number = TOKENS): Bench[] {
  return [
    ...linearBenches(tokens),
    ...attentionBenches(tokens),
    ...lossBenches(tokens),
    ...nf4Benches(),
    ...elementwiseBenches(tokens),
    ...adamwBenches(),
  ];
}
