/** Prompts with pictures and videos: logits and greedy tokens, in F32, against transformers and PEFT (`media_generate_parity.py`). */
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { type GenerateOptions, Generator } from '../../lib/generate/generate.js';
import type { Device } from '../../lib/native.js';
import { distance, MEDIA_ROWS, MODEL, PARITY, readFloats, readJson } from './fixtures.js';

interface Case {
  readonly name: string;
  readonly adapter: string | null;
  readonly messages: NonNullable<GenerateOptions['messages']>;
  readonly num_prompt_tokens: number;
  readonly token_ids: readonly number[];
  readonly finish_reason: 'stop' | 'length';
}

const { max_new_tokens: maxNewTokens, cases } = readJson<{ max_new_tokens: number; cases: Case[] }>('generate-media.json');
const LOGITS_BOUND = 1e-5;

/** Adapters of the cases: none, and one that reaches into the tower. */
export const MEDIA_ADAPTERS: readonly (string | null)[] = [null, 'adapter-vision'];

/** Holds the answers of one model to transformers'. */
export async function checkMediaAnswers(t: ExecutionContext, adapter: string | null, device: Device): Promise<void> {
  const logits = await readFloats(join(PARITY, 'generate-media.logits.safetensors'));
  const generator = await Generator.load(MODEL, {
    dtype: 'float32',
    device,
    adapter: adapter === null ? undefined : join(PARITY, adapter),
  });
  try {
    // A prompt of text before and between: a session that sees reads text too.
    const alone = await generator.complete({ prompt: 'Hi', temperature: 0, maxNewTokens: 4 });
    for (const { name, messages, token_ids, finish_reason, num_prompt_tokens } of cases.filter(
      (one) => one.adapter === adapter,
    )) {
      const given = { messages, folder: MEDIA_ROWS };
      t.is((await generator.promptIds(given)).length, num_prompt_tokens);
      const apart = distance(await generator.nextLogits(given), logits.get(name)!);
      t.true(apart < LOGITS_BOUND, `${name}: logits are ${apart.toExponential(2)} of their norm apart`);
      const { tokenIds, finishReason } = await generator.complete({ ...given, temperature: 0, maxNewTokens });
      t.deepEqual([...tokenIds], token_ids, `${name}: tokens`);
      t.is(finishReason, finish_reason);
      t.deepEqual((await generator.complete({ prompt: 'Hi', temperature: 0, maxNewTokens: 4 })).tokenIds, alone.tokenIds);
    }
  } finally {
    generator.release();
  }
}
