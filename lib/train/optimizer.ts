/** AdamW's state in memory: which tensors have it in 8 bits, and where each one's lies. */
import { VltuneError } from '../errors.js';
import { align } from '../graph/planner.js';
import type { ParameterLayout } from '../models/parameters.js';
import { dtypeBytes } from '../native.js';
import { ADAMW_BLOCK, SEGMENT_COLUMNS } from '../ops/adamw.js';

export type OptimizerName = 'adamw_8bit' | 'adamw_torch';

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

  constructor(layout: ParameterLayout, optim: OptimizerName) {
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

  /** Bytes of all of them, one after the other. */
  get bytes(): number {
    return this.arrays.reduce((sum, array) => sum + align(stateBytes(array)), 0);
  }

  /** Where an array lies among them. */
  slot(name: string): { readonly offset: number; readonly bytes: number } {
    let offset = 0;
    for (const array of this.arrays) {
      if (array.name === name) return { offset, bytes: stateBytes(array) };
      offset += align(stateBytes(array));
    }
    throw new VltuneError('ERR_INTERNAL', `there is no optimizer state named ${name}`);
  }
}

export function stateBytes({ dtype, elements }: StateArray): number {
  return dtypeBytes(dtype, elements);
}
