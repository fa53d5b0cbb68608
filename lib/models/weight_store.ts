/** Where a program finds the weights that are not trained: a checkpoint's (`FrozenWeights`), or random ones of true shape. */
import type { Place } from '../graph/program.js';
import type { DType } from '../native.js';
import type { LinearSpec } from './family.js';

export interface StoredWeight {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export interface WeightStore {
  /** Bytes of all of them in the device's memory. */
  readonly bytes: number;
  /** Bytes of those that a GPU reads in the host's. */
  readonly hostBytes: number;
  linear(module: string): LinearSpec;
  get(name: string): StoredWeight | undefined;
  /** Where a loaded weight lies. */
  place(name: string): Place;
}
