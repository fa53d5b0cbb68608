/**
 * Runs every case of `op_cases.ts` once on a GPU and leaves: what `npm run test:sanitizers` puts under compute-sanitizer. With `i/n` as its
 * argument, every n-th case from the i-th on. A case's name is written before it runs, so that a run which was stopped says where.
 */
import { addon } from '../../lib/native.js';
import { opCases, runCase } from './op_cases.js';

const { available, reason } = addon().cudaInfo();
if (!available) {
  process.stderr.write(`no GPU: ${reason}\n`);
  process.exit(2);
}
const [first, step] = (process.argv[2] ?? '0/1').split('/').map(Number) as [number, number];
const cases = opCases().filter((_, i) => i % step === first);
for (const c of cases) {
  process.stdout.write(`${c.name}\n`);
  runCase(c, 'cuda');
}
process.stdout.write(`${cases.length} cases ran\n`);
