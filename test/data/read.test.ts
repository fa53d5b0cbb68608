import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import type { Message } from '../../lib/data/message.js';
import { type ReadOptions, type Row, readRows } from '../../lib/data/read.js';
import { type ErrorCode, VltuneError } from '../../lib/errors.js';
import { FIXTURES, temporaryFolder, throwsCode, writeTemporary } from './fixtures.js';

async function collect(files: readonly string[], options: ReadOptions = {}): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const row of readRows(files, options)) rows.push(row);
  return rows;
}

function text(value: string): { type: 'text'; text: string }[] {
  return [{ type: 'text', text: value }];
}

const PAIR: readonly Message[] = [
  { role: 'user', content: 'u' },
  { role: 'assistant', content: 'a' },
];

test('messages keep the form of their content', async (t) => {
  const rows: Message[][] = [
    [...PAIR],
    [
      { role: 'system', content: '' },
      ...PAIR,
      { role: 'user', content: text('more') },
      { role: 'assistant', content: [...text('b'), ...text('c')] },
    ],
    [...PAIR, { role: 'user', content: 'an open question' }],
  ];
  const path = writeTemporary(t, 'a.jsonl', rows.map((messages) => JSON.stringify({ messages, extra: 1 })).join('\n'));
  t.deepEqual(
    (await collect([path])).map(({ messages }) => messages),
    rows,
  );
});

test('several files of several formats are read one after the other, with file, line and row', async (t) => {
  const folder = temporaryFolder(t);
  const names = ['a.json', 'b.jsonl', 'c.txt'].map((name) => join(folder, name));
  writeFileSync(
    names[0]!,
    `[\n${JSON.stringify({ messages: PAIR })},\n\n${JSON.stringify({ instruction: 'i', input: 'x', output: 'o' })}]`,
  );
  writeFileSync(
    names[1]!,
    `\n${JSON.stringify({
      conversations: [
        { from: 'human', value: 'u' },
        { from: 'gpt', value: 'a' },
      ],
    })}\n`,
  );
  writeFileSync(names[2]!, JSON.stringify({ messages: null, prompt: 'p', response: 'r' }));
  t.deepEqual(await collect(names), [
    { messages: PAIR, file: names[0]!, line: 2, row: 1 },
    {
      messages: [
        { role: 'user', content: text('i\n\nInput:\nx') },
        { role: 'assistant', content: text('o') },
      ],
      file: names[0]!,
      line: 4,
      row: 2,
    },
    { messages: PAIR, file: names[1]!, line: 2, row: 1 },
    {
      messages: [
        { role: 'user', content: text('p') },
        { role: 'assistant', content: text('r') },
      ],
      file: names[2]!,
      line: 1,
      row: 1,
    },
  ]);
});

test('Parquet files of messages, conversations and Alpaca columns are read, over row groups and codecs', async (t) => {
  const chats = await collect([join(FIXTURES, 'messages.parquet')]);
  t.deepEqual(
    chats.map(({ line }) => line),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  );
  t.deepEqual(chats[9]!.messages, [
    { role: 'user', content: text('frage 9 é😀') },
    { role: 'assistant', content: text('antwort 9') },
  ]);
  const [first, second] = await collect([join(FIXTURES, 'alpaca.parquet')]);
  t.deepEqual([first!.messages[0]!.content, second!.messages[0]!.content], [text('one'), text('two\n\nInput:\nin')]);
  t.deepEqual((await collect([join(FIXTURES, 'conversations.parquet')]))[0]!.messages, [
    { role: 'system', content: 'S' },
    ...PAIR,
  ]);
});

test("the converter's empty image is no image", async (t) => {
  const content = [...text('u'), { type: 'image', image: null }];
  const path = writeTemporary(
    t,
    'a.jsonl',
    JSON.stringify({ messages: [{ role: 'user', content }, PAIR[1]], images: [], image: null }),
  );
  t.deepEqual((await collect([path]))[0]!.messages[0]!.content, text('u'));
});

