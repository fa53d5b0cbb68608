/**
 * Drawn pictures with their questions and answers on one sheet, to look at: `node dist/scripts/tiny-model/contact_sheet.js sheet.png --side test`.
 */
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { VltuneError } from '../../lib/index.js';
import { askedPictures, png } from './pictures.js';
import { drawScene, SIDES, type Side } from './scenes.js';
import { SEED } from './settings.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    side: { type: 'string', default: 'train' },
    seed: { type: 'string', default: String(SEED) },
    count: { type: 'string', default: '48' },
  },
});
if (!SIDES.includes(values.side as Side))
  throw new VltuneError('ERR_USAGE', `--side: expected ${SIDES.join(', ')}, got ${values.side}`);

const COLUMNS = 6;
const [CELL_WIDTH, CELL_HEIGHT] = [310, 172];

const escapeText = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
const asked = [...askedPictures({ side: values.side as Side, seed: Number(values.seed), count: Number(values.count) })];
const cells = await Promise.all(
  asked.map(async ({ scene, questions }, i) => {
    const [left, top] = [(i % COLUMNS) * CELL_WIDTH + 8, Math.floor(i / COLUMNS) * CELL_HEIGHT + 4];
    const lines = questions.flatMap(({ question, answer }) => [question, answer]);
    const text = lines.map((line, n) => `<text x="0" y="${12 + 15 * n}">${escapeText(line)}</text>`).join('');
    const caption = `<svg xmlns="http://www.w3.org/2000/svg" width="${CELL_WIDTH - 10}" height="36" font-family="sans-serif" font-size="11.5">${text}</svg>`;
    return [
      { input: await png(drawScene(scene)), left, top },
      { input: Buffer.from(caption), left, top: top + 130 },
    ];
  }),
);
await sharp({
  create: {
    width: COLUMNS * CELL_WIDTH,
    height: Math.ceil(asked.length / COLUMNS) * CELL_HEIGHT,
    channels: 3,
    background: '#d8d8d8',
  },
})
  .composite(cells.flat())
  .png()
  .toFile(positionals[0] ?? 'contact-sheet.png');
