/** `node dist/scripts/tiny-model/sight_kept.js ADAPTER`: what the shipped model sees without an adapter and with it, of pictures that neither is chosen by. */
import { join } from 'node:path';
import { Generator } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { look } from './measure_sight.js';
import { PLAIN_FORMS } from './picture_questions.js';

const MODEL = join(PACKAGE_ROOT, 'models', 'vltune-tiny');

for (const adapter of [undefined, process.argv[2]]) {
  const model = await Generator.load(MODEL, { device: 'cpu', loadIn4bit: true, ...(adapter && { adapter }) });
  const { score } = await look(model, { side: 'validation', seed: 12, count: 400, forms: PLAIN_FORMS });
  model.release();
  const figures = Object.entries(score).map(([category, { right, asked }]) => `${category} ${right} of ${asked}`);
  process.stdout.write(`${adapter ?? 'no adapter'}: ${figures.join(', ')}\n`);
}
