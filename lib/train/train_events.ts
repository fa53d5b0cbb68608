/** What a run says of itself while it goes on. */
import type { Device } from '../native.js';

/** In the form in which `--json` prints it. */
export type TrainEvent =
  | {
      readonly event: 'start';
      readonly model: string;
      readonly output_dir: string;
      readonly rows: number;
      readonly tokens: number;
      readonly target_tokens: number;
      readonly truncated_rows: number;
      readonly skipped_rows: number;
      /** Pictures and videos. */
      readonly media: number;
      /** Rows that lost a picture or video, with all behind it, because it does not fit in the maximum whole; and the first of them. */
      readonly lost_media_rows: number;
      readonly first_lost_media: string | undefined;
      readonly trainable_parameters: number;
      readonly micro_batches_per_epoch: number;
      readonly steps: number;
      /** Updates done before, by the checkpoint that the run goes on from. */
      readonly resumed_step: number;
      readonly device: Device;
      /** That train together; speeds and counts are of all, memory is the first one's. */
      readonly processes: number;
      /** Several GPUs add up gradients through the host's memory, since NCCL was not found. */
      readonly lacks_nccl?: true;
      readonly planned_memory_bytes: number;
    }
  | {
      readonly event: 'step';
      readonly step: number;
      readonly epoch: number;
      /** Per target token, over the updates since the last event. */
      readonly loss: number;
      /** Before clipping, of the last update. In float16 it may be infinite or NaN (null in JSON): then that update was skipped. */
      readonly grad_norm: number;
      /** That the last update used. */
      readonly learning_rate: number;
      /** Since the last event, without padding. */
      readonly num_tokens: number;
      readonly num_target_tokens: number;
      readonly tokens_per_second: number;
      /** Held after the update: resident, or with CUDA on the card, as the driver counts it. */
      readonly memory_bytes: number;
      /** In float16: what the next update multiplies its loss by, and how many updates were skipped so far. */
      readonly loss_scale?: number;
      readonly skipped_steps?: number;
    }
  | {
      readonly event: 'eval';
      readonly step: number;
      readonly epoch: number;
      readonly eval_loss: number;
      readonly num_target_tokens: number;
    }
  | { readonly event: 'save'; readonly step: number; readonly path: string }
  | {
      readonly event: 'end';
      readonly output_dir: string;
      readonly steps: number;
      readonly train_loss: number;
      readonly tokens_per_second: number;
      readonly peak_memory_bytes: number;
      readonly planned_memory_bytes: number;
      /** In float16: how many of the steps were skipped, because their gradients were too large for it. */
      readonly skipped_steps?: number;
    };
