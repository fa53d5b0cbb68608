/** The report as a browser shows it. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { writeReport } from '../../lib/report/report.js';
import { temporaryFolder } from '../train/support.js';
import { CHROMIUM, Page } from './chromium.js';
import { png, RUN, writeLog } from './support.js';

const browserTest = ((name: string, run: (t: ExecutionContext) => Promise<void>) =>
  CHROMIUM === undefined
    ? (anyTest as TestFn).skip(`${name} (skipped: no Chromium in PATH, and VLTUNE_CHROMIUM names none)`, run)
    : (anyTest as TestFn).serial(name, async (t) => {
        t.timeout(120_000);
        await run(t);
      })) as (name: string, run: (t: ExecutionContext) => Promise<void>) => void;

const SCRIPT = '<script>document.title = "hacked"</script><img src="x" onerror="document.title = \'hacked\'">';

async function openReport(t: ExecutionContext): Promise<Page> {
  const folder = temporaryFolder(t);
  await writeLog(folder, RUN);
  const image = `data:image/png;base64,${(await png(64, 48, 'red')).toString('base64')}`;
  const judged = { expected: 'red', before: SCRIPT, after: 'red', group: 'colour', rightBefore: false, rightAfter: true };
  const questions = [
    { question: 'What colour is it?', image, alt: 'all red', ...judged },
    ...Array.from({ length: 14 }, (_, i) => ({ question: `Long${'word'.repeat(30)} ${SCRIPT} ${i}`, ...judged, group: 'text' })),
  ];
  await writeFile(join(folder, 'questions.json'), JSON.stringify(questions));
  await writeReport({ folder });
  return await Page.open(t, join(folder, 'report.html'));
}

browserTest('the page loads nothing but itself, runs nothing, and the browser has nothing to complain of', async (t) => {
  const page = await openReport(t);
  t.is(await page.evaluate('document.title'), 'Fine-tuning of vltune-tiny');
  t.is(await page.evaluate('document.compatMode'), 'CSS1Compat');
  const urls = page.events
    .filter(({ method }) => method === 'Network.requestWillBeSent')
    .map(({ params }) => (params!.request as { url: string }).url);
  t.deepEqual(
    urls.filter((url) => !url.startsWith('data:')).map((url) => url.replace(/.*\//, '')),
    ['report.html'],
  );
  const complaints = page.events.filter(({ method }) => method === 'Log.entryAdded' || method === 'Runtime.exceptionThrown');
  t.deepEqual(complaints, []);
  t.deepEqual(await page.evaluate('[...document.images].map((image) => [image.naturalWidth, image.naturalHeight])'), [[64, 48]]);
});

browserTest('it is light or dark as the reader has it, letters on their ground have a contrast of 4.5 and more', async (t) => {
  const page = await openReport(t);
  // WCAG 2's contrast of every text with the first ground behind it that is not transparent; the texts of charts are filled.
  const contrasts = `(() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
      const color = rgb(getComputedStyle(element).backgroundColor);
      return color[3] === 0 ? ground(element.parentElement) : color;
    };
    document.querySelectorAll('details').forEach((details) => { details.open = true; });
    const found = [];
    for (const element of document.querySelectorAll('body *')) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
      if (!own || !element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const ink = luminance(rgb(element.namespaceURI.endsWith('svg') ? style.fill : style.color));
      const behind = luminance(ground(element));
      found.push([(Math.max(ink, behind) + 0.05) / (Math.min(ink, behind) + 0.05), element.outerHTML.slice(0, 80)]);
    }
    return found;
  })()`;
  const grounds: number[] = [];
  for (const scheme of ['light', 'dark'] as const) {
    await page.show(1200, scheme);
    const found = await page.evaluate<[number, string][]>(contrasts);
    t.true(found.length > 150, `${found.length}`);
    t.true(
      found.some(([, text]) => text.startsWith('<text')),
      'of charts, too',
    );
    for (const [contrast, text] of found) t.true(contrast >= 4.5, `${scheme}: ${contrast.toFixed(2)} ${text}`);
    grounds.push(Number(/\d+/.exec(await page.evaluate('getComputedStyle(document.body).backgroundColor'))![0]));
  }
  t.true(grounds[0]! > 200 && grounds[1]! < 50, `${grounds}`);
});

browserTest('no width from a telephone up makes the page scroll sideways, and letters of charts stay readable', async (t) => {
  const page = await openReport(t);
  for (const width of [320, 375, 600, 704, 705, 900, 1400]) {
    await page.show(width, 'light');
    t.is(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth'), 0, `${width}`);
    const least = await page.evaluate<number>(
      "Math.min(...[...document.querySelectorAll('svg text')].filter((text) => text.checkVisibility()).map((text) => parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)))",
    );
    t.true(least >= (width < 350 ? 6.8 : 7.8), `${width}: ${least}`);
  }
});

browserTest(
  'who does not see it is told of sections, charts, pictures and the cells of tables, on a telephone, too',
  async (t) => {
    const page = await openReport(t);
    for (const width of [1200, 375]) {
      await page.show(width, 'light');
      const { nodes } = await page.send('Accessibility.getFullAXTree');
      const named = (role: string): string[] =>
        (nodes as { role?: { value: string }; name?: { value: string }; ignored: boolean }[])
          .filter((node) => !node.ignored && node.role?.value === role)
          .map((node) => node.name?.value ?? '');
      for (const heading of ['Fine-tuning of vltune-tiny', 'How it went', 'Training loss', 'Options'])
        t.true(named('heading').includes(heading), heading);
      const pictures = named('image');
      t.is(pictures.length, 6, 'five charts, of the loss one of its two, and one picture');
      t.true(pictures.includes('all red'));
      t.true(pictures.every((name) => name.length > 5));
      t.true(named('columnheader').includes('before'), `${width}`);
      t.true(named('rowheader').includes('colour'));
      t.true(
        named('cell').some((name) => name.endsWith('red ✓ right')),
        `${width}`,
      );
      t.deepEqual(named('graphics-object'), [], 'charts are told as a whole');
      t.deepEqual(named('navigation'), ['Sections']);
      t.is(named('main').length, 1);
    }
  },
);
