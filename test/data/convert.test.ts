import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { alpacaTexts } from '../../lib/data/alpaca.js';
import { convert } from '../../lib/data/convert.js';
import type { TextItem } from '../../lib/data/message.js';
import { readRows } from '../../lib/data/read.js';
import { FIXTURES, readJson, temporaryFolder, throwsCode, writeTemporary } from './fixtures.js';

interface Case {
  readonly input: string;
  readonly args: readonly string[];
  readonly output: string;
  readonly stdout: string;
}

for (const { input, args, output, stdout } of readJson<Case[]>('convert/cases.json')) {
  test(`${input} ${args.join(' ')} converts to the seed's bytes`, async (t) => {
    const after = (flag: string): string | undefined => (args.includes(flag) ? args[args.indexOf(flag) + 1] : undefined);
    const path = join(temporaryFolder(t), 'out');
    const result = await convert({
      input: join(FIXTURES, 'convert', input),
      output: path,
      format: after('-f') as 'jsonl' | 'json' | undefined,
      systemInstruction: after('-s'),
      forceEmptyImage: args.includes('--force-empty-image'),
      preview: Number(after('-p') ?? 0),
    });
    t.is(readFileSync(path, 'utf8'), readFileSync(join(FIXTURES, 'convert', output), 'utf8'));
    const preview = `\n--- Preview first ${result.preview.length} converted examples ---\n${result.preview.map((text) => `${text}\n---\n`).join('')}`;
    t.is(
      `${result.preview.length > 0 ? preview : ''}Converted ${result.rows} items -> OUTPUT (format=${result.format})\n`,
      stdout,
    );
    t.deepEqual(readdirSync(dirname(path)), ['out'], 'nothing is left beside the output');
  });
}

const BAD_INPUTS: readonly (readonly [title: string, name: string, content: string | Uint8Array, message: RegExp])[] = [
  ['an empty file', 'a.jsonl', '', /a\.jsonl: the file is empty/],
  ['an empty document', 'a.json', '', /a\.json: the file is empty/],
  ['blank lines alone', 'a.jsonl', '\n \n', /a\.jsonl: no items found/],
  ['blanks alone in a document', 'a.json', ' \n ', /nothing but blanks/],
  ['an empty list', 'a.json', '[]', /no items found/],
  ['an empty object', 'a.json', '{}', /no items found/],
  ['an empty list under data', 'a.json', '{"data":[]}', /no items found/],
  [
    'broken JSON in a line',
    'a.jsonl',
    '{"instruction":"x"}\n\n{"instruction": x}\n',
    /a\.jsonl, line 3, column 17: expected a value, got "x"/,
  ],
  ['a cut line', 'a.jsonl', '{"instruction":"日本', /a\.jsonl, line 1, column 16: a string that is never closed/],
  ['two values in a line', 'a.jsonl', '{} {}', /line 1, column 4: unexpected "{"/],
  ['JSON Lines named .json', 'a.json', '{"instruction":"a"}\n{"instruction":"b"}\n', /line 2, column 1: .*name it \.jsonl/],
  ['a cut list', 'a.json', '[{"a":1},\n {"b":2}', /line 2, column 9: expected "," or "\]", got the end of the file/],
  ['a cut object in a list', 'a.json', '[{"a":1},\n {"b":', /the file ends inside an array or object/],
  ['a cut string in a list', 'a.json', '[{"a":"x', /the file ends inside a string/],
  ['a missing comma', 'a.json', '[{"a":1}\n{"b":2}]', /line 2, column 1: expected "," or "\]"/],
  ['a trailing comma', 'a.json', '[{"a":1},]', /column 10: expected a value, got "\]"/],
  ['broken JSON in a list', 'a.json', '[\n {"a": tru}\n]', /line 2, column 8: expected a value, got "t"/],
  ['text after a list', 'a.json', '[{"a":1}] x', /column 11: unexpected text/],
  ['a key without quotes', 'a.json', '{a:1}', /column 2: expected a key/],
  ['a key without a colon', 'a.json', '{"a" 1}', /expected ":"/],
  [
    'a row that is a number',
    'a.jsonl',
    '{"instruction":"x"}\n5\n',
    /a\.jsonl, line 2: expected an object with Alpaca fields, got a number/,
  ],
  [
    'a row that is a list',
    'a.json',
    '[{"instruction":"x"},[1]]',
    /a\.json, row 2 \(line 1\): expected an object with Alpaca fields, got a list/,
  ],
  ['a row that is null', 'a.json', '[null]', /row 1 \(line 1\): .* got null/],
  ['a document that is a string', 'a.json', '"text"', /expected a list or an object/],
  [
    'invalid UTF-8 in a line (and U+FFFD itself in another)',
    'a.jsonl',
    Buffer.concat([Buffer.from('{"instruction":"ok \ufffd"}\n{"\ufffd":"'), Buffer.from([0xff]), Buffer.from('"}\n')]),
    /a\.jsonl, line 2, column 7: invalid UTF-8/,
  ],
  [
    'invalid UTF-8 in a list',
    'a.json',
    Buffer.concat([Buffer.from('[{"a":"é'), Buffer.from([0xc3, 0x28]), Buffer.from('"}]')]),
    /line 1, column 9: invalid UTF-8/,
  ],
  ['UTF-16', 'a.jsonl', Buffer.from('\ufeff{"a":1}', 'utf16le'), /UTF-16; expected UTF-8/],
  ['deep nesting in a line', 'a.jsonl', `{"a":${'['.repeat(100_000)}`, /line 1, column 517: nested deeper than 512/],
  ['deep nesting in a list', 'a.json', `[${'{"a":'.repeat(100_000)}`, /nested deeper than 512/],
];

