/** Every benchmark of `vltune bench`, one definition a family of ops. */
import type { Bench } from '../bench.js';
import { adamwBenches } from './adamw.js';
import { attentionBenches } from './attention.js';
import { elementwiseBenches } from './elementwise.js';
import { linearBenches } from './linear.js';
import { lossBenches } from './loss.js';
import { nf4Benches } from './nf4.js';

export function allBenches(): Bench[] {
  return [
    ...linearBenches(),
    ...attentionBenches(),
    ...lossBenches(),
    ...nf4Benches(),
    ...elementwiseBenches(),
    ...adamwBenches(),
  ];
}
