/** The next token of a sequence, and the step to it. Contract: `native/ops/sample.h`. */
import { activationDType, type Builder, dimsOf, expectDType, expectShape, type Into, type Shaped } from './builder.js';

/** The most tokens that sampling chooses among. */
export const MOST_CANDIDATES = 1024;

export interface SampleOperands<T> {
  /** [1, V] */
  readonly logits: T;
  /** f32 [4]: temperature, top_k, top_p, repetition_penalty. */
  readonly sampling: T;
  /** f32 [S]: a number in 0..1 for each token. */
  readonly uniform: T;
}

/** What the step reads and writes. */
export interface SampleState<T> {
  /** u8 [V]: 1 for tokens that have occurred. */
  readonly seen: Into<T>;
  /** i32 [1], i32 [3, 1] and i32 [1]: the inputs of the next step. */
  readonly ids: Into<T>;
  readonly positions: Into<T>;
  readonly past: Into<T>;
  /** i32 [S]: the tokens chosen so far, and i32 [1]: how many. */
  readonly tokens: Into<T>;
  readonly count: Into<T>;
}

/** Chooses the token that follows `logits`, notes it, and makes it the next step's input. */
export function sampleToken<T extends Shaped>(b: Builder<T>, operands: SampleOperands<T>, state: SampleState<T>): void {
  const { logits, sampling, uniform } = operands;
  activationDType('sample', 'logits', logits);
  const [, vocab] = dimsOf('sample', 'logits', logits, 2);
  expectShape('sample', 'logits', logits, [1, vocab!]);
  expectDType('sample', 'sampling', sampling, 'f32');
  expectShape('sample', 'sampling', sampling, [4]);
  const [steps] = dimsOf('sample', 'uniform', uniform, 1);
  expectShape('sample', 'seen', state.seen.into, [vocab!]);
  expectShape('sample', 'positions', state.positions.into, [3, 1]);
  expectShape('sample', 'tokens', state.tokens.into, [steps!]);
  b.emit('sample', [logits, sampling, uniform], [state.seen, state.ids, state.positions, state.past, state.tokens, state.count]);
}
