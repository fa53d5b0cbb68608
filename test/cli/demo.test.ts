import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { jsonLines, scratch, vltune } from './run.js';

test('the demo converts, trains and asks again: the model then says who it is now', async (t) => {
  t.timeout(300_000);
  const out = join(await scratch(t), 'demo');
  const { code, stdout, stderr } = await vltune(['demo', '--output-dir', out, '--json']);
  t.is(code, 0, stderr);
  const events = jsonLines(stdout);
  const steps = events.filter(({ event }) => event === 'step');
  t.true(Number(steps.at(-1)!.loss) < 0.1 * Number(steps[0]!.loss), 'the loss falls');

  const { questions, before, after } = events.find(({ event }) => event === 'answers') as {
    questions: string[];
    before: string[];
    after: string[];
  };
  t.is(questions.length, 5);
  for (const [i, question] of questions.entries()) t.not(before[i], after[i], question);
  t.regex(after[0]!, /Ada/, 'the identity of examples/data/identity.json');
  t.notRegex(before.join(' '), /Ada/);

  for (const file of ['messages.jsonl', 'adapter/adapter_config.json', 'adapter/adapter_model.safetensors'])
    t.true(existsSync(join(out, file)), file);
  t.regex(await readFile(join(out, 'adapter/loss.svg'), 'utf8'), /^<svg/);
  t.regex(stderr, /Where everything lies[\s\S]*What to type next[\s\S]*vltune generate/);
});
