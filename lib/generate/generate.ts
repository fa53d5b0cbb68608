/** Text from a model: prompt, chat or raw, to tokens, one by one. */

import type { MediaSource } from '../data/media/locate.js';
import type { MediaOptions } from '../data/media/media_reader.js';
import type { VideoSource } from '../data/media/video_source.js';
import type { MediaItem, Message } from '../data/message.js';
import { encodePrompt, type Prompt } from '../data/prompt.js';
import { ChatTemplate } from '../data/template.js';
import { Tokenizer } from '../data/tokenizer.js';
import { type DeviceOption, openDevice } from '../device.js';
import { type ComputeDType, generationActivations } from '../dtype.js';
import { VltuneError } from '../errors.js';
import { adaptersOf, writeAdapters } from '../models/adapters.js';
import { FrozenWeights } from '../models/frozen_weights.js';
import { ModelFolder } from '../models/model_folder.js';
import { Trainables } from '../models/trainables.js';
import { addon, type Device, type Storage } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { MersenneTwister } from '../random.js';
import { resolveModel } from '../weights/hub.js';
import { readAdapter } from '../weights/lora.js';
import { DecoderSession, type PromptMedia } from './decoder_session.js';
import { type GenerationDefaults, readGenerationConfig } from './generation_config.js';
import { type Sampling, sample } from './sampler.js';
import { Sight } from './sight.js';

export interface GeneratorOptions {
  /** A PEFT adapter folder that is applied on the fly. */
  readonly adapter?: string | undefined;
  /** Activations (and the rounding of weights). Default bfloat16; float16 on a GPU without it. The CPU does not take float16. */
  readonly dtype?: ComputeDType | undefined;
  /** Quantise the language model's linear layers to NF4. Default false. */
  readonly loadIn4bit?: boolean | undefined;
  /** Default auto: a GPU if there is one. */
  readonly device?: DeviceOption | undefined;
  readonly revision?: string | undefined;
  /** How pictures and videos of prompts are read. */
  readonly media?: MediaOptions | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Hears of bytes of weights loaded, and in all. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

export interface GenerateOptions extends Partial<Sampling> {
  /** A user's turn. One of prompt, messages and raw. */
  readonly prompt?: string | undefined;
  /** A whole conversation, with pictures and videos among its texts. */
  readonly messages?: readonly Message[] | undefined;
  /** Pictures, then videos, that stand before the text of `prompt`. */
  readonly images?: readonly MediaSource[] | undefined;
  readonly videos?: readonly VideoSource[] | undefined;
  /** Where relative paths of pictures and videos start. Default: the working directory. */
  readonly folder?: string | undefined;
  /** Text that no template touches. */
  readonly raw?: string | undefined;
  /** A system turn before `prompt`. */
  readonly system?: string | undefined;
  readonly maxNewTokens?: number | undefined;
  /** Of the random numbers that sampling draws. Default 0. */
  readonly seed?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GeneratedToken {
  readonly tokenId: number;
  /** The text that this token completes; '' while a character is not whole. */
  readonly text: string;
}

export interface GenerationResult {
  readonly text: string;
  /** Without the stop token. */
  readonly tokenIds: readonly number[];
  readonly numPromptTokens: number;
  readonly finishReason: 'stop' | 'length';
  /** New tokens a second, the prompt's time not counted. */
  readonly tokensPerSecond: number;
}

/** Tokens that the GPU makes before the host looks: few enough that text flows. */
const TOKENS_AT_ONCE = 8;

/** Cache sizes grow by this many tokens. */
const CAPACITY_STEP = 256;

export class Generator {
  readonly #model: ModelFolder;
  readonly #tokenizer: Tokenizer;
  readonly #frozen: FrozenWeights;
  readonly #trainables: Trainables;
  readonly #params: Storage;
  readonly #defaults: GenerationDefaults;
  readonly #dtype: ActivationDType;
  readonly #device: Device;
  readonly #media: MediaOptions;
  #sight: Sight | undefined;
  #session: DecoderSession | undefined;
  #sessionSees = false;
  #template: ChatTemplate | undefined;

  private constructor(parts: {
    model: ModelFolder;
    tokenizer: Tokenizer;
    frozen: FrozenWeights;
    trainables: Trainables;
    params: Storage;
    defaults: GenerationDefaults;
    dtype: ActivationDType;
    device: Device;
    media: MediaOptions;
  }) {
    this.#model = parts.model;
    this.#tokenizer = parts.tokenizer;
    this.#frozen = parts.frozen;
    this.#trainables = parts.trainables;
    this.#params = parts.params;
    this.#defaults = parts.defaults;
    this.#dtype = parts.dtype;
    this.#device = parts.device;
    this.#media = parts.media;
  }

