import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type PrepareOptions, prepareDataset } from '../../lib/data/prepare.js';
import { ChatTemplate } from '../../lib/data/template.js';
import type { TokenDataset } from '../../lib/data/token_dataset.js';
import { Tokenizer } from '../../lib/data/tokenizer.js';
import { IGNORE_INDEX } from '../../lib/ops/linear_cross_entropy.js';
import { TINY, temporaryFolder, throwsCode, writeTemporary } from './fixtures.js';

const tokenizer = await Tokenizer.load(TINY);
const template = await ChatTemplate.load(TINY, tokenizer);

function rows(count: number, answer = 'yes'): string {
  return Array.from({ length: count }, (_, i) => JSON.stringify({ instruction: `question ${i}`, output: `${answer} ${i}` })).join(
    '\n',
  );
}

async function prepare(t: ExecutionContext, content: string, options: Partial<PrepareOptions> = {}): Promise<TokenDataset> {
  const dataset = await prepareDataset([writeTemporary(t, 'a.jsonl', content)], { tokenizer, template, ...options });
  t.teardown(() => dataset.close());
  return dataset;
}

test("rows come back with their ids, and labels on the assistant's part alone", async (t) => {
  const dataset = await prepare(t, rows(600));
  t.is(dataset.size, 600);
  for (const row of [0, 255, 256, 599, 3]) {
    const { ids, targets } = dataset.read(row);
    t.is(
      await tokenizer.decode(ids, { skipSpecial: false }),
      `<|im_start|>user\nquestion ${row}<|im_end|>\n<|im_start|>assistant\nyes ${row}<|im_end|>\n`,
    );
    const learnt = targets.filter((label) => label !== IGNORE_INDEX);
    t.is(await tokenizer.decode(learnt, { skipSpecial: false }), `yes ${row}<|im_end|>`);
    for (const [i, label] of targets.entries()) t.true(label === IGNORE_INDEX || label === ids[i]);
    t.is(dataset.lengths[row], ids.length);
    t.is(dataset.targetCounts[row], learnt.length);
  }
  const sum = (list: Int32Array): number => list.reduce((a, b) => a + b, 0);
  t.like(dataset.stats, {
    rows: 600,
    tokens: sum(dataset.lengths),
    targetTokens: sum(dataset.targetCounts),
    truncated: 0,
    dropped: 0,
    skippedImages: 0,
  });
});

test("in the plain form all is learnt, with the eos token at the end or exactly the seed's tokens", async (t) => {
  const withEos = (await prepare(t, rows(1), { textFormat: 'plain', template: undefined })).read(0);
  const without = (await prepare(t, rows(1), { textFormat: 'plain', appendEos: false })).read(0);
  t.deepEqual([...without.ids], [...(await tokenizer.encode('USER: question 0\nASSISTANT: yes 0'))]);
  t.deepEqual([...withEos.ids], [...without.ids, tokenizer.eosId!]);
  t.deepEqual(withEos.targets, withEos.ids);
  const { targetCounts, lengths } = await prepare(t, rows(1), { textFormat: 'plain' });
  t.is(targetCounts[0], lengths[0]! - 1, "nothing predicts a row's first token");
});

test('rows longer than the maximum lose their end and are counted', async (t) => {
  const whole = await prepare(t, rows(3));
  const maxLength = whole.lengths[0]! - 3;
  const cut = await prepare(t, rows(3), { maxLength });
  t.like(cut.stats, { rows: 3, truncated: 3, dropped: 0, longest: Math.max(...whole.lengths) });
  t.deepEqual(cut.read(1).ids, whole.read(1).ids.slice(0, maxLength));
  t.deepEqual(cut.read(1).targets, whole.read(1).targets.slice(0, maxLength));
});

test('rows whose targets were cut off are dropped and counted', async (t) => {
  const content = `${rows(2)}\n${JSON.stringify({ instruction: 'long '.repeat(100), output: 'lost' })}`;
  const dataset = await prepare(t, content, { maxLength: 60 });
  t.like(dataset.stats, { rows: 2, dropped: 1, truncated: 0 });
});

test('a dataset with nothing to learn is refused', async (t) => {
  const folder = temporaryFolder(t);
  await throwsCode(
    t,
    () => prepare(t, rows(3), { maxLength: 4, cacheFolder: folder }),
    'ERR_BAD_DATA',
    /nothing to learn: none of 3 rows has a target within the first 4 tokens/,
  );
  const image = JSON.stringify({ instruction: 'i', output: 'o', image: 'x.png' });
  await throwsCode(
    t,
    () => prepare(t, image, { skipImages: true, cacheFolder: folder }),
    'ERR_BAD_DATA',
    /all 1 rows hold images/,
  );
  t.deepEqual(readdirSync(folder), []);
});