const U = PAIR[0];
const A = PAIR[1];
const BAD_ROWS: readonly (readonly [row: unknown, message: RegExp, code?: ErrorCode])[] = [
  [7, /expected an object, got the number 7/],
  [[], /expected an object, got a list of 0/],
  [null, /expected an object, got null/],
  [{}, /no messages and no user text: expected "messages", or a non-blank string in one of instruction, prompt/],
  [{ instruction: ' ', output: 'x' }, /no user text/],
  [{ instruction: 'x', output: '\n' }, /no assistant text: .* output, response/],
  [{ messages: 'hi' }, /messages: expected a list of messages, got "hi"/],
  [{ messages: [] }, /messages: the list is empty/],
  [{ messages: ['hi'] }, /messages\[0\]: expected an object with role and content, got "hi"/],
  [{ messages: [U] }, /messages: no assistant turn/],
  [{ messages: [{ role: 'system', content: 's' }] }, /messages: no assistant turn/],
  [{ messages: [A] }, /messages\[0\]\.role: roles out of order: expected "system" or "user" first, got "assistant"/],
  [{ messages: [U, U] }, /messages\[1\]\.role: roles out of order: expected "assistant" after "user", got "user"/],
  [{ messages: [U, A, A] }, /messages\[2\]\.role: roles out of order: expected "user" after "assistant", got "assistant"/],
  [
    { messages: [U, A, { role: 'system', content: 's' }] },
    /messages\[2\]\.role: roles out of order: expected "user" after "assistant", got "system"/,
  ],
  [
    { messages: [{ role: 'system', content: 's' }, A] },
    /messages\[1\]\.role: roles out of order: expected "user" after "system"/,
  ],
  [
    { messages: [U, { role: 'tool', content: 't' }] },
    /messages\[1\]\.role: expected "system", "user" or "assistant", got "tool"/,
  ],
  [{ messages: [U, { role: 'constructor', content: 't' }] }, /got "constructor"/],
  [{ messages: [U, { content: 't' }] }, /messages\[1\]\.role: .* got nothing/],
  [
    {
      conversations: [
        { from: 'human', value: 'x' },
        { from: 'bing', value: 'y' },
      ],
    },
    /conversations\[1\]\.from: .* got "bing"/,
  ],
  [{ messages: [U, { role: 'assistant' }] }, /messages\[1\]\.content: expected a string or a list of items, got nothing/],
  [{ messages: [U, { role: 'assistant', content: null }] }, /got null/],
  [{ messages: [U, { role: 'assistant', content: ' \n' }] }, /messages\[1\]\.content: the assistant's text is missing or blank/],
  [{ messages: [{ role: 'user', content: [] }, A] }, /messages\[0\]\.content: the user's text is missing or blank/],
  [{ messages: [{ role: 'user', content: [5] }, A] }, /messages\[0\]\.content\[0\]: expected an item such as/],
  [
    { messages: [{ role: 'user', content: [{ type: 'text' }] }, A] },
    /messages\[0\]\.content\[0\]\.text: expected a string, got nothing/,
  ],
  [
    { messages: [{ role: 'user', content: [{ text: 'x' }] }, A] },
    /messages\[0\]\.content\[0\]\.type: expected "text", "image" or "video", got nothing/,
  ],
  [
    { messages: [{ role: 'user', content: 'half \ud83d' }, A] },
    /messages\[0\]\.content: the text holds half of a surrogate pair/,
  ],
  [{ messages: [U, { ...A, tool_calls: [{ function: { name: 'f' } }] }] }, /messages\[1\]\.tool_calls/, 'ERR_UNSUPPORTED'],
  [{ messages: PAIR, tools: [{ name: 'f' }] }, /: tools: tool definitions/, 'ERR_UNSUPPORTED'],
];

for (const [row, message, code = 'ERR_BAD_DATA'] of BAD_ROWS) {
  test(`the row ${JSON.stringify(row)} is refused with its place and field`, async (t) => {
    const good = JSON.stringify({ messages: PAIR });
    const lines = writeTemporary(t, 'a.jsonl', `${good}\n\n${JSON.stringify(row)}\n`);
    await throwsCode(t, () => collect([lines]), code, message);
    await throwsCode(t, () => collect([lines]), code, /a\.jsonl, line 3: /);
    const list = writeTemporary(t, 'a.json', `[${good},\n${JSON.stringify(row)}]`);
    await throwsCode(t, () => collect([list]), code, /a\.json, row 2 \(line 2\): /);
  });
}

const BAD_FILES: readonly (readonly [title: string, name: string, content: string | Uint8Array, message: RegExp])[] = [
  ['an empty file', 'a.jsonl', '', /the file is empty/],
  ['a file of blank lines', 'a.jsonl', '\n\n', /the file holds no rows/],
  ['an empty list', 'a.json', '[ ]', /the file holds no rows/],
  ['a file that is no Parquet', 'a.parquet', 'PAR1 but not really PAR1', /a\.parquet: not a Parquet file, or a broken one/],
  ['broken JSON', 'a.jsonl', '{"messages":[}', /line 1, column 14: expected a value, got "}"/],
];

for (const [title, name, content, message] of BAD_FILES) {
  test(`${title} is refused`, async (t) => {
    await throwsCode(t, () => collect([writeTemporary(t, name, content)]), 'ERR_BAD_DATA', message);
  });
}

test('no file and a missing file are refused', async (t) => {
  await throwsCode(t, () => collect([]), 'ERR_USAGE', /no dataset file/);
  await throwsCode(t, () => collect([join(temporaryFolder(t), 'none.parquet')]), 'ERR_NOT_FOUND', /none\.parquet: no such file/);
});

test('a Parquet file broken anywhere gives rows or an error with a code, never the end of the process', async (t) => {
  const bytes = readFileSync(join(FIXTURES, 'messages.parquet'));
  const path = join(temporaryFolder(t), 'a.parquet');
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 }),
      fc.option(fc.nat(bytes.length - 1), { freq: 8 }),
      async (wounds, cut) => {
        const broken = Buffer.from(bytes);
        for (const [at, byte] of wounds) broken[at] = byte;
        writeFileSync(path, cut === null ? broken : broken.subarray(0, Math.max(1, cut)));
        try {
          t.true((await collect([path])).length > 0);
        } catch (error) {
          t.true(error instanceof VltuneError, String(error));
        }
      },
    ),
    { numRuns: 60 },
  );
});
