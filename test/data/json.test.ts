import test from 'ava';
import fc from 'fast-check';
import { JsonSyntaxError, MAX_DEPTH, parseExact, plainValue, pythonDump } from '../../lib/data/json.js';
import { readJson } from './fixtures.js';

test("numbers are printed as Python's json module prints them", (t) => {
  for (const [spelling, printed] of Object.entries(readJson<Record<string, string>>('numbers.json'))) {
    t.is(pythonDump(parseExact(spelling)), printed, spelling);
  }
});

test('the exact parser reads what JSON.parse reads', (t) => {
  fc.assert(
    fc.property(fc.json(), fc.nat(3), (text, spaces) => {
      const padded = `${' '.repeat(spaces)}${JSON.stringify(JSON.parse(text), null, spaces)}\n`;
      t.deepEqual(plainValue(parseExact(padded)), JSON.parse(padded));
    }),
  );
});

test('a dump reads back as the same value, with and without indent', (t) => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(undefined, 2), (value, indent) => {
      const exact = parseExact(JSON.stringify(value));
      t.deepEqual(JSON.parse(pythonDump(exact, indent)), JSON.parse(JSON.stringify(value)));
    }),
  );
});

test('keys keep their order, and the last of two equal ones counts', (t) => {
  t.is(pythonDump(parseExact('{"10":1,"9":2,"a":3,"9":4}')), '{"10": 1, "9": 4, "a": 3}');
});

const MISTAKES: readonly (readonly [text: string, offset: number, message: RegExp])[] = [
  ['', 0, /expected a value, got end of text/],
  ['{"a":1', 6, /expected "," or "}"/],
  ['{"a" 1}', 5, /expected ":"/],
  ['{a:1}', 1, /expected a key in double quotes, got "a"/],
  ['{"a":1,}', 7, /expected a key/],
  ['[1,]', 3, /expected a value, got "]"/],
  ['[1 2]', 3, /expected "," or "]"/],
  ['[1] x', 4, /unexpected "x" after/],
  ['"abc', 0, /never closed/],
  ['"a\nb"', 2, /control character/],
  ['"\\x"', 1, /wrong escape/],
  ['"\\u12g4"', 1, /wrong escape/],
  ['01', 1, /unexpected "1"/],
  ['+1', 0, /expected a value/],
  ['.5', 0, /expected a value/],
  ['nul', 0, /expected a value/],
  ['{"a":😀}', 5, /got "😀"/],
];

for (const [text, offset, message] of MISTAKES) {
  test(`the mistake in ${JSON.stringify(text)} is found at its place`, (t) => {
    const error = t.throws(() => parseExact(text), { instanceOf: JsonSyntaxError });
    t.is(error?.offset, offset);
    t.regex(error?.message ?? '', message);
  });
}

test('nesting is bounded without a stack overflow', (t) => {
  t.notThrows(() => parseExact('['.repeat(MAX_DEPTH) + ']'.repeat(MAX_DEPTH)));
  const error = t.throws(() => parseExact('['.repeat(1_000_000)), { instanceOf: JsonSyntaxError });
  t.is(error?.offset, MAX_DEPTH);
});
