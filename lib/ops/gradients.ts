/** The gradient rule of every op that has one, by the op's name. */
import type { GradientRule } from '../graph/gradient.js';
import { attentionGradient } from './attention.js';
import { addGradient } from './elementwise.js';
import { embeddingGradient } from './embedding.js';
import { linearGradient } from './linear.js';
import { linearCrossEntropyGradient } from './linear_cross_entropy.js';
import { qkNormRopeGradient } from './qk_norm_rope.js';
import { rmsNormGradient } from './rms_norm.js';
import { swigluGradient } from './swiglu.js';

export const GRADIENT_RULES: ReadonlyMap<string, GradientRule> = new Map([
  ['add', addGradient],
  ['attention', attentionGradient],
  ['embedding', embeddingGradient],
  ['linear', linearGradient],
  ['linear_cross_entropy', linearCrossEntropyGradient],
  ['qk_norm_rope', qkNormRopeGradient],
  ['rms_norm', rmsNormGradient],
  ['swiglu', swigluGradient],
]);
