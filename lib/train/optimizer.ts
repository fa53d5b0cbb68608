/** AdamW's state in memory: which tensors have it in 8 bits, and where each one's lies. */
import type { ParameterLayout } from '../models/parameters.js';
import { ADAMW_BLOCK, SEGMENT_COLUMNS } from '../ops/adamw.js';

export type Optim = 'adamw_8bit' | 'adamw_torch';

/** bitsandbytes keeps 32-bit state for tensors smaller than this. */
const MIN_8BIT_SIZE = 4096;

export interface OptimizerHyper {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** Updates done so far, plus one. */
  readonly step: number;
}

export interface StateArray {
  readonly name: string;
  readonly dtype: 'f32' | 'u8';
  readonly elements: number;
}

export class OptimizerLayout {
  readonly variant: 'bitsandbytes' | 'torch';
  /** The table that the op reads: `native/ops/adamw.h`. */
  readonly segments: Int32Array;
  readonly segmentCount: number;
  /** Elements of 8-bit and of 32-bit state. */
  readonly size8: number;
  readonly size32: number;

  constructor(layout: ParameterLayout, optim: Optim) {
    this.variant = optim === 'adamw_torch' ? 'torch' : 'bitsandbytes';
    this.segmentCount = layout.parameters.length;
    this.segments = new Int32Array(this.segmentCount * SEGMENT_COLUMNS);
    const used = { eight: 0, full: 0 };
    layout.parameters.forEach((parameter, i) => {
      const eight = optim === 'adamw_8bit' && parameter.numel >= MIN_8BIT_SIZE && !parameter.isEmbedding;
      const kind = eight ? 'eight' : 'full';
      this.segments.set(
        [parameter.offset / ADAMW_BLOCK, parameter.numel, used[kind] / ADAMW_BLOCK, eight ? 1 : 0, parameter.decays ? 1 : 0, 0],
        i * SEGMENT_COLUMNS,
      );
      used[kind] += Math.ceil(parameter.numel / ADAMW_BLOCK) * ADAMW_BLOCK;
    });
    this.size8 = used.eight;
    this.size32 = used.full;
  }

  /** The state's arrays, in the order of the op's outputs, under the names that a checkpoint stores them by. */
  get arrays(): readonly StateArray[] {
    return [
      { name: 'exp_avg_8bit', dtype: 'u8', elements: this.size8 },
      { name: 'exp_avg_sq_8bit', dtype: 'u8', elements: this.size8 },
      { name: 'exp_avg_absmax', dtype: 'f32', elements: this.size8 / ADAMW_BLOCK },
      { name: 'exp_avg_sq_absmax', dtype: 'f32', elements: this.size8 / ADAMW_BLOCK },
      { name: 'exp_avg', dtype: 'f32', elements: this.size32 },
      { name: 'exp_avg_sq', dtype: 'f32', elements: this.size32 },
    ];
  }
}