for (const [title, name, content, message] of BAD_INPUTS) {
  test(`${title} is refused and leaves no output`, async (t) => {
    const input = writeTemporary(t, name, content);
    const output = join(temporaryFolder(t), 'out.jsonl');
    await throwsCode(t, () => convert({ input, output }), 'ERR_BAD_DATA', message);
    t.deepEqual(readdirSync(dirname(output)), []);
  });
}

test('an error leaves an older output as it was', async (t) => {
  const output = writeTemporary(t, 'out.jsonl', 'older');
  const input = writeTemporary(t, 'a.jsonl', '{"instruction":"x"}\n{');
  await throwsCode(t, () => convert({ input, output }), 'ERR_BAD_DATA', /line 2/);
  t.is(readFileSync(output, 'utf8'), 'older');
  t.deepEqual(readdirSync(dirname(output)), ['out.jsonl']);
});

test('missing and wrong files are told apart', async (t) => {
  const folder = temporaryFolder(t);
  const input = writeTemporary(t, 'a.jsonl', '{"instruction":"x"}\n');
  const output = join(folder, 'out');
  await throwsCode(t, () => convert({ input: join(folder, 'none.json'), output }), 'ERR_NOT_FOUND', /none\.json: no such file/);
  await throwsCode(t, () => convert({ input: folder, output }), 'ERR_BAD_DATA', /expected a file, got a folder/);
  await throwsCode(t, () => convert({ input, output: folder }), 'ERR_USAGE', /expected a file to write, got a folder/);
  await throwsCode(t, () => convert({ input, output: join(folder, 'no', 'out') }), 'ERR_NOT_FOUND', /its folder does not exist/);
  await throwsCode(
    t,
    () => convert({ input, output, format: 'csv' as 'json' }),
    'ERR_USAGE',
    /format: expected jsonl or json, got "csv"/,
  );
});

test('the output may be the input', async (t) => {
  const path = writeTemporary(t, 'a.json', '[{"instruction":"x","output":"y"}]');
  await convert({ input: path, output: path });
  t.regex(readFileSync(path, 'utf8'), /^\{"messages": /);
});

test('a link stays a link, and its target is written', async (t) => {
  const target = writeTemporary(t, 'target', '');
  const link = join(dirname(target), 'link');
  symlinkSync(target, link);
  await convert({ input: writeTemporary(t, 'a.jsonl', '{"instruction":"x"}'), output: link });
  t.true(lstatSync(link).isSymbolicLink());
  t.true(statSync(target).size > 0);
});

test('a device is written straight, not replaced', async (t) => {
  await convert({ input: writeTemporary(t, 'a.jsonl', '{"instruction":"x"}'), output: '/dev/null' });
  t.true(statSync('/dev/null').isCharacterDevice());
});

test('a byte order mark, CRLF, CR and a missing last line end are taken as they come', async (t) => {
  const row = (text: string): string => `{"instruction":"${text}","output":"o"}`;
  const expected = ['a', 'b', 'c']
    .map(
      (user) =>
        `{"messages": [{"role": "user", "content": [{"type": "text", "text": "${user}"}]}, {"role": "assistant", "content": [{"type": "text", "text": "o"}]}]}\n`,
    )
    .join('');
  for (const [name, content] of [
    ['a.jsonl', `\ufeff${row('a')}\r\n\r\n${row('b')}\r\n${row('c')}`],
    ['a.jsonl', `${row('a')}\r${row('b')}\r\r${row('c')}\r`],
    ['a.jsonl', `${row('a')}\r${row('b')}\n\u00a0${row('c')}\u2003\n`],
    ['a.json', `\ufeff [\r\n${row('a')} ,${row('b')}\r\n,\t${row('c')} ]\r\n`],
    ['a.json', `\ufeff{"x":{"y":["]}"]},"data":[${row('a')},${row('b')},${row('c')}]}`],
  ] as const) {
    const output = join(temporaryFolder(t), 'out');
    await convert({ input: writeTemporary(t, name, content), output });
    t.is(readFileSync(output, 'utf8'), expected, JSON.stringify(content));
  }
});

test('a line of 100 MB is converted', async (t) => {
  const text = 'x'.repeat(100_000_000);
  const input = writeTemporary(
    t,
    'a.jsonl',
    `{"instruction":"short","output":"a"}\n{"instruction":"long","output":"${text}"}\n{"instruction":"after","output":"b"}\n`,
  );
  const output = join(dirname(input), 'out');
  t.is((await convert({ input, output })).rows, 3);
  t.is(
    statSync(output).size,
    100_000_000 +
      3 *
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}, {"role": "assistant", "content": [{"type": "text", "text": ""}]}]}\n'
          .length +
      'shortalongafterb'.length,
  );
});

