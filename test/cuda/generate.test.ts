/** Generation on a GPU against the CPU, which is held to transformers by `test/parity/generate.test.ts`. */
import { join } from 'node:path';
import { Generator, type GeneratorOptions } from '../../lib/generate/generate.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { distance } from '../parity/fixtures.js';
import { checkMediaAnswers, MEDIA_ADAPTERS } from '../parity/media_answers.js';
import { cuda } from './support.js';

const MODEL = join(PACKAGE_ROOT, 'models', 'vltune-tiny');
const PROMPTS = ['Who are you?', 'What is the capital of France? Answer in one sentence.', 'Count from one to ten.'];

async function answers(options: GeneratorOptions): Promise<{ tokens: number[][]; logits: Float32Array[] }> {
  const generator = await Generator.load(MODEL, options);
  try {
    const tokens: number[][] = [];
    const logits: Float32Array[] = [];
    for (const prompt of PROMPTS) {
      logits.push(await generator.nextLogits({ prompt }));
      tokens.push([...(await generator.complete({ prompt, temperature: 0, maxNewTokens: 40 })).tokenIds]);
    }
    return { tokens, logits };
  } finally {
    generator.release();
  }
}

cuda('greedy tokens on a GPU in F32 are those of the CPU', async (t) => {
  const cpu = await answers({ device: 'cpu', dtype: 'float32' });
  const gpu = await answers({ device: 'cuda', dtype: 'float32' });
  t.deepEqual(gpu.tokens, cpu.tokens);
  for (const [i, logits] of gpu.logits.entries()) t.true(distance(logits, cpu.logits[i]!) < 1e-5, PROMPTS[i]);
  t.deepEqual(await answers({ device: 'cuda', dtype: 'float32' }), gpu, 'a second time');
});

cuda('logits on a GPU in float16 are near those of the CPU in F32, and the same each time', async (t) => {
  const cpu = await answers({ device: 'cpu', dtype: 'float32' });
  const gpu = await answers({ device: 'cuda', dtype: 'float16' });
  for (const [i, logits] of gpu.logits.entries()) {
    const apart = distance(logits, cpu.logits[i]!);
    t.true(apart < 5e-3, `${PROMPTS[i]}: ${apart}`);
  }
  t.deepEqual(await answers({ device: 'cuda', dtype: 'float16' }), gpu);
});

cuda('logits on a GPU in bf16 and 4 bits are near those of the CPU, and the same each time', async (t) => {
  const options = { dtype: 'bfloat16', loadIn4bit: true } as const;
  const cpu = await answers({ ...options, device: 'cpu' });
  const gpu = await answers({ ...options, device: 'cuda' });
  for (const [i, logits] of gpu.logits.entries()) {
    const apart = distance(logits, cpu.logits[i]!);
    t.true(apart < 0.03, `${PROMPTS[i]}: ${apart}`);
  }
  t.deepEqual(await answers({ ...options, device: 'cuda' }), gpu);
});

for (const adapter of MEDIA_ADAPTERS) {
  cuda(`prompts with pictures and videos on a GPU have transformers' logits and greedy tokens: ${adapter ?? 'base'}`, (t) =>
    checkMediaAnswers(t, adapter, 'cuda'),
  );
}
