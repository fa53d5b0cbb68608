/** What `reportTo` asks for: the run's events written where other tools read them. */
import { join } from 'node:path';
import { EventFile } from './tensorboard.js';
import type { TrainEvent } from './train_events.js';

/** Writes a run's losses to TensorBoard event files in the folder `runs` of the output folder, under the tags of transformers. */
export class TensorBoardReport {
  readonly #file: EventFile;
  #pending: Promise<void> = Promise.resolve();

  private constructor(file: EventFile) {
    this.#file = file;
  }

  static async open(outputDir: string): Promise<TensorBoardReport> {
    return new TensorBoardReport(await EventFile.create(join(outputDir, 'runs')));
  }

  /** Writes in the background, in order; what fails is told by `close`. */
  onEvent(event: TrainEvent): void {
    const scalars = scalarsOf(event);
    if (!scalars) return;
    this.#pending = this.#pending.then(() => this.#file.scalars(scalars.step, scalars.values));
    this.#pending.catch(() => {});
  }

  /** Waits for all that was written. Rejects with ERR_IO if some of it failed. */
  async close(): Promise<void> {
    try {
      await this.#pending;
    } finally {
      await this.#file.close();
    }
  }
}

function scalarsOf(event: TrainEvent): { step: number; values: Record<string, number> } | undefined {
  switch (event.event) {
    case 'step': {
      const { step, loss, grad_norm, learning_rate, epoch, loss_scale } = event;
      return {
        step,
        values: {
          'train/loss': loss,
          'train/grad_norm': grad_norm,
          'train/learning_rate': learning_rate,
          'train/epoch': epoch,
          ...(loss_scale !== undefined && { 'train/loss_scale': loss_scale }),
        },
      };
    }
    case 'eval':
      return { step: event.step, values: { 'eval/loss': event.eval_loss } };
    default:
      return undefined;
  }
}
