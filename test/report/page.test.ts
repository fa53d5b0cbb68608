import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { html, trusted } from '../../lib/report/html.js';
import { writeReport } from '../../lib/report/report.js';
import { temporaryFolder } from '../train/support.js';
import { END, elementsOf, png, RUN, START, step, writeLog } from './support.js';

/** Ends an attribute, a text, a comment, a style and a title, and would run in each. */
const HOSTILE = `"'><script>document.title='x'</script><img src=//evil.test/x onerror="alert(1)">--></style></title>]]>&lt;\u0000\u202e`;

test('the tag escapes every value that is not HTML itself, and leaves out what is not there', (t) => {
  t.is(html`<p title="${`"'&<>`}">${HOSTILE.slice(0, 3)}</p>`.text, '<p title="&quot;&#39;&amp;&lt;&gt;">&quot;&#39;&gt;</p>');
  t.is(html`${false}${undefined}${0}${['a', html`<b>${'<'}</b>`, [trusted('<i>')]]}`.text, '0a<b>&lt;</b><i>');
  t.is(html`${'a\u0000b\u0007c\n'}`.text, 'a\ufffdb\ufffdc\n');
});

async function reported(folder: string): Promise<string> {
  await writeReport({ folder });
  return await readFile(join(folder, 'report.html'), 'utf8');
}

test('whatever text a run folder holds, the page has no element, attribute or address that it did not make itself', async (t) => {
  const folder = join(temporaryFolder(t), `run ${HOSTILE.replaceAll('/', '|').replaceAll('\0', '')}`);
  await writeLog(folder, [
    {
      ...START,
      model: HOSTILE,
      device: HOSTILE,
      version: HOSTILE,
      machine: HOSTILE,
      options: { [HOSTILE]: HOSTILE, lora_r: HOSTILE, dataset: [HOSTILE], seed: { [HOSTILE]: HOSTILE } },
    },
    ...RUN.slice(1),
  ]);
  const picture = `data:image/png;base64,${(await png(8, 8, 'red')).toString('base64')}`;
  const texts = { question: HOSTILE, alt: HOSTILE, group: HOSTILE, expected: HOSTILE, before: HOSTILE, after: HOSTILE };
  await writeFile(
    join(folder, 'questions.json'),
    JSON.stringify([
      { ...texts, image: picture, rightBefore: true, rightAfter: false },
      { ...texts, group: 'plain', rightBefore: true, rightAfter: true },
    ]),
  );
  const page = await reported(folder);
  const elements = elementsOf(page);
  const tags = new Set(elements.map(({ tag }) => tag));
  for (const tag of ['script', 'iframe', 'link', 'object', 'embed', 'form', 'base', 'use', 'image']) t.false(tags.has(tag), tag);
  t.is(elements.filter(({ tag }) => tag === 'img').length, 1);
  for (const { tag, attributes } of elements) {
    for (const [name, value] of attributes) {
      t.notRegex(name, /^on/i, tag);
      if (name === 'src') t.true(value.startsWith('data:image/png;base64,'), value.slice(0, 60));
      if (name === 'href') t.regex(value, /^#\w+$/);
      if (name === 'style' && tag === 'span') t.regex(value, /^width:\d+\.\d%$/);
    }
  }
  t.is([...page.matchAll(/<style>/g)].length, 1);
  t.notRegex(page, /url\(|@import|javascript:/);
  t.true(page.includes('default-src &#39;none&#39;'));
});

test('the page tells of loss, rate, norm, throughput, memory, options, model, data and machine', async (t) => {
  const folder = temporaryFolder(t);
  await writeLog(folder, RUN);
  const page = await reported(folder);
  elementsOf(page);
  for (const text of [
    'Fine-tuning of vltune-tiny',
    'finished',
    '30 November 2026, 02:00 UTC',
    '6 of 6',
    'training loss, from 4.00',
    '7.5 s',
    '19,000',
    '211 MB',
    '651,264',
    'rows.jsonl',
    'A processor, cpu',
    'Training loss. From 4 to 0.6667; least 0.6667 at update 6, greatest 4 at update 1. On the evaluation rows: 1.5 at update 3.',
    'Learning rate. From 8.33e-4 to 0;',
    'Gradient norm. From 1 to 0.1667;',
    'Throughput. From 20,001 to 20,006;',
    'Memory in use. From 200 MB to 200 MB;',
    'Every logged update',
  ])
    t.true(page.includes(text), text);
  t.regex(page, /<tr class="set"><th scope="row"><code>lora_r<\/code><\/th><td dir="auto">32</, 'not the default');
  t.regex(page, /<tr><th scope="row"><code>seed<\/code><\/th><td dir="auto">3407</, 'the default');
  t.notRegex(page, /NaN|undefined|Infinity|\[object/);
  t.false(page.includes('id="questions"'), 'nothing was asked');
  t.false(page.includes('id="checkpoints"'), 'nothing was saved');
  t.is(await reported(folder), page, 'the same folder gives the same bytes');
});

test('a run of several processes says how many', async (t) => {
  const folder = temporaryFolder(t);
  await writeLog(folder, [{ ...START, processes: 3 }, ...RUN.slice(1)]);
  t.regex(await reported(folder), /<th scope="row">processes<\/th>\s*<td[^>]*>3</);
  await writeLog(folder, [{ ...START, processes: 1 }, ...RUN.slice(1)]);
  t.notRegex(await reported(folder), /processes/);
});

test('a run that is not at its end says so, and one without an update has a page, too', async (t) => {
  const folder = temporaryFolder(t);
  await writeLog(folder, RUN.slice(0, 3));
  const page = await reported(folder);
  t.true(page.includes('not finished'));
  t.true(page.includes('2 of 6'));
  await writeLog(folder, [START]);
  const empty = await reported(folder);
  elementsOf(empty);
  t.true(empty.includes('No update has been logged yet.'));
});

test('a hundred thousand updates make a small page, which holds the greatest loss', async (t) => {
  t.timeout(60_000);
  const folder = temporaryFolder(t);
  const steps = Array.from({ length: 100_000 }, (_, i) => step(i + 1, { loss: i === 70_001 ? 9.5 : 2 + Math.sin(i) }));
  await writeLog(folder, [{ ...START, steps: 100_000 }, ...steps, END]);
  const { bytes } = await writeReport({ folder });
  t.true(bytes < 500_000, `${bytes}`);
  const page = await readFile(join(folder, 'report.html'), 'utf8');
  t.true(page.includes('greatest 9.5 at update 70,002'));
  t.true(page.includes('Every 500th logged update'));
});

test('checkpoints are listed, the newest first, with the size of their files', async (t) => {
  const folder = temporaryFolder(t);
  await writeLog(folder, RUN);
  for (const n of [5, 10]) {
    await mkdir(join(folder, `checkpoint-${n}`));
    await writeFile(join(folder, `checkpoint-${n}`, 'trainer_state.json'), JSON.stringify({ log_history: [] }));
    await writeFile(join(folder, `checkpoint-${n}`, 'weights'), Buffer.alloc(1000 * n));
  }
  await mkdir(join(folder, 'checkpoint-11'));
  const page = await reported(folder);
  t.regex(page, /checkpoint-10<\/code><\/th><td class="number">10<\/td><td class="number">10\.0 KB<[\s\S]*checkpoint-5</);
  t.false(page.includes('checkpoint-11'), 'an empty folder is no checkpoint');
});
