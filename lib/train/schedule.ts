/**
 * How many updates a run has, and the learning rate of each: transformers 5's arithmetic in F64.
 */
import type { LrSchedulerType } from './args.js';

export interface Schedule {
  readonly type: LrSchedulerType;
  /** Peak learning rate. */
  readonly base: number;
  /** Warm-up updates; `constant` has none. */
  readonly warmup: number;
  /** Updates of the whole run. */
  readonly total: number;
}

/** The learning rate that update `step` uses; `step` counts from 0, so a run with warm-up starts with 0. */
export function learningRate(step: number, { type, base, warmup, total }: Schedule): number {
  if (type === 'constant') return base;
  if (step < warmup) return base * (step / Math.max(1, warmup));
  switch (type) {
    case 'constant_with_warmup':
      return base;
    case 'linear':
      return base * Math.max(0, (total - step) / Math.max(1, total - warmup));
    case 'cosine': {
      const progress = (step - warmup) / Math.max(1, total - warmup);
      return base * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
    }
  }
}

/** Warm-up updates of a run of `total`: `warmupSteps` itself, or, below 1, that fraction of `total`; else by `warmupRatio`. Rounded up. */
export function warmupUpdates(args: { readonly warmupSteps: number; readonly warmupRatio: number }, total: number): number {
  if (args.warmupSteps >= 1) return Math.floor(args.warmupSteps);
  return Math.ceil(total * (args.warmupSteps > 0 ? args.warmupSteps : args.warmupRatio));
}

/** Updates of one epoch of `microBatches`: a partial last accumulation is an update of its own, and there is at least one. */
export function updatesPerEpoch(microBatches: number, gradientAccumulationSteps: number): number {
  return Math.max(1, Math.ceil(microBatches / gradientAccumulationSteps));
}

/** Updates of the whole run: `maxSteps` if it is positive, else by epochs, a fraction of one rounded up. */
export function totalUpdates(args: { readonly maxSteps: number; readonly numTrainEpochs: number }, perEpoch: number): number {
  return args.maxSteps > 0 ? args.maxSteps : Math.ceil(args.numTrainEpochs * perEpoch);
}

/**
 * The epoch that is logged after `updates` updates: whole epochs, and of the current one the share of its micro-batches seen.
 */
export function epochAfter(updates: number, microBatches: number, gradientAccumulationSteps: number): number {
  const perEpoch = updatesPerEpoch(microBatches, gradientAccumulationSteps);
  const whole = Math.floor(updates / perEpoch);
  const seen = Math.min(microBatches, (updates - whole * perEpoch) * gradientAccumulationSteps);
  return microBatches === 0 ? whole : whole + seen / microBatches;
}
