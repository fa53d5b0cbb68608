/** Linear layer with an optional LoRA adapter, in one op. Contract: `native/ops/linear.h`. */
import type { GradientRule } from '../graph/gradient.js';
import {
  type Attrs,
  activationDType,
  type Builder,
  bool,
  dimsOf,
  expectDType,
  expectShape,
  type Into,
  type Shaped,
} from './builder.js';

export interface LoraOperands<T> {
  /** f32 [r, in] */
  readonly a: T;
  /** f32 [out, r] */
  readonly b: T;
  /** alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA. */
  readonly scale: number;
  /** Probability with which an element of x is dropped before A. */
  readonly dropout: number;
  /** The layer's number in the dropout mask. */
  readonly site: number;
}

export interface LinearOperands<T> {
  /** f32 | bf16 | f16 | nf4 [out, in] */
  readonly weight: T;
  /** f32 | bf16 [out], on a GPU f16 too */
  readonly bias?: T | null;
  readonly lora?: LoraOperands<T> | null;
  /** i32 [2]: the key of the dropout mask, new at each micro-step. Without it nothing is dropped. */
  readonly rng?: T | null;
}

export interface Linear<T> {
  readonly y: T;
  /** f32 [n, r]: scale * drop(x) A^T, which the backward needs; null without an adapter. */
  readonly u: T | null;
}

export function linearAttrs(lora: LoraOperands<unknown> | null | undefined): Attrs {
  return lora ? { scale: lora.scale, dropout: lora.dropout, site: lora.site } : {};
}

/** `y = x W^T (+ bias) (+ scale * drop(x) A^T B^T)`; x [n, in] -> y [n, out]. */
export function linear<T extends Shaped>(b: Builder<T>, x: T, operands: LinearOperands<T>): Linear<T> {
  const { weight, bias = null, lora = null, rng = null } = operands;
  const dtype = activationDType('linear', 'x', x);
  const [n, width] = dimsOf('linear', 'x', x, 2);
  const [out] = dimsOf('linear', 'weight', weight, 2);
  expectDType('linear', 'weight', weight, 'f32', 'bf16', 'f16', 'nf4');
  expectShape('linear', 'weight', weight, [out!, width!]);
  if (bias) expectShape('linear', 'bias', bias, [out!]);
  let rank = 0;
  if (lora) {
    const [r] = dimsOf('linear', 'lora_a', lora.a, 2);
    rank = r as number;
    expectDType('linear', 'lora_a', lora.a, 'f32');
    expectShape('linear', 'lora_a', lora.a, [r!, width!]);
    expectShape('linear', 'lora_b', lora.b, [out!, r!]);
  }
  const [y, u] = b.emit(
    'linear',
    [x, weight, bias, lora?.a ?? null, lora?.b ?? null, lora && lora.dropout > 0 ? rng : null],
    [{ name: 'linear', dtype, shape: [n!, out!] }, lora ? { name: 'lora_u', dtype: 'f32', shape: [n!, rank] } : null],
    linearAttrs(lora),
  );
  return { y: y!, u: u ?? null };
}

/** What of a linear layer's gradient is wanted, and where it goes. All but `dx` accumulate. */
export interface LinearGradients<T> {
  /** A spec makes a new value; `{ into }` with `accumulate` adds to one that exists. */
  readonly dx: 'new' | Into<T> | null;
  readonly dweight: Into<T> | null;
  readonly dbias: Into<T> | null;
  readonly da: Into<T> | null;
  readonly db: Into<T> | null;
}

/** The gradients of a linear layer. `x` may be absent if neither dweight nor da is wanted. Returns dx. */
export function linearBackward<T extends Shaped>(
  b: Builder<T>,
  operands: { dy: T; x: T | null; weight: T; a: T | null; b: T | null; u: T | null; rng: T | null },
  gradients: LinearGradients<T>,
  attrs: Attrs,
): T | null {
  const { dy, x, weight } = operands;
  const dtype = activationDType('linear_backward', 'dy', dy);
  const dx = gradients.dx === 'new' ? { name: 'dx', dtype, shape: [dy.shape[0]!, weight.shape[1]!] } : gradients.dx;
  return b.emit(
    'linear_backward',
    [dy, x, weight, operands.a, operands.b, operands.u, operands.rng],
    [dx, gradients.dweight, gradients.dbias, gradients.da, gradients.db],
    { ...attrs, accumulate: bool(gradients.dx !== null && gradients.dx !== 'new') },
  )[0]!;
}

export const linearGradient: GradientRule = (g, op) => {
  const [x, weight, bias, a, b, rng] = op.in;
  const [y, u] = op.out;
  const dy = g.gradientOf(y);
  if (!dy) return;
  const dweight = g.parameter(weight);
  const dbias = g.parameter(bias);
  const da = g.parameter(a);
  const db = g.parameter(b);
  const wanted = g.wants(x);
  if (!wanted && !dweight && !dbias && !da && !db) return;
  const dx = wanted ? (g.accumulator(x) ?? 'new') : null;
  const made = linearBackward(
    g,
    {
      dy,
      x: dweight || da ? x! : null, // a frozen layer without an adapter keeps no input alive
      weight: weight!,
      a: a ?? null,
      b: b ?? null,
      u: db ? u! : null,
      rng: rng ?? null,
    },
    { dx, dweight, dbias, da, db },
    op.attrs,
  );
  if (wanted && dx === 'new') g.contribute(x, made!);
};
