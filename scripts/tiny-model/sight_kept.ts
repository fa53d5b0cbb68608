/**
 * `node dist/scripts/tiny-model/sight_kept.js ADAPTER`: what the shipped model sees without an adapter and with it, of pictures that neither was
 * chosen by.
 */
import { join } from 'node:path';
import { Generator } from '../../lib/index.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { look } from './measure_sight.js';
import { PLAIN_FORMS } from './picture_questions.js';

const MODEL = join(PACKAGE_ROOT, 'models', 'vltune-tiny');
/** Another one once something has been chosen by it. */
const SEED = 2027;

const [adapter] = process.argv.slice(2);
if (adapter === undefined) {
  process.stderr.write('sight_kept: expected the folder of an adapter\n');
  process.exit(2);
}
for (const worn of [undefined, adapter]) {
  const model = await Generator.load(MODEL, { device: 'cpu', loadIn4bit: true, ...(worn && { adapter: worn }) });
  const { score } = await look(model, { side: 'validation', seed: SEED, count: 400, forms: PLAIN_FORMS });
  model.release();
  const figures = Object.entries(score).map(([category, { right, asked }]) => `${category} ${right} of ${asked}`);
  process.stdout.write(`${worn ?? 'no adapter'}: ${figures.join(', ')}\n`);
}
