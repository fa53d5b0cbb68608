/** What `merge` and `quantize` share: a new model folder made from another, its weights streamed and its other files copied. */
import { copyFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VltuneError } from '../errors.js';
import type { FileSink } from '../files.js';
import type { Checkpoint, TensorEntry, TensorInfo } from './safetensors.js';

export interface ConvertProgress {
  /** Bytes of the source's tensors that are done, and all of them. */
  readonly bytes: number;
  readonly totalBytes: number;
}

export interface ConvertOptions {
  readonly onProgress?: (progress: ConvertProgress) => void;
  readonly signal?: AbortSignal;
}

/** Counts what is done, and stops where the signal fired. */
export class Progress {
  readonly #options: ConvertOptions;
  readonly #total: number;
  readonly #what: string;
  #done = 0;

  constructor(what: string, totalBytes: number, options: ConvertOptions) {
    this.#what = what;
    this.#total = totalBytes;
    this.#options = options;
  }

  /** Throws ERR_CANCELLED if the signal fired. */
  check(): void {
    if (this.#options.signal?.aborted) throw new VltuneError('ERR_CANCELLED', `${this.#what} was stopped`);
  }

  add(bytes: number): void {
    this.#done += bytes;
    this.#options.onProgress?.({ bytes: this.#done, totalBytes: this.#total });
    this.check();
  }
}

/** Bytes of a tensor that are in memory at a time. */
const PIECE = 8 * 1024 * 1024;

/** A tensor as it is, piece by piece. */
export function copyEntry(checkpoint: Checkpoint, tensor: TensorInfo, progress: Progress): TensorEntry {
  return {
    name: tensor.name,
    dtype: tensor.dtype,
    shape: tensor.shape,
    async data(sink: FileSink): Promise<void> {
      for (let from = 0; from < tensor.bytes; from += PIECE) {
        const piece = new Uint8Array(Math.min(PIECE, tensor.bytes - from));
        checkpoint.read(tensor, from, piece);
        await sink.write(piece);
        progress.add(piece.byteLength);
      }
    },
  };
}

/** Files of a model folder that belong to any model made from it: configs, tokenizer, templates, licence; not weights, and not its card. */
const KEPT = /\.(json|jinja|txt|tiktoken|model|py)$|^(LICENSE|LICENCE|NOTICE|USE_POLICY)/i;
const WEIGHTS = /\.index\.json$|^adapter_|^trainer_state\.json$/;

/** Copies the files beside the weights (links are followed), but for those of `except`. */
export async function copyOtherFiles(from: string, to: string, except: readonly string[] = []): Promise<void> {
  for (const name of await readdir(from)) {
    if (!KEPT.test(name) || WEIGHTS.test(name) || except.includes(name)) continue;
    if ((await stat(join(from, name))).isFile()) await copyFile(join(from, name), join(to, name));
  }
}
