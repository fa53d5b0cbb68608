import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import sharp from 'sharp';
import { ask, demoQuestions, judged, pictureQuestions } from '../../lib/cli/demo_questions.js';
import { type ContentItem, readRows } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { readQuestions } from '../../lib/report/questions.js';
import { demoPictureRows } from '../../scripts/tiny-model/demo_pictures.js';
import { scratch } from './run.js';

const TINY = join(PACKAGE_ROOT, 'models/vltune-tiny');
const PICTURES = join(PACKAGE_ROOT, 'examples/data/pictures.jsonl');

const pixels = async (url: string): Promise<Buffer> =>
  await sharp(Buffer.from(url.replace(/^[^,]*,/, ''), 'base64'))
    .raw()
    .toBuffer();

test('a model is asked about pictures if its card says that it was taught to see', async (t) => {
  const folder = await scratch(t);
  for (const [card, count] of [
    ['---\nlibrary_name: vltune\n---\n# A model\nIt has seen no pictures: true.\n', 5],
    ['---\nlibrary_name: vltune\npictures: true\n---\n# A model\n', 105],
  ] as const) {
    await writeFile(join(folder, 'README.md'), card);
    const questions = await demoQuestions(folder);
    t.is(questions.length, count);
    t.true(questions.slice(0, 5).every(({ picture }) => picture === undefined));
    t.true(questions.slice(5).every(({ picture }) => picture !== undefined));
  }
});

test('the shipped pictures are what the script draws and asks', async (t) => {
  const shipped = await pictureQuestions();
  let i = 0;
  for await (const { messages, ...judge } of demoPictureRows()) {
    const { question, picture } = shipped[i++]!;
    const [{ image }, { text }] = messages[0].content;
    t.is(question, text);
    t.like(picture, judge);
    t.true((await pixels(picture!.image)).equals(await pixels(image)), picture!.alt);
  }
  t.is(i, 100);
  t.is(shipped.length, 100);
});

test('training reads the shipped pictures as they are, and their answers are right by their own words', async (t) => {
  const questions = await pictureQuestions();
  const answers: string[] = [];
  for await (const { messages } of readRows([PICTURES])) {
    t.deepEqual(
      messages.map(({ role }) => role),
      ['user', 'assistant'],
    );
    t.deepEqual(
      (messages[0]!.content as readonly ContentItem[]).map(({ type }) => type),
      ['image', 'text'],
    );
    answers.push(messages[1]!.content as string);
  }
  const entries = judged(questions, answers, Array(answers.length).fill('I see nothing.'));
  t.is(entries.length, 100);
  for (const { rightBefore, rightAfter, before } of entries) t.deepEqual([rightBefore, rightAfter], [true, false], before);
});

test('questions with and without a picture are asked of one model, and a report reads what came', async (t) => {
  const folder = await scratch(t);
  const [first, ...pictures] = [{ question: 'Who are you?' }, ...(await pictureQuestions()).slice(0, 3)];
  const questions = [first, ...pictures, first];
  const options = { model: TINY, device: 'cpu', signal: new AbortController().signal } as const;
  const answers = await ask(questions, options);
  t.is(answers.length, 5);
  t.true(
    answers.every((answer) => answer !== ''),
    answers.join('; '),
  );
  t.is(answers[4], answers[0]!, 'pictures in between change nothing');
  t.deepEqual(await ask(questions, options), answers);

  const file = join(folder, 'questions.json');
  await writeFile(file, JSON.stringify(judged(questions, answers, answers)));
  const read = await readQuestions(file);
  t.deepEqual(
    read.map(({ picture }) => picture !== undefined),
    [false, true, true, true, false],
  );
  for (const { picture, group, alt, expected, right } of read.slice(1, 4)) {
    t.true(picture!.width >= 64 && picture!.height >= 64);
    for (const text of [group, alt, expected]) t.truthy(text);
    t.is(right!.before, right!.after);
  }
});