  /** Loads a model folder or hub id. ERR_NOT_FOUND, ERR_BAD_CHECKPOINT, ERR_BAD_ADAPTER, ERR_UNSUPPORTED, ERR_NO_DEVICE, ERR_OUT_OF_MEMORY. */
  static async load(model: string, options: GeneratorOptions = {}): Promise<Generator> {
    const device = openDevice(options.device);
    const dtype = generationActivations(options.dtype, options.device);
    const folder = await resolveModel(model, options.revision === undefined ? {} : { revision: options.revision });
    const opened = await ModelFolder.open(folder);
    const cleanup: (() => void)[] = [() => opened.close()];
    try {
      const adapter = options.adapter === undefined ? undefined : await readAdapter(options.adapter);
      const trainables = adapter ? adaptersOf(opened.spec, adapter, 0, { vision: true }) : Trainables.none();
      const frozen = new FrozenWeights(opened, {
        device,
        dtype,
        loadIn4bit: options.loadIn4bit ?? false,
        doubleQuant: true,
        skip: () => false,
      });
      cleanup.unshift(() => frozen.release());
      const [tokenizer, defaults] = await Promise.all([Tokenizer.load(folder), readGenerationConfig(folder)]);
      await frozen.load(options.onProgress, options.signal);
      const params = addon().allocate(trainables.layout.elements * 4, device);
      cleanup.unshift(() => addon().release(params));
      if (adapter) writeAdapters(params, trainables, adapter);
      const media = options.media ?? {};
      return new Generator({ model: opened, tokenizer, frozen, trainables, params, defaults, dtype, device, media });
    } catch (error) {
      for (const release of cleanup) release();
      throw error;
    }
  }

