/** A model's own generation defaults, from generation_config.json. */
import { join } from 'node:path';
import { VltuneError } from '../errors.js';
import { readJsonObject } from '../weights/json.js';
import type { Sampling } from './sampler.js';

export interface GenerationDefaults extends Sampling {
  readonly maxNewTokens: number;
}

/** transformers' defaults, where the file says nothing. */
const TRANSFORMERS = { temperature: 1, topK: 50, topP: 1, repetitionPenalty: 1 };

/** New tokens where neither the caller nor the model says how many. */
const MAX_NEW_TOKENS = 512;

/** Reads the folder's generation_config.json, if it has one. Without `do_sample: true` generation is greedy. */
export async function readGenerationConfig(folder: string): Promise<GenerationDefaults> {
  const file = join(folder, 'generation_config.json');
  let config: Readonly<Record<string, unknown>> = {};
  try {
    config = await readJsonObject(file, 'ERR_BAD_CHECKPOINT');
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  const number = (key: string, min: number, max: number, fallback: number): number => {
    const value = config[key] ?? fallback;
    if (typeof value !== 'number' || !(value >= min && value <= max)) {
      throw new VltuneError(
        'ERR_BAD_CHECKPOINT',
        `${file}: ${key} must be a number from ${min} to ${max}, got ${JSON.stringify(value)}`,
      );
    }
    return value;
  };
  const temperature = number('temperature', 0, 100, TRANSFORMERS.temperature);
  return {
    temperature: config.do_sample === true ? temperature : 0,
    topK: Math.floor(number('top_k', 0, 1e9, TRANSFORMERS.topK)),
    topP: number('top_p', 0, 1, TRANSFORMERS.topP),
    repetitionPenalty: number('repetition_penalty', 1e-6, 1e6, TRANSFORMERS.repetitionPenalty),
    maxNewTokens: Math.floor(number('max_new_tokens', 1, 1e9, MAX_NEW_TOKENS)),
  };
}

function isMissing(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { code?: string } };
  return code === 'ERR_NOT_FOUND' || cause?.code === 'ENOENT';
}
