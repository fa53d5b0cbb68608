/**
 * The loss scale of training in f16, as torch.amp.GradScaler moves it. Gradients are taken of the loss times a power of two, so that
 * small ones are not lost, and are divided by it before anything else is made of them. Where one is too large for f16 all the same,
 * the update is not made and the scale is halved; after some whole updates in a row it is doubled.
 */

const INITIAL = 2 ** 16;
const GROWTH = 2;
const BACKOFF = 0.5;
const GROWTH_INTERVAL = 2000;
/** A loss times this is far within F32. */
const MOST = 2 ** 64;
/** Below this no gradient is too large because of its scale (fairseq's --min-loss-scale). */
const LEAST = 1e-4;

/** What a checkpoint keeps of it: resume gives the same bits. */
export interface LossScaleState {
  /** A power of two. */
  readonly scale: number;
  /** Updates made since the scale was last moved. */
  readonly made: number;
  /** Updates in all that were not made. */
  readonly skipped: number;
}

export class LossScale {
  #state: LossScaleState = { scale: INITIAL, made: 0, skipped: 0 };

  get state(): LossScaleState {
    return this.#state;
  }

  set state(state: LossScaleState) {
    this.#state = state;
  }

  /** Whether the scale has fallen so low that it is not what makes gradients infinite. */
  get isExhausted(): boolean {
    return this.#state.scale < LEAST;
  }

  /** Takes note of the gradient's norm after an update. Returns whether the update was made. */
  record(gradNorm: number): boolean {
    const { scale, made, skipped } = this.#state;
    if (!Number.isFinite(gradNorm)) {
      this.#state = { scale: scale * BACKOFF, made: 0, skipped: skipped + 1 };
      return false;
    }
    const grows = made + 1 >= GROWTH_INTERVAL;
    this.#state = grows ? { scale: Math.min(scale * GROWTH, MOST), made: 0, skipped } : { scale, made: made + 1, skipped };
    return true;
  }
}
