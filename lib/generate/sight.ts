/** How a generator sees: the vision tower and what reads pictures for it, loaded with the first prompt that holds one. */
import { type MediaOptions, MediaReader, type SeenMedia } from '../data/media/media_reader.js';
import type { Prompt } from '../data/prompt.js';
import type { Tokenizer } from '../data/tokenizer.js';
import { VltuneError } from '../errors.js';
import { FrozenWeights } from '../models/frozen_weights.js';
import { patchesOf } from '../models/grid.js';
import type { ModelFolder } from '../models/model_folder.js';
import { ropePositions } from '../models/rope_positions.js';
import type { Trainables } from '../models/trainables.js';
import { VisionEncoder } from '../models/vision_encoder.js';
import { encodeEach } from '../models/vision_features.js';
import type { Device, Storage } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import type { PromptMedia } from './decoder_session.js';

export interface SightOptions {
  readonly device: Device;
  readonly dtype: ActivationDType;
  readonly media: MediaOptions;
  /** Adapters, those of the tower among them, and their numbers. */
  readonly trainables: Trainables;
  readonly params: Storage;
}

export class Sight {
  readonly reader: MediaReader;
  readonly #model: ModelFolder;
  readonly #options: SightOptions;
  #tower: FrozenWeights | undefined;
  #encoder: { readonly encoder: VisionEncoder; readonly patches: number; readonly frames: number } | undefined;

  private constructor(model: ModelFolder, reader: MediaReader, options: SightOptions) {
    this.#model = model;
    this.reader = reader;
    this.#options = options;
  }

  /** Reads the model's configs; the tower's weights are loaded when features are wanted. ERR_UNSUPPORTED for a model that has none. */
  static async open(model: ModelFolder, tokenizer: Tokenizer, options: SightOptions): Promise<Sight> {
    return new Sight(model, await MediaReader.load(model, tokenizer, options.media), options);
  }

  /** The pictures and videos of a prompt, as the session reads them. Rejects with what is wrong with one of them. */
  async look({ ids, media, runs }: Prompt, signal?: AbortSignal): Promise<PromptMedia> {
    const { positions, next } = ropePositions(ids.length, runs);
    const rows = runs.flatMap(({ start, height, width }) => Array.from({ length: height * width }, (_, i) => start + i));
    const sources = media.map((seen) => ({
      kind: seen.kind,
      key: seen.key,
      grid: seen.grid,
      patches: (signal?: AbortSignal) => this.reader.patches(seen, seen.place, signal),
      recycle: (patches: Float32Array) => this.reader.recycle(patches),
    }));
    const features = await encodeEach(sources, await this.#encoderFor(media, signal), undefined, signal);
    return { positions, next, rows: Int32Array.from(rows), features };
  }

  release(): void {
    this.#encoder?.encoder.release();
    this.#tower?.release();
    this.#encoder = undefined;
    this.#tower = undefined;
  }

  /** An encoder with room for the largest of these. */
  async #encoderFor(media: readonly SeenMedia[], signal: AbortSignal | undefined): Promise<VisionEncoder> {
    const { vision } = this.#model.spec;
    if (!vision) throw new VltuneError('ERR_INTERNAL', 'a model without a tower was given pictures');
    const patches = Math.max(...media.map(({ grid }) => patchesOf([grid])), this.#encoder?.patches ?? 0);
    const frames = Math.max(...media.map(({ grid: [t] }) => t), this.#encoder?.frames ?? 0);
    if (this.#encoder?.patches === patches && this.#encoder.frames === frames) return this.#encoder.encoder;
    this.#tower ??= await this.#loadTower(signal);
    this.#encoder?.encoder.release();
    this.#encoder = undefined; // the next may not fit
    const { device, dtype, trainables, params } = this.#options;
    const encoder = new VisionEncoder(vision, this.#tower, {
      device,
      dtype,
      maxPatches: patches,
      maxFrames: frames,
      adapters: { trainables, place: (name) => ({ storage: params, offset: trainables.layout.get(name)!.offset * 4 }) },
    });
    encoder.allocate();
    this.#encoder = { encoder, patches, frames };
    return encoder;
  }

  async #loadTower(signal: AbortSignal | undefined): Promise<FrozenWeights> {
    const { device, dtype } = this.#options;
    const tower = new FrozenWeights(this.#model, {
      device,
      dtype,
      loadIn4bit: false,
      doubleQuant: false,
      skip: () => false,
      vision: 'alone',
    });
    try {
      await tower.load(undefined, signal);
      return tower;
    } catch (error) {
      tower.release();
      throw error;
    }
  }
}
