/** Every benchmark of `vltune bench`, one definition a family of ops. */
import type { Bench } from '../bench.js';
import type { Scope } from '../shapes.js';
import { adamwBenches } from './adamw.js';
import { attentionBenches } from './attention.js';
import { decodeBenches } from './decode.js';
import { elementwiseBenches } from './elementwise.js';
import { linearBenches } from './linear.js';
import { lossBenches } from './loss.js';
import { nf4Benches } from './nf4.js';
import { visionBenches } from './vision.js';

export function allBenches(scope: Scope): Bench[] {
  return [
    ...linearBenches(scope),
    ...attentionBenches(scope),
    ...decodeBenches(scope),
    ...lossBenches(scope),
    ...nf4Benches(scope),
    ...elementwiseBenches(scope),
    ...visionBenches(scope),
    ...adamwBenches(scope),
  ];
}
