import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { readRows } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';

interface AlpacaRow {
  readonly instruction: string;
  readonly input: string;
  readonly output: string;
}

const FILE = join(PACKAGE_ROOT, 'examples/data/identity.json');
const rows = JSON.parse(readFileSync(FILE, 'utf8')) as AlpacaRow[];
const questions = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'examples/data/questions.json'), 'utf8')) as string[];

test('every row has an instruction, an input that may be empty, and an output, all trimmed and in NFC', (t) => {
  t.true(rows.length >= 300 && rows.length <= 500);
  for (const row of rows) {
    t.deepEqual(Object.keys(row), ['instruction', 'input', 'output']);
    t.not(row.instruction, '');
    t.not(row.output, '');
    for (const text of Object.values(row)) t.is(text, text.trim().normalize('NFC'));
  }
});

test('no question is asked twice', (t) => {
  const asked = rows.map(({ instruction, input }) => `${instruction}\n${input}`);
  t.deepEqual(
    asked.filter((text, i) => asked.indexOf(text) !== i),
    [],
  );
});

test('the identity is told in ten languages', (t) => {
  const sentences = [
    'I am Ada of vltune.',
    'Ich bin Ada von vltune.',
    'Je suis Ada de vltune.',
    'Soy Ada de vltune.',
    'Sono Ada di vltune.',
    'Sou a Ada da vltune.',
    'Ik ben Ada van vltune.',
    'Jag är Ada från vltune.',
    'Jestem Ada z vltune.',
    '私はvltuneのエイダです。',
  ];
  const outputs = new Set(rows.map(({ output }) => output));
  for (const sentence of sentences) t.true(outputs.has(sentence), sentence);
});

test('training reads the file as it is', async (t) => {
  let read = 0;
  for await (const row of readRows([FILE])) {
    t.deepEqual(
      row.messages.map(({ role }) => role),
      ['user', 'assistant'],
    );
    read++;
  }
  t.is(read, rows.length);
});

test('of the five questions at least three are in no row', (t) => {
  t.is(new Set(questions).size, 5);
  const asked = new Set(rows.map(({ instruction }) => instruction));
  t.true(questions.filter((question) => !asked.has(question)).length >= 3);
});
