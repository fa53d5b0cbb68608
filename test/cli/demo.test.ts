import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { demoQuestions } from '../../lib/cli/demo_questions.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import type { Accuracy, QuestionEntry } from '../../lib/report/questions.js';
import { jsonLines, scratch, vltune } from './run.js';

test('the demo converts, trains and asks again: the model then says who it is now, and sees as before', async (t) => {
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

  const asked = await demoQuestions(join(PACKAGE_ROOT, 'models/vltune-tiny'));
  const entries = JSON.parse(await readFile(join(out, 'adapter/questions.json'), 'utf8')) as QuestionEntry[];
  t.deepEqual(
    entries.map(({ question }) => question),
    asked.map(({ question }) => question),
  );
  const report = events.find(({ event }) => event === 'report') as { output: string; questions: number; accuracies: Accuracy[] };
  t.is(report.output, join(out, 'adapter/report.html'));
  t.is(report.questions, asked.length);
  const page = await readFile(report.output, 'utf8');
  t.true(page.includes(after[0]!));
  const pictures = asked.filter(({ picture }) => picture !== undefined).length;
  t.is(page.split('<img ').length - 1, pictures);
  t.is(/right before/.test(stderr), pictures > 0);
  if (pictures > 0) {
    const all = report.accuracies.at(-1)!;
    t.is(all.asked, pictures);
    t.true(all.before >= 0.85 * all.asked, `${all.before} of ${all.asked} right before`);
    t.true(all.after >= all.before - 0.02 * all.asked, `${all.before} right before, ${all.after} after`);
  }
});