  /** Yields the new tokens as they are made; returns the whole. */
  async *generate(options: GenerateOptions): AsyncGenerator<GeneratedToken, GenerationResult> {
    const prompt = await this.#prompt(options);
    const promptIds = prompt.ids;
    const sampling = this.#sampling(options);
    const { maxPositions } = this.#model.spec.text;
    const maxNewTokens = Math.min(options.maxNewTokens ?? this.#defaults.maxNewTokens, maxPositions - promptIds.length);
    if (promptIds.length === 0) throw new VltuneError('ERR_USAGE', 'the prompt is empty: there is no token to start from');
    if (maxNewTokens < 1) {
      throw new VltuneError(
        'ERR_USAGE',
        `the prompt has ${promptIds.length} tokens, the model takes ${maxPositions} (max_position_embeddings) with at least one new`,
      );
    }
    const media = await this.#look(prompt, options.signal);
    const session = this.#sessionFor(promptIds.length + maxNewTokens, media !== undefined);
    session.reset();

    const random = new MersenneTwister(options.seed ?? 0);
    const seen = new Set<number>(promptIds);
    const stops = new Set(this.#tokenizer.stopIds);
    const decode = this.#tokenizer.decodeStream();
    const tokenIds: number[] = [];
    let text = '';
    let finishReason: GenerationResult['finishReason'] = 'length';
    const onDevice = this.#device === 'cuda' && session.canDecode(sampling);
    await session.prefill(promptIds, options.signal, media);
    const started = performance.now();
    const chosen = onDevice
      ? chooseOnDevice(session, sampling, seen, random, maxNewTokens, options.signal)
      : chooseOnHost(session, sampling, seen, random, maxNewTokens, options.signal);
    for await (const tokenId of chosen) {
      if (stops.has(tokenId)) {
        finishReason = 'stop';
        break;
      }
      tokenIds.push(tokenId);
      const piece = await decode.push(tokenId);
      text += piece;
      yield { tokenId, text: piece };
    }
    const seconds = (performance.now() - started) / 1000;
    text += await decode.end();
    return {
      text,
      tokenIds,
      numPromptTokens: promptIds.length,
      finishReason,
      tokensPerSecond: seconds > 0 ? tokenIds.length / seconds : 0,
    };
  }

  /** `generate`, without the steps in between. */
  async complete(options: GenerateOptions): Promise<GenerationResult> {
    const tokens = this.generate(options);
    for (;;) {
      const step = await tokens.next();
      if (step.done) return step.value;
    }
  }

  /** The logits of the token that follows a prompt, f32 [V]. */
  async nextLogits(options: GenerateOptions): Promise<Float32Array> {
    const prompt = await this.#prompt(options);
    const media = await this.#look(prompt, options.signal);
    const session = this.#sessionFor(prompt.ids.length, media !== undefined);
    session.reset();
    await session.prefill(prompt.ids, options.signal, media);
    return session.logits();
  }

  /** The ids that a prompt is read as; of its pictures and videos only the headers are read. */
  async promptIds(options: GenerateOptions): Promise<Int32Array> {
    return (await this.#prompt(options)).ids;
  }

  async #prompt(options: GenerateOptions): Promise<Prompt> {
    const { prompt, messages, raw, system, images = [], videos = [], folder = process.cwd(), signal } = options;
    const given = [prompt, messages, raw].filter((value) => value !== undefined);
    if (given.length !== 1)
      throw new VltuneError('ERR_USAGE', `expected one of prompt, messages and raw, got ${given.length} of them`);
    if (prompt === undefined && images.length + videos.length > 0)
      throw new VltuneError('ERR_USAGE', 'images and videos go with prompt; messages have theirs among their content');
    if (raw !== undefined) return { ids: await this.#tokenizer.encode(raw), media: [], runs: [] };
    this.#template ??= await ChatTemplate.load(this.#model.folder, this.#tokenizer);
    return encodePrompt(messages ?? conversation(prompt!, system, images, videos), {
      template: this.#template,
      tokenizer: this.#tokenizer,
      media: async () => (await this.#seeing()).reader,
      folder,
      signal,
    });
  }

  async #look(prompt: Prompt, signal: AbortSignal | undefined): Promise<PromptMedia | undefined> {
    return prompt.media.length > 0 ? (await this.#seeing()).look(prompt, signal) : undefined;
  }

  async #seeing(): Promise<Sight> {
    this.#sight ??= await Sight.open(this.#model, this.#tokenizer, {
      device: this.#device,
      dtype: this.#dtype,
      media: this.#media,
      trainables: this.#trainables,
      params: this.#params,
    });
    return this.#sight;
  }

  /** Frees all memory. */
  release(): void {
    this.#session?.release();
    this.#session = undefined;
    this.#sight?.release();
    this.#frozen.release();
    addon().release(this.#params);
    this.#model.close();
  }

  #sampling(options: GenerateOptions): Sampling {
    const { temperature, topK, topP, repetitionPenalty } = this.#defaults;
    return {
      temperature: options.temperature ?? temperature,
      topK: options.topK ?? topK,
      topP: options.topP ?? topP,
      repetitionPenalty: options.repetitionPenalty ?? repetitionPenalty,
    };
  }

  #sessionFor(tokens: number, sees: boolean): DecoderSession {
    if (this.#session && this.#session.capacity >= tokens && (this.#sessionSees || !sees)) return this.#session;
    this.#session?.release();
    this.#session = undefined; // the next may not fit
    this.#session = new DecoderSession(this.#model.spec, this.#frozen, this.#trainables, this.#params, {
      dtype: this.#dtype,
      device: this.#device,
      capacity: Math.ceil(tokens / CAPACITY_STEP) * CAPACITY_STEP,
      media: sees,
    });
    this.#sessionSees = sees;
    return this.#session;
  }
}

/** A user's turn: pictures, videos and then the text, as Qwen's processor likes them. */
function conversation(
  prompt: string,
  system: string | undefined,
  images: readonly MediaSource[],
  videos: readonly VideoSource[],
): Message[] {
  const media: MediaItem[] = [
    ...images.map((image, i) => ({ type: 'image' as const, image, field: `images[${i}]` })),
    ...videos.map((video, i) => ({ type: 'video' as const, video, field: `videos[${i}]` })),
  ];
  return [
    ...(system === undefined ? [] : [{ role: 'system' as const, content: system }]),
    { role: 'user', content: media.length === 0 ? prompt : [...media, { type: 'text', text: prompt }] },
  ];
}

/** At most `count` tokens, each by the logits that the host reads. */
async function* chooseOnHost(
  session: DecoderSession,
  sampling: Sampling,
  seen: Set<number>,
  random: MersenneTwister,
  count: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<number> {
  let logits = session.logits();
  for (let left = count; ; ) {
    const tokenId = sample(logits, sampling, seen, random);
    seen.add(tokenId);
    yield tokenId;
    left -= 1;
    if (left === 0) return;
    logits = await session.read([tokenId], signal);
  }
}

/** At most `count` tokens, some at a time: those that a stop makes superfluous are dropped. */
async function* chooseOnDevice(
  session: DecoderSession,
  sampling: Sampling,
  seen: ReadonlySet<number>,
  random: MersenneTwister,
  count: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<number> {
  session.startDecoding(sampling, seen);
  for (let done = 0; done < count; ) {
    const draws = Float32Array.from({ length: Math.min(TOKENS_AT_ONCE, count - done) }, () => random.uniform());
    const tokens = await session.decode(draws, done === 0, signal);
    yield* tokens;
    done += tokens.length;
  }
}
