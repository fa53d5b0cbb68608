/** `vltune bench generate`: a prompt and the tokens after it at true size, on random weights that are made in place. */
import { DecoderSession } from '../generate/decoder_session.js';
import { sample } from '../generate/sampler.js';
import { Trainables } from '../models/trainables.js';
import { addon, type Device } from '../native.js';
import type { ActivationDType } from '../ops/builder.js';
import { MersenneTwister } from '../random.js';
import { quantile } from './harness.js';
import { modelOfShape, RandomWeights, recipeAdapters } from './random_model.js';

export interface GenerateBenchOptions {
  /** One of SHAPE_NAMES. */
  readonly shape: string;
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly loadIn4bit: boolean;
  readonly dtype: ActivationDType;
  readonly device: Device;
  /** Rank of adapters on all linear layers; 0: none. */
  readonly loraR: number;
  /** 0: greedy. */
  readonly temperature: number;
  readonly rounds: number;
  /** Also measure each op of some tokens. */
  readonly profile: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerateBenchResult {
  /** New tokens a second after the first, by the median round. */
  readonly tokensPerSecond: number;
  /** Milliseconds until the first token is known. */
  readonly timeToFirstTokenMs: number;
  readonly peakMemoryBytes: number;
  /** Bytes of weights that each token must read, times tokens a second. */
  readonly weightBytesPerSecond: number;
  /** Of one token. */
  readonly ops?: readonly { readonly op: string; readonly calls: number; readonly milliseconds: number }[];
}

const TOKENS_AT_ONCE = 8;

export async function benchGenerate(options: GenerateBenchOptions): Promise<GenerateBenchResult> {
  const { shape, device, dtype, promptTokens, newTokens, signal } = options;
  const spec = modelOfShape(shape);
  const trainables = options.loraR > 0 ? recipeAdapters(spec, options.loraR) : Trainables.none();
  const weights = new RandomWeights(spec, dtype, options.loadIn4bit);
  const params = addon().allocate(trainables.layout.elements * 4, device);
  let session: DecoderSession | undefined;
  try {
    await weights.load(device);
    session = new DecoderSession(spec, weights, trainables, params, { dtype, device, capacity: promptTokens + newTokens });
    const prompt = Int32Array.from({ length: promptTokens }, (_, i) => (i * 7919) % spec.text.vocabSize);
    const sampling = { temperature: options.temperature, topK: 20, topP: 0.8, repetitionPenalty: 1 };
    const random = new MersenneTwister(1);
    const firsts: number[] = [];
    const speeds: number[] = [];
    for (let round = 0; round <= options.rounds; round++) {
      session.reset();
      const started = performance.now();
      let first: number;
      if (device === 'cuda' && session.canDecode(sampling)) {
        await session.prefill(prompt, signal);
        session.startDecoding(sampling, []);
        await session.decode(Float32Array.of(random.uniform()), true, signal);
        first = performance.now();
        for (let done = 1; done < newTokens; ) {
          const draws = Float32Array.from({ length: Math.min(TOKENS_AT_ONCE, newTokens - done) }, () => random.uniform());
          done += (await session.decode(draws, false, signal)).length;
        }
      } else {
        let token = sample(await session.read(prompt, signal), sampling, new Set(), random);
        first = performance.now();
        for (let done = 1; done < newTokens; done++)
          token = sample(await session.read([token], signal), sampling, new Set(), random);
      }
      if (round === 0) continue; // kernels are loaded, graphs are made
      firsts.push(first - started);
      speeds.push(((newTokens - 1) * 1000) / (performance.now() - first));
    }
    let ops: GenerateBenchResult['ops'];
    if (options.profile && device === 'cuda') {
      session.reset();
      session.measureOps(true);
      await session.prefill(prompt, signal);
      session.startDecoding({ ...sampling, temperature: 0 }, []);
      await session.decode(new Float32Array(2), true, signal);
      ops = session.profile();
    }
    const tokensPerSecond = quantile(speeds, 0.5);
    const { free, total } =
      device === 'cuda' ? addon().deviceMemory() : { free: 0, total: process.resourceUsage().maxRSS * 1024 };
    // The embedding table is read whole only where it is the head too.
    const read =
      weights.bytes - (spec.head === spec.embedding ? 0 : spec.text.vocabSize * spec.text.hiddenSize * (dtype === 'f32' ? 4 : 2));
    return {
      tokensPerSecond,
      timeToFirstTokenMs: quantile(firsts, 0.5),
      peakMemoryBytes: total - free,
      weightBytesPerSecond: read * tokensPerSecond,
      ...(ops && { ops }),
    };
  } finally {
    session?.release();
    weights.release();
    addon().release(params);
  }
}
