import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { accuracies, type QuestionRecord, readQuestions } from '../../lib/report/questions.js';
import { temporaryFolder } from '../train/support.js';
import { png } from './support.js';

const PLAIN = { question: 'Who?', before: 'me', after: 'Ada' };

async function written(t: ExecutionContext, value: unknown, files: Readonly<Record<string, Uint8Array>> = {}): Promise<string> {
  const folder = temporaryFolder(t);
  await mkdir(join(folder, 'pictures'));
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(folder, name), bytes);
  await writeFile(join(folder, 'questions.json'), typeof value === 'string' ? value : JSON.stringify(value));
  return join(folder, 'questions.json');
}

const bytesOf = ({ picture }: QuestionRecord): Buffer => Buffer.from(picture!.dataUrl.replace(/^[^,]*,/, ''), 'base64');

test('a small picture goes in byte by byte, from a path or a data: URL, with its size', async (t) => {
  const bytes = await png(20, 10, 'red');
  const url = `data:image/png;base64,${bytes.toString('base64')}`;
  const path = await written(
    t,
    [
      { ...PLAIN, image: 'pictures/a.png' },
      { ...PLAIN, image: url },
    ],
    { 'pictures/a.png': bytes },
  );
  const questions = await readQuestions(path);
  for (const question of questions) {
    t.like(question.picture, { dataUrl: url, width: 20, height: 10 });
    t.true(bytesOf(question).equals(bytes));
  }
});

test('a large picture is made smaller, upright, in its proportions', async (t) => {
  const bytes = await sharp({ create: { width: 2000, height: 1000, channels: 3, background: 'blue' } })
    .withMetadata({ orientation: 6 })
    .jpeg()
    .toBuffer();
  const [question] = await readQuestions(await written(t, [{ ...PLAIN, image: 'a.jpg' }], { 'a.jpg': bytes }));
  t.like(question!.picture, { width: 240, height: 480 });
  const { format, width, height } = await sharp(bytesOf(question!)).metadata();
  t.deepEqual([format, width, height], ['webp', 240, 480]);
});

test('what is wrong is named by question and field', async (t) => {
  const broken = (await png(40, 40, 'red')).subarray(0, 90);
  const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
  const cases: readonly (readonly [unknown, RegExp])[] = [
    ['[{]', /questions\.json: not valid JSON/],
    [{ questions: [] }, /questions\.json: expected a list of questions, got an object/],
    [[PLAIN, 'Who?'], /question 2: expected an object, got "Who\?"/],
    [[{ ...PLAIN, rigthBefore: true }], /question 1: rigthBefore: unknown field; did you mean rightBefore\?/],
    [[{ question: 'Who?', before: 'me' }], /question 1: after: expected a text, got nothing/],
    [[{ ...PLAIN, expected: 7 }], /question 1: expected: expected a text, got 7/],
    [[{ ...PLAIN, rightAfter: true }], /question 1: expected both rightBefore and rightAfter, or neither/],
    [[{ ...PLAIN, rightBefore: 'no', rightAfter: true }], /question 1: rightBefore: expected true or false, got "no"/],
    [[{ ...PLAIN, image: 'none.png' }], /question 1: image: cannot read none\.png: no such file/],
    [[{ ...PLAIN, image: 'broken.png' }], /question 1: image: expected a PNG, .* got broken\.png/],
    [[{ ...PLAIN, image: 'a.svg' }], /question 1: image: expected a PNG, .* got a\.svg \(it is svg\)/],
    [[{ ...PLAIN, image: 'data:text/html,<b>' }], /question 1: image: expected data:image\/…;base64,…/],
    [[{ ...PLAIN, image: 'data:image/png;base64,AAAA' }], /question 1: image: expected a PNG, .* got a data: URL/],
  ];
  for (const [value, message] of cases) {
    const path = await written(t, value, { 'broken.png': broken, 'a.svg': svg });
    await t.throwsAsync(readQuestions(path), { code: 'ERR_BAD_DATA', message }, JSON.stringify(value).slice(0, 80));
  }
  await t.throwsAsync(readQuestions('/nowhere/questions.json'), { code: 'ERR_NOT_FOUND' });
});

test('accuracy counts what was judged, by group and in all', async (t) => {
  const judged = (group: string | undefined, rightBefore: boolean, rightAfter: boolean): object => ({
    ...PLAIN,
    ...(group !== undefined && { group }),
    rightBefore,
    rightAfter,
  });
  const read = async (list: readonly object[]): Promise<QuestionRecord[]> => await readQuestions(await written(t, list));
  t.deepEqual(
    accuracies(await read([judged('colour', true, true), judged('count', false, true), judged('colour', true, false), PLAIN])),
    [
      { group: 'colour', asked: 2, before: 2, after: 1 },
      { group: 'count', asked: 1, before: 0, after: 1 },
      { group: undefined, asked: 3, before: 2, after: 2 },
    ],
  );
  t.deepEqual(accuracies(await read([judged(undefined, true, false)])), [{ group: undefined, asked: 1, before: 1, after: 0 }]);
  t.deepEqual(accuracies(await read([PLAIN])), []);
});
