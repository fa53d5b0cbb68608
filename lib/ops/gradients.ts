/** The gradient rule of every op that has one, by the op's name. */
import type { GradientRule } from '../graph/gradient.js';
import { attentionGradient } from './attention.js';
import { addGradient, castGradient } from './elementwise.js';
import { embeddingGradient } from './embedding.js';
import { embeddingBagGradient } from './embedding_bag.js';
import { geluGradient } from './gelu.js';
import { layerNormGradient } from './layer_norm.js';
import { linearGradient } from './linear.js';
import { linearCrossEntropyGradient } from './linear_cross_entropy.js';
import { qkNormRopeGradient } from './qk_norm_rope.js';
import { qkvRopeGradient } from './qkv_rope.js';
import { rmsNormGradient } from './rms_norm.js';
import { scatterRowsGradient } from './scatter_rows.js';
import { swigluGradient } from './swiglu.js';

export const GRADIENT_RULES: ReadonlyMap<string, GradientRule> = new Map([
  ['add', addGradient],
  ['attention', attentionGradient],
  ['cast', castGradient],
  ['embedding', embeddingGradient],
  ['embedding_bag', embeddingBagGradient],
  ['gelu', geluGradient],
  ['layer_norm', layerNormGradient],
  ['linear', linearGradient],
  ['linear_cross_entropy', linearCrossEntropyGradient],
  ['qk_norm_rope', qkNormRopeGradient],
  ['qkv_rope', qkvRopeGradient],
  ['rms_norm', rmsNormGradient],
  ['scatter_rows', scatterRowsGradient],
  ['swiglu', swigluGradient],
]);