test('records cut by block borders come out whole, in lists, objects and lines', async (t) => {
  // Lengths around the block of 256 KiB, with escapes and characters of several bytes at the border.
  const rows = Array.from({ length: 40 }, (_, i) => ({
    instruction: `${'é\\"\n'.repeat(8000 + i * 7)}${i}`,
    output: '😀'.repeat(i * 911 + 1),
  }));
  const folder = temporaryFolder(t);
  const forms = {
    'list.json': JSON.stringify(rows, null, 1),
    'object.json': JSON.stringify(Object.fromEntries(rows.map((row, i) => [`k${i}`, row]))),
    'data.json': `{"before":${JSON.stringify(rows.slice(0, 3))},"data":${JSON.stringify(rows)}}`,
    'lines.jsonl': rows.map((row) => JSON.stringify(row)).join('\r\n'),
  };
  const outputs = [];
  for (const [name, text] of Object.entries(forms)) {
    writeFileSync(join(folder, name), text);
    const output = join(folder, `${name}.out`);
    t.is((await convert({ input: join(folder, name), output })).rows, 40);
    outputs.push(readFileSync(output, 'utf8'));
  }
  t.is(outputs[0]!.split('\n').length, 41);
  for (const output of outputs) t.true(output === outputs[0]);
  t.deepEqual(
    outputs[0]!
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).messages[1].content[0].text as string),
    rows.map((row) => row.output),
  );
});

test('what is converted reads back as the texts of the rows', async (t) => {
  const folder = temporaryFolder(t);
  const word = fc.string({ unit: 'grapheme', minLength: 1 }).map((text) => `x${text}`);
  const row = fc.record({
    instruction: word,
    input: fc.option(fc.string({ unit: 'grapheme' }), { nil: undefined }),
    output: word,
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(row, { minLength: 1, maxLength: 20 }),
      fc.constantFrom('jsonl' as const, 'json' as const),
      async (rows, format) => {
        const input = join(folder, 'in.json');
        const output = join(folder, `out.${format}`);
        writeFileSync(input, JSON.stringify(rows));
        await convert({ input, output, format });
        const texts = [];
        for await (const { messages } of readRows([output]))
          texts.push(messages.map(({ content }) => (content as TextItem[])[0]!.text));
        t.deepEqual(
          texts,
          rows.map((value) => [alpacaTexts(value).user, alpacaTexts(value).assistant]),
        );
      },
    ),
    { numRuns: 50 },
  );
});

test('progress is reported and an abort stops the work with nothing left', async (t) => {
  const folder = temporaryFolder(t);
  const input = writeTemporary(t, 'a.jsonl', `${JSON.stringify({ instruction: 'x'.repeat(1000), output: 'y' })}\n`.repeat(2000));
  const controller = new AbortController();
  const seen: number[] = [];
  const output = join(folder, 'out');
  await throwsCode(
    t,
    () =>
      convert({
        input,
        output,
        signal: controller.signal,
        onProgress: ({ rows, bytesRead, bytesTotal }) => {
          seen.push(rows);
          t.true(bytesRead > 0 && bytesRead <= bytesTotal);
          if (seen.length === 2) controller.abort();
        },
      }),
    'ERR_CANCELLED',
    /cancelled/,
  );
  t.is(seen.length, 2);
  t.false(existsSync(output));
  t.deepEqual(readdirSync(folder), []);
});

test('a full disk is an error of the output, and leaves nothing', async (t) => {
  const input = writeTemporary(t, 'a.jsonl', `${JSON.stringify({ instruction: 'x'.repeat(1000), output: 'y' })}\n`.repeat(4000));
  const folder = temporaryFolder(t);
  const script = `
    import { convert } from '${new URL('../../lib/data/convert.js', import.meta.url)}';
    try { await convert({ input: process.argv[1], output: process.argv[2] }); console.log('done'); }
    catch (error) { console.log(error.code, error.message); }`;
  // A limit on the size of files stands in for a full disk: the write fails in the same place.
  const command = `trap '' XFSZ; ulimit -f 1000; exec '${process.execPath}' --input-type=module -e "$SCRIPT" '${input}' '${join(folder, 'out')}'`;
  const output = execFileSync('bash', ['-c', command], { env: { ...process.env, SCRIPT: script }, encoding: 'utf8' });
  t.regex(output, /^ERR_IO cannot write .*out: /);
  t.deepEqual(readdirSync(folder), []);
});