test('images are refused or skipped and counted', async (t) => {
  const content = `${rows(2)}\n${JSON.stringify({ instruction: 'i', output: 'o', image: 'x.png' })}\n`;
  await throwsCode(t, () => prepare(t, content), 'ERR_UNSUPPORTED', /line 3: image/);
  t.like((await prepare(t, content, { skipImages: true })).stats, { rows: 2, skippedImages: 1 });
});

test('a row that the template refuses is named by its place', async (t) => {
  const picky = new ChatTemplate(
    "{% if 'bad' in messages[0].content[0].text %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content[0].text }}{% if add_generation_prompt or messages|length > 1 %}>{% endif %}{% if messages|length > 1 %}{{ messages[1].content[0].text }}{% endif %}",
    tokenizer,
  );
  await throwsCode(
    t,
    () => prepare(t, `${rows(2)}\n${JSON.stringify({ instruction: 'bad', output: 'o' })}\n`, { template: picky }),
    'ERR_BAD_DATA',
    /a\.jsonl, line 3: the chat template refuses the messages: .*no/,
  );
});

test('the fingerprint is that of tokens and labels', async (t) => {
  const fingerprint = async (content: string, options: Partial<PrepareOptions> = {}): Promise<string> =>
    (await prepare(t, content, options)).fingerprint;
  const first = await fingerprint(rows(5));
  t.is(await fingerprint(rows(5)), first);
  t.is(await fingerprint(`\n${rows(5)}\n\n`, { maxLength: 1000 }), first, 'the same tokens from another text and other options');
  const others = [
    await fingerprint(rows(4)),
    await fingerprint(rows(5, 'no')),
    await fingerprint(rows(5), { assistantOnlyLoss: false }),
    await fingerprint(rows(5), { maxLength: 20 }),
  ];
  t.is(new Set([first, ...others]).size, 5);
});

test('tokens lie in no file that could be left behind, and a closed dataset reads no more', async (t) => {
  const folder = temporaryFolder(t);
  const dataset = await prepare(t, rows(5), { cacheFolder: folder });
  t.deepEqual(readdirSync(folder), []);
  t.is(dataset.read(4).ids.length, dataset.lengths[4]!);
  t.throws(() => dataset.read(5), { code: 'ERR_ARGUMENT' });
  t.throws(() => dataset.read(-1), { code: 'ERR_ARGUMENT' });
  dataset.close();
  dataset.close();
  t.throws(() => dataset.read(0), { code: 'ERR_ARGUMENT', message: /closed/ });
  await throwsCode(t, () => prepare(t, rows(1), { cacheFolder: join(folder, 'none') }), 'ERR_IO', /cannot be written/);
});

test('a full disk is an error of the file of tokens', async (t) => {
  const script = `
    import { prepareDataset } from '${new URL('../../lib/data/prepare.js', import.meta.url)}';
    import { Tokenizer } from '${new URL('../../lib/data/tokenizer.js', import.meta.url)}';
    const tokenizer = await Tokenizer.load(process.argv[1]);
    try { await prepareDataset([process.argv[2]], { tokenizer, textFormat: 'plain', cacheFolder: process.argv[3] }); console.log('done'); }
    catch (error) { console.log(error.code, error.message); }`;
  // A limit on the size of files stands in for a full disk: the write fails in the same place.
  const arguments_ = [TINY, writeTemporary(t, 'a.jsonl', rows(40_000)), temporaryFolder(t)]
    .map((argument) => `'${argument}'`)
    .join(' ');
  const output = execFileSync(
    'bash',
    ['-c', `trap '' XFSZ; ulimit -f 1000; exec '${process.execPath}' --input-type=module -e "$SCRIPT" ${arguments_}`],
    { env: { ...process.env, SCRIPT: script }, encoding: 'utf8' },
  );
  t.regex(output, /^ERR_IO the file of tokens cannot be written: /);
});

test('progress is reported, and an abort stops the work', async (t) => {
  const content = rows(20_000);
  const seen: number[] = [];
  const controller = new AbortController();
  await throwsCode(
    t,
    () =>
      prepare(t, content, {
        signal: controller.signal,
        onProgress: ({ rows: done, bytesRead, bytesTotal, file }) => {
          seen.push(done);
          t.true(bytesRead > 0 && bytesRead <= bytesTotal && file.endsWith('a.jsonl'));
          if (seen.length === 2) controller.abort();
        },
      }),
    'ERR_CANCELLED',
    /cancelled/,
  );
  t.is(seen.length, 2);
});

test('a maximum length that is no length is refused', async (t) => {
  for (const maxLength of [0, -1, 1.5, Number.NaN])
    await throwsCode(t, () => prepare(t, rows(1), { maxLength }), 'ERR_USAGE', /maxLength: expected a whole number/);
});
