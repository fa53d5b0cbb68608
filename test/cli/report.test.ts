import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { jsonLines, scratch, trainArgs, vltune } from './run.js';

test('report writes one file of a run that train made, and says where; as JSON too', async (t) => {
  const folder = await scratch(t);
  const out = join(folder, 'out');
  t.is((await vltune(trainArgs(out))).code, 0);
  const people = await vltune(['report', out]);
  t.is(people.code, 0, people.stderr);
  t.regex(people.stdout, /^2 updates -> .*out\/report\.html \(\d+(\.\d+)? KB\)\n$/);
  t.is(people.stderr, '');
  t.regex(await readFile(join(out, 'report.html'), 'utf8'), /^<!doctype html>/);

  const questions = join(folder, 'asked.json');
  await writeFile(
    questions,
    JSON.stringify([{ question: 'Who?', before: 'me', after: 'Ada', rightBefore: false, rightAfter: true }]),
  );
  const elsewhere = join(folder, 'new', 'page.html');
  const json = await vltune(['report', '--questions', questions, '--output', elsewhere, '--json', out]);
  t.is(json.code, 0, json.stderr);
  const { bytes, ...rest } = jsonLines(json.stdout)[0]!;
  t.deepEqual(rest, {
    event: 'report',
    output: elsewhere,
    steps: 2,
    questions: 1,
    accuracies: [{ asked: 1, before: 0, after: 1 }],
  });
  t.is((await readFile(elsewhere)).byteLength, Number(bytes));
});

test('report answers bad usage in one line and writes nothing', async (t) => {
  const folder = await scratch(t);
  const cases: readonly (readonly [string[], RegExp])[] = [
    [['report'], /^vltune: missing required argument 'DIR'\n$/],
    [['report', ''], /^vltune: DIR: expected a text that is not empty, got ""\n$/],
    [['report', folder, folder], /^vltune: too many arguments/],
    [['report', join(folder, 'none')], /^vltune: .*none: no such folder\n$/],
    [['report', folder], /^vltune: .*expected the output folder of a run .*found an empty folder\n$/],
    [['report', folder, '--ouput', 'x'], /^vltune: unknown option --ouput; did you mean --output\?\n$/],
    [['report', '--folder', folder], /^vltune: unknown option --folder/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await vltune(args);
    t.is(code, 2, args.join(' '));
    t.is(stdout, '');
    t.regex(stderr, message);
  }
  t.deepEqual(await readdir(folder), []);
});
