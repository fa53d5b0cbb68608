import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { type RawRecord, readRecords } from '../../lib/data/records.js';
import { VltuneError } from '../../lib/errors.js';
import { temporaryFolder, writeTemporary } from './fixtures.js';

async function collect(path: string): Promise<RawRecord[]> {
  const records: RawRecord[] = [];
  for await (const batch of readRecords(path)) records.push(...batch);
  return records;
}

/** JSON texts, most of them broken in one or two places. */
const wounded: fc.Arbitrary<string> = fc
  .tuple(
    fc.array(fc.jsonValue({ maxDepth: 3 }), { maxLength: 4 }),
    fc.constantFrom(undefined, 1),
    fc.array(
      fc.tuple(
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.constantFrom('', '{', '}', '[', ']', '"', ',', ':', '\\', '1', '-', 'e', ' ', '\n', 't', '\u0001', 'é'),
        fc.nat(2),
      ),
      { maxLength: 2 },
    ),
  )
  .map(([list, indent, wounds]) => {
    let text = JSON.stringify(list, null, indent);
    for (const [where, insert, drop] of wounds) {
      const at = Math.floor(where * text.length);
      text = text.slice(0, at) + insert + text.slice(at + drop);
    }
    return text;
  });

test('a list is read exactly if JSON.parse reads it, to the same values', async (t) => {
  const path = join(temporaryFolder(t), 'a.json');
  await fc.assert(
    fc.asyncProperty(wounded, async (text) => {
      writeFileSync(path, text);
      let expected: unknown;
      try {
        expected = JSON.parse(text);
      } catch {
        const error = await t.throwsAsync(() => collect(path), { instanceOf: VltuneError }, text);
        t.is(error?.code, 'ERR_BAD_DATA');
        return;
      }
      if (!Array.isArray(expected)) return; // a wound made something else of it
      const records = await collect(path);
      t.deepEqual(
        records.map(({ value }) => value),
        expected,
        text,
      );
      for (const { text: source, value, line } of records) {
        t.deepEqual(JSON.parse(source), value);
        t.true(
          text
            .split('\n')
            .slice(line - 1)
            .join('\n')
            .includes(source),
          'the record starts on its line',
        );
      }
    }),
    { numRuns: 1000 },
  );
});

test('lines are read exactly if JSON.parse reads each', async (t) => {
  const path = join(temporaryFolder(t), 'a.jsonl');
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof(
          fc.json({ maxDepth: 2 }),
          wounded.map((text) => text.replaceAll('\n', ' ')),
          fc.constant(''),
        ),
        { minLength: 1, maxLength: 6 },
      ),
      async (lines) => {
        if (lines.every((line) => line.trim() === '')) return;
        writeFileSync(path, lines.join('\n'));
        const values: unknown[] = [];
        const numbers: number[] = [];
        for (const [i, line] of lines.entries()) {
          if (line.trim() === '') continue;
          try {
            values.push(JSON.parse(line));
            numbers.push(i + 1);
          } catch {
            const error = await t.throwsAsync(() => collect(path), { instanceOf: VltuneError });
            t.true(error?.message.startsWith(`${path}, line ${i + 1}, column `), error?.message);
            return;
          }
        }
        const records = await collect(path);
        t.deepEqual(
          records.map(({ value }) => value),
          values,
        );
        t.deepEqual(
          records.map(({ line }) => line),
          numbers,
        );
        t.deepEqual(
          records.map(({ row }) => row),
          [...values.keys()].map((row) => row + 1),
        );
      },
    ),
    { numRuns: 300 },
  );
});

test('a reader that stops early closes the file', async (t) => {
  const path = writeTemporary(t, 'a.jsonl', '{"a":1}\n'.repeat(200_000));
  // More than the usual limit of open files, were they left open.
  for (let i = 0; i < 50; i++) {
    for await (const batch of readRecords(path)) {
      t.true(batch.length > 0);
      break;
    }
  }
  const { readdirSync, readlinkSync } = await import('node:fs');
  const open = readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === path;
    } catch {
      return false;
    }
  });
  t.deepEqual(open, []);
});

test('a one-megabyte value under another key is stepped over', async (t) => {
  const path = writeTemporary(
    t,
    'a.json',
    `{"blob":"${'x'.repeat(1_000_000)}\\"","list":${JSON.stringify(Array.from({ length: 50_000 }, (_, i) => ({ i })))},\n"items":[{"a":1}]}`,
  );
  t.deepEqual(
    (await collect(path)).map(({ value, line }) => [value, line]),
    [[{ a: 1 }, 2]],
  );
});
