/** Greedy tokens and the logits at the end of the prompt, in F32, against transformers and PEFT (`generate_parity.py`). */
import { join } from 'node:path';

import test from 'ava';

import { type GenerateOptions, Generator } from '../../lib/generate/generate.js';
import { distance, FIXTURES, PARITY, readFloats, readJson } from './fixtures.js';

interface Case {
  readonly name: string;
  readonly model: string;
  readonly adapter: string | null;
  readonly load_in_4bit: boolean;
  readonly messages?: GenerateOptions['messages'];
  readonly raw?: string;
  readonly prompt_ids: readonly number[];
  readonly token_ids: readonly number[];
  readonly finish_reason: 'stop' | 'length';
}

const { max_new_tokens: maxNewTokens, cases } = readJson<{ max_new_tokens: number; cases: Case[] }>('generate.json');
const LOGITS_BOUND = 1e-5;

/** Cases of one loaded model. */
const setups = new Map<string, Case[]>();
for (const entry of cases) {
  const setup = entry.name.slice(0, entry.name.lastIndexOf('/'));
  setups.set(setup, [...(setups.get(setup) ?? []), entry]);
}

for (const [setup, prompts] of setups) {
  test(`prompt ids, logits and greedy tokens are those of transformers: ${setup}`, async (t) => {
    const logits = await readFloats(join(PARITY, 'generate.logits.safetensors'));
    const { model, adapter, load_in_4bit: loadIn4bit } = prompts[0]!;
    const generator = await Generator.load(join(FIXTURES, model), {
      dtype: 'float32',
      loadIn4bit,
      adapter: adapter === null ? undefined : join(PARITY, adapter),
    });
    try {
      for (const prompt of prompts) {
        const given = prompt.messages ? { messages: prompt.messages } : { raw: prompt.raw };
        t.deepEqual([...(await generator.promptIds(given))], prompt.prompt_ids, `${prompt.name}: prompt ids`);
        const apart = distance(await generator.nextLogits(given), logits.get(prompt.name)!);
        t.true(apart < LOGITS_BOUND, `${prompt.name}: logits are ${apart.toExponential(2)} of their norm apart`);
        const { tokenIds, finishReason } = await generator.complete({ ...given, temperature: 0, maxNewTokens });
        t.deepEqual([...tokenIds], prompt.token_ids, `${prompt.name}: tokens`);
        t.is(finishReason, prompt.finish_reason, prompt.name);
      }
    } finally {
      generator.release();
    }
  });
}
